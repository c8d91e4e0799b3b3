//! Connections: TLS or not, HTTP/1.1 and HTTP/2 told apart by their first bytes, their age, and their end.
//!
//! Whatever strangers do, a probe gets its answer: connections are always accepted, whoever asks nothing is given up after
//! [`Patience`], and takes nobody's place meanwhile (see [`hall`]).

mod hall;
mod remainder;
mod watch;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::header::{CONNECTION, EXPECT};
use axum::http::{HeaderName, HeaderValue, Request, StatusCode, Version};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch as channel;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::server::TlsStream;
use tower::Service;

use self::hall::{Doorkeeper, Member, Standing};
use self::remainder::{Rest, SILENCE, drop_rest};
use self::watch::{Answer, Due, Patience, Watch, Watched, due};
use super::access::Certified;
use super::answers::{Patient, Unread};
use super::health::is_probe;
use super::http::errors::error_response;
use super::http::path::routed;
use super::limits::Limits;
use super::models::Readiness;
use super::observe;
use super::options::Lifetimes;
use super::tls::Tls;
use crate::error::{Error, ErrorKind};
use crate::telemetry::metrics::labels::Refusal;
use crate::telemetry::metrics::metrics;

pub(super) use self::hall::Room;
pub(super) use self::watch::later;

/// What HTTP/2 begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a handshake, and a first head, may still take when the server stops.
const LAST_HEAD: Duration = Duration::from_secs(1);

/// How long the words to whoever was too slow may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// HTTP/2: streams of one connection at once. With their windows, a bound on what has come of all of them without being read.
const STREAMS: u32 = 256;

/// HTTP/2: what of one stream, and of one connection, may have come without being read. Small messages cost more than their
/// bytes while they are unread, so the library lets them cost no more than half of the connection's window, in overhead (256
/// bytes a frame, less what it carries), and ends a connection that goes beyond. Who streams one-word texts as fast as it can
/// fills a stream's window: with frames of 16 bytes that is 4,096 frames and not quite 1 MiB, so that sixteen such streams at
/// once stay below.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 32 * 1024 * 1024;

/// HTTP/2: what is buffered of a stream's answer. What is there is out of our hands, and stays until the connection ends.
const SEND_BUFFER: usize = 32 * 1024;

/// HTTP/2: streams that their client has reset before we looked at them; more at once is an attack ("rapid reset").
const RESETS_BY_THE_CLIENT: usize = 20;

/// HTTP/2: streams that were reset here for what their client did wrong, over the life of a connection.
const RESETS_BY_ERRORS: usize = 1024;

/// The bytes of a connection, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

type Io = Watched<Box<dyn Stream>>;

/// The open connections.
pub(super) struct Connections {
    speaker: Arc<Speaker>,
    tls: Option<Arc<Tls>>,
    doorkeeper: Doorkeeper,
    closing: channel::Sender<bool>,
    tasks: JoinSet<()>,
}

/// What every connection needs to be served.
struct Speaker {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    router: Router,
    readiness: Readiness,
    patience: Patience,
    max_age: Duration,
    max_body_wait: Duration,
    max_write_wait: Duration,
    max_head_bytes: usize,
    places: usize,
}

