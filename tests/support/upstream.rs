//! An upstream that does as it is told: a small HTTP/1.1 server over plain sockets, so that it can also misbehave.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use text2vec_sidecar::backend::remote::resolve::Resolve;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// A request as it arrived.
#[derive(Debug, Clone, Default)]
pub(crate) struct Arrived {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    pub body: String,
    /// How many requests came before, to any path.
    pub number: usize,
}

/// What becomes of a request.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Status, further header lines, body.
    Answer(u16, String, String),
    /// The answer after a while.
    Later(Duration, Box<Act>),
    /// No answer, the connection stays.
    Hang,
    /// The connection ends without an answer.
    Close,
    /// Headers and half of the body, then the connection ends.
    BreakOff,
}

/// 200 with a body.
pub(crate) fn ok(body: impl Into<String>) -> Act {
    Act::Answer(200, String::new(), body.into())
}

/// Another status with a body.
pub(crate) fn status(status: u16, body: impl Into<String>) -> Act {
    Act::Answer(status, String::new(), body.into())
}

type Script = Arc<dyn Fn(&Arrived) -> Act + Send + Sync>;

/// The server. Dropping it is its sudden death.
pub(crate) struct Upstream {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Arrived>>>,
    /// Connections that the other side closed while a request was hanging.
    pub left: Arc<AtomicUsize>,
    pub connections: Arc<AtomicUsize>,
    accepting: AbortHandle,
}

impl Upstream {
    pub(crate) async fn start(script: impl Fn(&Arrived) -> Act + Send + Sync + 'static) -> Upstream {
        Upstream::start_at("127.0.0.1:0", script).await
    }

    pub(crate) async fn start_at(at: &str, script: impl Fn(&Arrived) -> Act + Send + Sync + 'static) -> Upstream {
        let listener = TcpListener::bind(at).await.expect("a port");
        let address = listener.local_addr().expect("address");
        let (requests, left, connections) = (Arc::default(), Arc::default(), Arc::default());
        let script: Script = Arc::new(script);
        let shared: (Arc<Mutex<Vec<Arrived>>>, Arc<AtomicUsize>, Arc<AtomicUsize>) = (requests, left, connections);
        let (requests, left, connections) = shared.clone();
        let accepting = tokio::spawn(async move {
            // Aborting this drops the set and with it every connection.
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                shared.2.fetch_add(1, Ordering::SeqCst);
                let _ = stream.set_nodelay(true);
                open.spawn(serve(stream, script.clone(), shared.0.clone(), shared.1.clone()));
            }
        });
        Upstream { address, requests, left, connections, accepting: accepting.abort_handle() }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Arrived> {
        self.requests.lock().expect("lock").clone()
    }

    /// Requests for a path.
    pub(crate) fn count(&self, path: &str) -> usize {
        self.requests().iter().filter(|arrived| arrived.path == path).count()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(stream: TcpStream, script: Script, requests: Arc<Mutex<Vec<Arrived>>>, left: Arc<AtomicUsize>) {
    let mut stream = BufReader::new(stream);
    while let Some(mut arrived) = read(&mut stream).await {
        {
            let mut requests = requests.lock().expect("lock");
            arrived.number = requests.len();
            requests.push(arrived.clone());
        }
        let mut act = script(&arrived);
        while let Act::Later(wait, then) = act {
            tokio::time::sleep(wait).await;
            act = *then;
        }
        match act {
            Act::Answer(status, headers, body) => {
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
                let text = if status == 204 { format!("HTTP/1.1 204 X\r\n{headers}\r\n") } else { head + &body };
                if stream.write_all(text.as_bytes()).await.is_err() {
                    return;
                }
            }
            Act::BreakOff => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"vector\":[1,2").await;
                let _ = stream.flush().await;
                return;
            }
            Act::Close => return,
            Act::Hang | Act::Later(..) => {
                let mut byte = [0];
                if stream.read(&mut byte).await.is_ok_and(|read| read == 0) {
                    left.fetch_add(1, Ordering::SeqCst);
                }
                return;
            }
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Arrived> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|&read| read > 0)?;
    let mut words = line.split_whitespace();
    let mut arrived =
        Arrived { method: words.next()?.to_owned(), path: words.next()?.to_owned(), ..Arrived::default() };
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        arrived.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = arrived.headers.get("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    arrived.body = String::from_utf8(body).ok()?;
    Some(arrived)
}

/// A `/vectors` server of three dimensions; other paths are not there.
pub(crate) fn container(arrived: &Arrived) -> Act {
    match arrived.path.as_str() {
        "/vectors" => ok(r#"{"text":"","vector":[1,2,3],"dim":3}"#),
        "/.well-known/ready" => status(204, ""),
        _ => status(404, r#"{"detail":"Not Found"}"#),
    }
}

/// Names to addresses, as a test wants them at the moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names(Arc<Mutex<HashMap<String, Vec<IpAddr>>>>);

impl Names {
    pub(crate) fn set(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().expect("an address")).collect();
        self.0.lock().expect("lock").insert(name.to_owned(), addresses);
    }
}

impl Resolve for Names {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, std::io::Result<Vec<IpAddr>>> {
        let found = self.0.lock().expect("lock").get(host).cloned();
        std::future::ready(found.ok_or_else(|| std::io::Error::other("no such name"))).boxed()
    }
}
