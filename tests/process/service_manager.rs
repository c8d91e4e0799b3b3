//! What a service manager is told: `Type=notify` and `WatchdogSec=` of systemd.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cli::{run, sidecar};
use crate::support::model_dir;

/// The words that come next.
fn next(socket: &UnixDatagram) -> Option<String> {
    let mut room = [0; 1024];
    let length = socket.recv(&mut room).ok()?;
    Some(String::from_utf8_lossy(&room[..length]).trim_end().to_owned())
}

#[test]
fn the_service_manager_is_told_when_the_server_is_ready_and_when_it_stops() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let address =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("address").to_string();
    let model = model_dir();
    let mut command = sidecar(&["--model", model.to_str().expect("a path"), "--listen", &address]);
    let spawned = Instant::now();
    let mut server = command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "400000")
        .stdin(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let started = Instant::now();
    // It is alive while it loads, and ready once it can embed.
    let mut before = Vec::new();
    loop {
        let word = next(&socket).expect("READY=1 within a minute");
        if word == "READY=1" {
            break;
        }
        before.push(word);
    }
    println!("READY=1 after {:.2} s, and {} words before", started.elapsed().as_secs_f64(), before.len());
    assert!(before.iter().all(|word| word == "WATCHDOG=1") && !before.is_empty(), "{before:?}");
    assert!(run(&mut sidecar(&["healthcheck", "--listen", &address])).status.success());
    let started = Instant::now();
    for _ in 0..3 {
        assert_eq!(next(&socket).as_deref(), Some("WATCHDOG=1"));
    }
    assert!(started.elapsed() < Duration::from_secs(4), "three times in {:?}, of 0.2 s each", started.elapsed());
    // Words wait in the socket while nobody reads: counted from the beginning, none came too early.
    let (words, most) = (before.len() + 3, spawned.elapsed().as_millis() / 200 + 2);
    assert!(words as u128 <= most, "{words} times in {:?}", spawned.elapsed());
    let killed = Command::new("kill").args(["-TERM", &server.id().to_string()]).status().expect("kill runs");
    assert!(killed.success());
    let mut last = next(&socket);
    while last.as_deref() == Some("WATCHDOG=1") {
        last = next(&socket);
    }
    assert_eq!(last.as_deref(), Some("STOPPING=1"));
    assert_eq!(server.wait().expect("an end").code(), Some(0));
}

/// Whoever only asks something is no service, and a socket that nobody reads keeps nothing from running.
#[test]
fn only_a_server_tells_and_a_socket_that_is_gone_is_not_waited_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_nonblocking(true).expect("no waiting");
    let model = model_dir();
    let arguments = ["--check", "--model", model.to_str().expect("a path")];
    assert!(run(sidecar(&arguments).env("NOTIFY_SOCKET", &path)).status.success());
    assert_eq!(next(&socket), None);
    let address =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("address").to_string();
    let arguments = ["--model", model.to_str().expect("a path"), "--listen", &address];
    let mut server =
        sidecar(&arguments).env("NOTIFY_SOCKET", "/no/such/socket").env("WATCHDOG_USEC", "0").spawn().expect("starts");
    let started = Instant::now();
    while !run(&mut sidecar(&["healthcheck", "--listen", &address])).status.success() {
        assert!(started.elapsed().as_secs() < 60, "not ready after a minute");
        std::thread::sleep(Duration::from_millis(50));
    }
    let killed = Command::new("kill").args(["-TERM", &server.id().to_string()]).status().expect("kill runs");
    assert!(killed.success());
    assert_eq!(server.wait().expect("an end").code(), Some(0));
}

/// A service manager that reads nothing keeps nobody from being served, and nothing from ending.
#[test]
fn a_service_manager_that_does_not_listen_is_not_waited_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    let filling = UnixDatagram::unbound().expect("a socket");
    filling.set_nonblocking(true).expect("no waiting");
    while filling.send_to(b"x", &path).is_ok() {}
    let address =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("address").to_string();
    let model = model_dir();
    let arguments = ["--model", model.to_str().expect("a path"), "--listen", &address, "--shutdown-grace", "2"];
    let mut command = sidecar(&arguments);
    let mut server =
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "40000").stdin(Stdio::null()).spawn().expect("starts");
    let started = Instant::now();
    while !run(&mut sidecar(&["healthcheck", "--listen", &address])).status.success() {
        assert!(started.elapsed().as_secs() < 60, "not ready after a minute");
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_secs(1));
    assert!(run(&mut sidecar(&["healthcheck", "--listen", &address])).status.success(), "still served");
    // Once it listens, it is told all that matters.
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    while next(&socket).expect("READY=1 within a minute") != "READY=1" {}
    while filling.send_to(b"x", &path).is_ok() {}
    let killed = Command::new("kill").args(["-TERM", &server.id().to_string()]).status().expect("kill runs");
    assert!(killed.success());
    let killed = Instant::now();
    let ended = loop {
        match server.try_wait().expect("a process") {
            Some(ended) => break ended,
            None if killed.elapsed().as_secs() < 30 => std::thread::sleep(Duration::from_millis(50)),
            None => {
                server.kill().expect("an end");
                panic!("it did not end when it was told to");
            }
        }
    };
    assert_eq!(ended.code(), Some(0));
    drop(socket);
}

/// An address that begins with `@` is no path.
#[cfg(target_os = "linux")]
#[test]
fn a_service_manager_may_have_an_abstract_address() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;
    let name = format!("text2vec-sidecar-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("an address");
    let socket = UnixDatagram::bind_addr(&address).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let listen = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("address").to_string();
    let model = model_dir();
    let arguments = ["--model", model.to_str().expect("a path"), "--listen", &listen];
    let mut command = sidecar(&arguments);
    let mut server = command.env("NOTIFY_SOCKET", format!("@{name}")).stdin(Stdio::null()).spawn().expect("starts");
    assert_eq!(next(&socket).as_deref(), Some("READY=1"));
    server.kill().expect("an end");
    server.wait().expect("an end");
}
