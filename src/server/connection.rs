//! Connections: TLS or not, HTTP/1.1 and HTTP/2 told apart by their first bytes, their age, and their end.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request, Version};
use axum::response::Response;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;
use tower::Service;

use super::auth::Certified;
use super::http::{error_response, single_slashes};
use super::tls::{HANDSHAKE, Tls};
use super::{Readiness, observe};
use crate::error::{Error, ErrorKind};
use crate::telemetry::metrics::labels::Refusal;
use crate::telemetry::metrics::metrics;

/// An idle connection may stay this long between requests. Go clients give theirs up after 90 s; a server that closes
/// first makes them see resets.
const IDLE_CONNECTION: Duration = Duration::from_secs(150);

/// How long a connection over the limit may take to ask something.
const REFUSED_CONNECTION: Duration = Duration::from_secs(5);

/// Connections over the limit that may be open at once to be told so; more wait to be accepted.
const REFUSED_AT_ONCE: usize = 1024;

/// How long a handshake may still take when the server stops.
const LAST_HANDSHAKE: Duration = Duration::from_secs(1);

/// The bytes of a connection, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// The open connections.
pub struct Connections {
    protocols: Arc<auto::Builder<TokioExecutor>>,
    router: Router,
    tls: Option<Arc<Tls>>,
    readiness: Readiness,
    limit: usize,
    max_age: Duration,
    closing: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Connections {
    /// No connection yet.
    pub fn new(
        router: Router,
        tls: Option<Arc<Tls>>,
        readiness: Readiness,
        limit: usize,
        max_age: Duration,
    ) -> Connections {
        let mut protocols = auto::Builder::new(TokioExecutor::new());
        protocols.http1().timer(TokioTimer::new()).header_read_timeout(IDLE_CONNECTION);
        protocols
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(60))
            // Room for large batches without a round trip per 64 KiB.
            .initial_stream_window_size(4 * 1024 * 1024)
            .initial_connection_window_size(16 * 1024 * 1024)
            .max_concurrent_streams(1024);
        let (closing, tasks) = (watch::Sender::new(false), JoinSet::new());
        Connections { protocols: Arc::new(protocols), router, tls, readiness, limit, max_age, closing, tasks }
    }