impl Connections {
    /// No connection yet.
    pub(super) fn new(
        router: Router,
        tls: Option<Arc<Tls>>,
        readiness: Readiness,
        limits: &Limits,
        lifetimes: &Lifetimes,
        room: Room,
    ) -> Connections {
        let mut http1 = http1::Builder::new();
        // Heads have their time by `Watch`, and their size by `Speaker`; this is for those whose end never comes.
        http1.timer(TokioTimer::new()).header_read_timeout(None);
        http1.max_header_size(limits.max_head_bytes.saturating_mul(2));
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(60))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_concurrent_streams(STREAMS)
            .max_pending_accept_reset_streams(RESETS_BY_THE_CLIENT)
            .max_local_error_reset_streams(RESETS_BY_ERRORS)
            // The library also limits the CONTINUATION frames by this.
            .max_header_list_size(u32::try_from(limits.max_head_bytes).unwrap_or(u32::MAX));
        let speaker = Speaker {
            http1,
            http2,
            router,
            readiness,
            patience: Patience { head: limits.max_head_wait, idle: lifetimes.max_connection_idle },
            max_age: lifetimes.max_connection_age,
            max_body_wait: limits.max_body_wait,
            max_write_wait: limits.max_write_wait,
            max_head_bytes: limits.max_head_bytes,
            places: room.places,
        };
        let (closing, tasks) = (channel::Sender::new(false), JoinSet::new());
        Connections { speaker: Arc::new(speaker), tls, doorkeeper: Doorkeeper::new(room), closing, tasks }
    }

    /// Waits for a connection and serves it. May be dropped at any time without losing one.
    pub(super) async fn accept(&mut self, listener: &TcpListener) {
        let accepted = listener.accept().await;
        // Connections that ended meanwhile.
        while self.tasks.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                // Small answers must not wait for the peer's delayed acknowledgement.
                let _ = stream.set_nodelay(true);
                let member = self.doorkeeper.admit();
                let seat = member.seat();
                let serving = self.speaker.clone().serve(stream, self.tls.clone(), member, self.closing.subscribe());
                self.doorkeeper.is_served_by(seat, self.tasks.spawn(serving));
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
            Err(error) => self.make_room(&error).await,
        }
    }

    /// There is no file, or no memory, for one more connection: those who have asked nothing yet leave, else we wait.
    async fn make_room(&mut self, error: &io::Error) {
        let made = self.doorkeeper.show_out_the_oldest();
        self.doorkeeper.complain(error);
        let pause = Duration::from_millis(if made { 5 } else { 50 });
        let _ = tokio::time::timeout(pause, self.tasks.join_next()).await;
    }

    /// Lets every connection finish what it is at, until the deadline. Answers how many had to be cut off.
    pub(super) async fn finish(mut self, deadline: Instant) -> usize {
        self.closing.send_replace(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout_at(deadline, all).await;
        self.tasks.len()
    }
}

