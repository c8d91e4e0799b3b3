//! The real binary as a process of its own, and a plain HTTP/1.1 connection to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::model_dir;

/// A setting as `--print-config` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Printed {
    /// For people; several stand with commas between.
    pub value: String,
    pub source: String,
    /// It is no comment.
    pub is_set: bool,
}

/// What `--print-config` has printed, by the names of the settings.
pub(crate) fn settings(output: &Output) -> BTreeMap<String, Printed> {
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    let read = |line: &str| {
        let (is_set, line) = match line.strip_prefix("# ") {
            Some(comment) => (false, comment),
            None => (true, line),
        };
        let (name, rest) = line.split_once(" = ")?;
        let (value, source) = rest.rsplit_once("  # ")?;
        let value = value.trim().trim_matches(['[', ']']).replace("\", \"", ",");
        let value = value.trim_matches('"').to_owned();
        Some((name.trim().to_owned(), Printed { value, source: source.to_owned(), is_set }))
    };
    text.lines().filter_map(read).collect()
}

/// A running server; killed when dropped.
pub(crate) struct Process {
    child: Child,
    pub address: SocketAddr,
}

impl Process {
    /// Starts the binary with the real model on a free port, and waits until it is ready.
    pub(crate) async fn start(flags: &[&str], variables: &[(&str, &str)]) -> Process {
        let mut command = Process::command();
        command.args(["--model", model_dir().to_str().expect("a path")]).args(flags).envs(variables.iter().copied());
        Process::launch(command).await
    }

    /// The binary (`T2V_BIN`, else the one just built), to be told more and launched.
    pub(crate) fn command() -> Command {
        let binary =
            std::env::var_os("T2V_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_text2vec-sidecar").to_owned().into());
        let mut command = Command::new(binary);
        command.env("RUST_LOG", "error");
        command
    }

    /// Starts a server on a free port, and waits until it is ready.
    pub(crate) async fn launch(mut command: Command) -> Process {
        let address = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
        let child = command.args(["--listen", &address.to_string()]).spawn().expect("the server starts");
        let process = Process { child, address };
        let started = Instant::now();
        while process.ready().await.is_none_or(|status| status != 204) {
            assert!(started.elapsed() < Duration::from_secs(60), "not ready after a minute");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        process
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The status of the readiness probe, on a connection of its own; `None` where nothing answers.
    pub(crate) async fn ready(&self) -> Option<u16> {
        let mut connection = Connection::open(self.address).await.ok()?;
        Some(connection.get("/.well-known/ready").await.ok()?.status().as_u16())
    }

    /// CPU time, all threads, user and system (fields 14 and 15 of its stat line, in hundredths of a second).
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("the process");
        let fields: Vec<&str> = stat.rsplit_once(") ").expect("a stat line").1.split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().expect("user") + fields[12].parse::<u64>().expect("system");
        Duration::from_millis(ticks * 10)
    }

    /// Resident memory now, and its highest so far, in MiB.
    pub(crate) fn memory(&self) -> (f64, f64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the process");
        let read = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of memory");
            line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
        };
        (read("VmRSS:"), read("VmHWM:"))
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Sends a signal, as `kill` names it.
    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "{signal} could not be sent");
    }

    /// How it ended, if it does within the time.
    pub(crate) async fn ended(&mut self, within: Duration) -> Option<ExitStatus> {
        let started = Instant::now();
        while started.elapsed() < within {
            if let Some(status) = self.child.try_wait().expect("the process") {
                return Some(status);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        None
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One HTTP/1.1 connection, kept open.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    ends: bool,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> std::io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        Ok(Connection { sender, ends: false })
    }

    /// Whether the server has said that it ends (`Connection: close`, as it does at `--max-connection-age`), or it has ended.
    pub(crate) fn ends(&self) -> bool {
        self.ends || self.sender.is_closed()
    }

    /// `POST /vectors`.
    pub(crate) async fn post(&mut self, body: impl Into<Bytes>) -> hyper::Result<Response<Bytes>> {
        let request = Request::post("/vectors").header("host", "sidecar").header("content-type", "application/json");
        self.send(request.body(Full::new(body.into())).expect("a request")).await
    }

    pub(crate) async fn get(&mut self, path: &str) -> hyper::Result<Response<Bytes>> {
        self.send(Request::get(path).header("host", "sidecar").body(Full::default()).expect("a request")).await
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Bytes>> {
        // The answer before may be read sooner than the connection knows that it is.
        self.sender.ready().await?;
        let (parts, body) = self.sender.send_request(request).await?.into_parts();
        self.ends |= parts.headers.get("connection").is_some_and(|value| value == "close");
        Ok(Response::from_parts(parts, body.collect().await?.to_bytes()))
    }
}
