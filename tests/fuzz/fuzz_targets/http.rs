//! Any body to any path that takes one, over a real connection to a real server with a tiny model: an answer comes, it is
//! JSON, and it is never an internal error.
#![no_main]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, LazyLock, mpsc};

use libfuzzer_sys::fuzz_target;
use text2vec_sidecar::backend::local::{DEFAULT_WAITING_TOKENS, Inference, LocalBackend, LocalOptions};
use text2vec_sidecar::server::{self, Readiness, ServerOptions};

const PATHS: [&str; 10] = [
    "/vectors",
    "/v1/embeddings",
    "/api/embed",
    "/api/embeddings",
    "/api/show",
    "/embed",
    "/",
    "/tokenize",
    "/decode",
    "/models/none/vectors",
];

static ADDRESS: LazyLock<SocketAddr> = LazyLock::new(|| {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/families/bert");
            let inference = Inference::start(Some(1), DEFAULT_WAITING_TOKENS).expect("a thread");
            let backend = LocalBackend::load_beside(&LocalOptions::new(model), Arc::new(inference));
            let readiness = Readiness::default();
            readiness.ready(Arc::new(backend.expect("the model loads")));
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            send.send(listener.local_addr().expect("an address")).expect("somebody waits");
            let _ = server::run(listener, readiness, ServerOptions::default(), std::future::pending()).await;
        });
    });
    receive.recv().expect("the server starts")
});

thread_local! {
    static CONNECTION: std::cell::RefCell<Option<BufReader<TcpStream>>> = const { std::cell::RefCell::new(None) };
}

// The first byte chooses the path, the rest is the body.
fuzz_target!(|data: &[u8]| {
    let Some((&path, body)) = data.split_first() else { return };
    let path = PATHS[usize::from(path) % PATHS.len()];
    CONNECTION.with_borrow_mut(|connection| {
        let stream = connection.get_or_insert_with(|| {
            let stream = TcpStream::connect(*ADDRESS).expect("the server listens");
            stream.set_nodelay(true).expect("a socket");
            BufReader::new(stream)
        });
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: fuzz\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.get_mut().write_all(&[head.as_bytes(), body].concat()).expect("the connection is there");
        let mut status = String::new();
        stream.read_line(&mut status).expect("a status line");
        let code: u16 = status.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        let (mut length, mut closes) = (None, false);
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).expect("a header");
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse::<usize>().ok();
            }
            closes |= line == "connection: close";
        }
        let mut answer = vec![0; length.expect("a length")];
        stream.read_exact(&mut answer).expect("a body");
        assert!(code != 500 && (200..600).contains(&code), "{path}: {status} {}", String::from_utf8_lossy(&answer));
        serde_json::from_slice::<serde_json::Value>(&answer).expect("JSON");
        if closes {
            *connection = None;
        }
    });
});