impl Speaker {
    async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        tls: Option<Arc<Tls>>,
        member: Member,
        closing: channel::Receiver<bool>,
    ) {
        let _open = metrics().connections.enter();
        let (stream, certified): (Box<dyn Stream>, _) = match tls {
            None => (Box::new(Patient::new(stream, self.max_write_wait)), None),
            // Boxed, as the conversations are: who only connects costs little memory.
            Some(tls) => match Box::pin(self.shake_hands(&tls, stream, closing.clone())).await {
                Ok(stream) => {
                    let certified = stream.get_ref().1.peer_certificates().map(|_| Certified);
                    (Box::new(Patient::new(stream, self.max_write_wait)), certified)
                }
                Err(error) => {
                    tracing::debug!("no TLS handshake: {error}");
                    return;
                }
            },
        };
        let watch = Arc::new(Watch::new(self.patience));
        let mut io = Watched::new(stream, watch.clone());
        let (retiring, leaves_rest) = (AtomicBool::new(false), AtomicBool::new(false));
        let caller = Caller { member, certified, watch, retiring, unread: Unread::default(), leaves_rest };
        match self.opening(&mut io, &caller.watch, closing.clone()).await {
            Some(Version::HTTP_2) => Box::pin(self.speak_http2(io, Arc::new(caller), closing)).await,
            Some(_) => Box::pin(self.speak_http1(io, Arc::new(caller), closing)).await,
            None => {}
        }
    }

    /// The handshake of a connection; whoever is slow at it is left, and soon if the server stops.
    async fn shake_hands(
        &self,
        tls: &Tls,
        stream: TcpStream,
        closing: channel::Receiver<bool>,
    ) -> io::Result<TlsStream<TcpStream>> {
        tokio::select! {
            shaken = tls.accept(stream) => shaken,
            () = sleep_until(later(Instant::now(), self.patience.head)) => {
                metrics().refused(Refusal::MaxHeadWait);
                Err(io::ErrorKind::TimedOut.into())
            }
            () = last_call(closing) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Reads until it is clear which protocol the client speaks; `None` if it does not say in time.
    async fn opening(&self, io: &mut Io, watch: &Watch, closing: channel::Receiver<bool>) -> Option<Version> {
        let mut bytes = [0; PREFACE.len()];
        let mut length = 0;
        let read = async {
            loop {
                length += match io.read(&mut bytes[length..]).await {
                    Ok(0) | Err(_) => return None,
                    Ok(read) => read,
                };
                if bytes[..length] != PREFACE[..length] {
                    return Some(Version::HTTP_11);
                }
                if length == PREFACE.len() {
                    return Some(Version::HTTP_2);
                }
            }
        };
        let version = tokio::select! {
            version = read => version?,
            _ = due(watch, None) => {
                metrics().refused(Refusal::MaxHeadWait);
                return None;
            }
            () = last_call(closing) => return None,
        };
        if version == Version::HTTP_2 {
            watch.set_http2();
        }
        io.put_back(Bytes::copy_from_slice(&bytes[..length]));
        Some(version)
    }

    async fn speak_http1(self: &Arc<Self>, io: Io, caller: Arc<Caller>, closing: channel::Receiver<bool>) {
        let service = service_fn(|request| self.clone().answer(request, caller.clone()));
        let mut connection = self.http1.serve_connection(TokioIo::new(io), service);
        let wind_up = |connection: Pin<&mut http1::Connection<_, _>>| connection.graceful_shutdown();
        let given_up = self.converse(Pin::new(&mut connection), wind_up, &caller, closing.clone()).await;
        let watch = &caller.watch;
        if !given_up && caller.leaves_rest.load(Ordering::Relaxed) {
            // Whoever wants the place has more of a claim to it.
            caller.member.steps_down();
            let stream = connection.into_parts().io.into_inner().into_inner();
            let until = async {
                tokio::select! {
                    () = caller.member.shown_out() => {}
                    () = watch.is_out_of_a_guests_time() => {}
                    () = last_call(closing) => {}
                }
            };
            return Box::pin(drop_rest(stream, SILENCE, self.max_body_wait, until)).await;
        }
        // With an answer before it, nobody knows how much of that is still to be sent.
        if given_up && watch.has_part_of_a_head() && !watch.has_asked() {
            let stream = connection.into_parts().io.into_inner().into_inner();
            let _ = tokio::time::timeout(FAREWELL, self.say_what_was_late(stream)).await;
        }
    }

    async fn speak_http2(self: &Arc<Self>, io: Io, caller: Arc<Caller>, closing: channel::Receiver<bool>) {
        let service = service_fn(|request| self.clone().answer(request, caller.clone()));
        let connection = pin!(self.http2.serve_connection(TokioIo::new(io), service));
        let wind_up = |connection: Pin<&mut http2::Connection<_, _, _>>| connection.graceful_shutdown();
        self.converse(connection, wind_up, &caller, closing).await;
    }

    /// Drives a connection until it ends. Answers whether it was given up instead.
    async fn converse<C: Future<Output = hyper::Result<()>>>(
        &self,
        mut connection: Pin<&mut C>,
        wind_up: impl Fn(Pin<&mut C>),
        caller: &Caller,
        mut closing: channel::Receiver<bool>,
    ) -> bool {
        let mut age = pin!(sleep_until(later(Instant::now(), self.max_age)));
        let (mut old, mut last, mut wound_up, mut given_up) = (false, false, None, false);
        // For what else is under way where an answer was not read.
        let mut patience = pin!(tokio::time::sleep(self.max_write_wait));
        loop {
            tokio::select! {
                // In this order, so that whoever looks at the time knows what came.
                biased;
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!("a connection ended early: {error}");
                    }
                    return false;
                }
                due = due(&caller.watch, wound_up) => match due {
                    Due::WindUp => {
                        wound_up = Some(Instant::now());
                        wind_up(connection.as_mut());
                    }
                    Due::GiveUp => return true,
                    Due::Late => {
                        metrics().refused(Refusal::MaxHeadWait);
                        return true;
                    }
                },
                () = caller.unread.told(), if !given_up => {
                    if !caller.watch.is_http2() {
                        return false;
                    }
                    given_up = true;
                    patience.set(tokio::time::sleep(self.max_write_wait));
                    wind_up(connection.as_mut());
                }
                () = patience.as_mut(), if given_up => return false,
                () = age.as_mut(), if !old => {
                    old = true;
                    caller.retiring.store(true, Ordering::Relaxed);
                    if caller.watch.is_http2() {
                        wind_up(connection.as_mut());
                    }
                }
                // An error means that the server is gone, which is a reason to end as well.
                _ = closing.changed(), if !last => {
                    last = true;
                    wind_up(connection.as_mut());
                }
            }
        }
    }

    /// Answers a request, or says why not.
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        caller: Arc<Caller>,
    ) -> Result<axum::http::Response<Answer>, Infallible> {
        let http2 = request.version() == Version::HTTP_2;
        let expects = request.headers().contains_key(EXPECT);
        let (head, body) = routed(request).into_parts();
        // HTTP/2 has its own way to say that no more of it is wanted.
        let (body, rest) = Rest::follow(body, !http2);
        let mut request = Request::from_parts(head, body);
        let under_way = caller.watch.request();
        let refusal = match caller.member.asks() {
            Standing::Served => self.refuse_head(&request),
            Standing::Guest => {
                caller.watch.set_guest();
                caller.retiring.store(true, Ordering::Relaxed);
                (!is_probe(request.uri().path())).then(|| refuse(&request, self.places))
            }
        };
        let mut response = match refusal {
            Some(refusal) => {
                drop(request);
                refusal
            }
            None => {
                request.extensions_mut().insert(caller.unread.clone());
                if let Some(certified) = caller.certified {
                    request.extensions_mut().insert(certified);
                }
                self.router.clone().call(request).await?
            }
        };
        let mut ends = caller.retiring.load(Ordering::Relaxed) || self.readiness.is_draining();
        if let Some(rest) = rest.and_then(Rest::left) {
            // The next request would begin behind it. Whoever waits to be told to send it may never do so.
            if !ends && !expects && remainder::is_small(&rest) {
                remainder::read(rest, caller.watch.request());
            } else {
                ends = true;
                caller.leaves_rest.store(true, Ordering::Relaxed);
            }
        }
        // HTTP/1.1 has no other way to say so without a race; HTTP/2 has GOAWAY.
        if !http2 && ends {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response.map(|body| Answer::new(body, under_way)))
    }

    /// What is said to a head that is too large. HTTP/2 says so itself.
    fn refuse_head<B>(&self, request: &Request<B>) -> Option<Response> {
        // As HTTP/2 counts a list of headers.
        let header = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 32;
        let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
        let bytes = request.headers().iter().map(header).sum::<usize>() + target;
        let limit = self.max_head_bytes;
        if bytes <= limit {
            return None;
        }
        metrics().refused(Refusal::MaxHeadBytes);
        let message =
            format!("a head of {bytes} bytes, {limit} are allowed: send fewer headers or raise --max-head-bytes");
        let mut response = error_response(&Error::new(ErrorKind::TooLarge, message));
        *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        Some(response)
    }

    /// Tells a client that has sent a part of a head, over HTTP/1.1, why it is left.
    async fn say_what_was_late(&self, mut stream: Box<dyn Stream>) -> io::Result<()> {
        let body = json!({"error": format!(
            "the head of the request did not arrive within {:?}: send it at once, or raise --max-head-wait",
            self.patience.head
        )})
        .to_string();
        let answer = format!(
            "HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        // A connection closed with something unread in it loses the answer.
        while stream.read(&mut [0; 4096]).await? > 0 {}
        Ok(())
    }
}

/// Who is at the other end of a connection.
struct Caller {
    member: Member,
    certified: Option<Certified>,
    watch: Arc<Watch>,
    /// The next answer is the last.
    retiring: AtomicBool,
    /// Told of answers that were given up.
    unread: Unread,
    /// Not all of the last request's body was read.
    leaves_rest: AtomicBool,
}

/// Ends a little after the server begins to.
async fn last_call(mut closing: channel::Receiver<bool>) {
    // An error means that the server is gone.
    let _ = closing.wait_for(|&closing| closing).await;
    tokio::time::sleep(LAST_HEAD).await;
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