    /// Waits for a connection and serves it. May be dropped at any time without losing one.
    ///
    /// A connection over the limit is told so by an answer, except where it asks for the server's health.
    pub async fn accept(&mut self, listener: &TcpListener) {
        while self.tasks.len() >= self.limit.saturating_add(REFUSED_AT_ONCE) {
            self.tasks.join_next().await;
        }
        let accepted = listener.accept().await;
        // Connections that ended meanwhile.
        while self.tasks.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                // Small answers must not wait for the peer's delayed acknowledgement.
                let _ = stream.set_nodelay(true);
                let over_limit = self.tasks.len() >= self.limit;
                self.tasks.spawn(self.serve(stream, over_limit));
            }
            Err(error) => {
                // Out of file descriptors, usually: serve what is open and try again.
                tracing::warn!("a connection could not be accepted: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Lets every connection finish what it is at, until the deadline. Answers how many had to be cut off.
    pub async fn finish(mut self, deadline: Instant) -> usize {
        self.closing.send_replace(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout_at(deadline, all).await;
        self.tasks.len()
    }

    fn serve(&self, stream: TcpStream, over_limit: bool) -> impl Future<Output = ()> + Send + 'static {
        let (protocols, router, readiness) = (self.protocols.clone(), self.router.clone(), self.readiness.clone());
        let (max_age, mut closing) = (self.max_age, self.closing.subscribe());
        let (limit, tls) = (self.limit, self.tls.clone());
        // Whoever is over the limit is to leave after one answer.
        let retiring = Arc::new(AtomicBool::new(over_limit));
        let is_http2 = Arc::new(AtomicBool::new(false));
        let (retires, speaks_http2) = (retiring.clone(), is_http2.clone());
        let service = move |certified: Option<Certified>| {
            tower::service_fn(move |mut request: Request<Incoming>| {
                if let Some(certified) = certified {
                    request.extensions_mut().insert(certified);
                }
                let http2 = request.version() == Version::HTTP_2;
                speaks_http2.store(http2, Ordering::Relaxed);
                let refusal = (over_limit && !asks_for_health(request.uri().path())).then(|| refuse(&request, limit));
                let answer = router.clone().call(single_slashes(request));
                let (retires, readiness) = (retires.clone(), readiness.clone());
                async move {
                    let mut response: Response = match refusal {
                        Some(refusal) => refusal,
                        None => answer.await?,
                    };
                    // HTTP/1.1 has no other way to say so without a race; HTTP/2 has GOAWAY.
                    if !http2 && (retires.load(Ordering::Relaxed) || readiness.is_draining()) {
                        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    }
                    Ok::<_, Infallible>(response)
                }
            })
        };
        let open = metrics().connections.enter();
        async move {
            let _open = open;
            let (stream, certified): (Box<dyn Stream>, _) = match tls {
                None => (Box::new(stream), None),
                Some(tls) => match shake_hands(&tls, stream, closing.clone()).await {
                    Ok(stream) => {
                        let certified = stream.get_ref().1.peer_certificates().map(|_| Certified);
                        (Box::new(stream), certified)
                    }
                    Err(error) => {
                        tracing::debug!("no TLS handshake: {error}");
                        return;
                    }
                },
            };
            let service = TowerToHyperService::new(service(certified));
            let mut connection = pin!(protocols.serve_connection(TokioIo::new(stream), service).into_owned());
            let mut age = pin!(tokio::time::sleep(if over_limit { REFUSED_CONNECTION } else { max_age }));
            let (mut old, mut last) = (false, false);
            loop {
                tokio::select! {
                    ended = connection.as_mut() => {
                        if let Err(error) = ended {
                            tracing::debug!("a connection ended early: {error}");
                        }
                        return;
                    }
                    () = age.as_mut(), if !old => {
                        old = true;
                        retiring.store(true, Ordering::Relaxed);
                        if is_http2.load(Ordering::Relaxed) {
                            connection.as_mut().graceful_shutdown();
                        }
                    }
                    // An error means that the server is gone, which is a reason to end as well.
                    _ = closing.changed(), if !last => {
                        last = true;
                        connection.as_mut().graceful_shutdown();
                    }
                }
            }
        }
    }
}

/// The handshake of a connection; whoever is slow at it is left, and soon if the server stops.
async fn shake_hands(
    tls: &Tls,
    stream: TcpStream,
    mut closing: watch::Receiver<bool>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let patience = async {
        let stops = async { closing.wait_for(|&closing| closing).await.map(|_| ()) };
        // An error means that the server is gone.
        if tokio::time::timeout(HANDSHAKE, stops).await.is_ok() {
            tokio::time::sleep(LAST_HANDSHAKE).await;
        }
    };
    tokio::select! {
        shaken = tls.accept(stream) => shaken,
        () = patience => Err(std::io::Error::from(std::io::ErrorKind::TimedOut)),
    }
}

/// Probes come on connections of their own, and must not fail because others have too many.
fn asks_for_health(path: &str) -> bool {
    path.starts_with("/.well-known/") || path.starts_with("/grpc.health.v1.Health/")
}

fn refuse<B>(request: &Request<B>, limit: usize) -> Response {
    let message = format!(
        "too many connections: {limit} are open; keep fewer open, add a replica, or raise --max-connections (now {limit})"
    );
    metrics().refused(Refusal::MaxConnections);
    observe::refused_early(request.headers(), request.uri().path());
    let error = Error::new(ErrorKind::Overloaded, message);
    if observe::is_grpc(request.headers()) { tonic::Status::from(error).into_http() } else { error_response(&error) }
}
