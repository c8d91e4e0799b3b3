//! Another text2vec-sidecar, over gRPC, in batches.
//!
//! tonic's client runs over the replica's own HTTP client instead of a channel of tonic's: one place that dials, checks
//! addresses and speaks TLS for every kind of upstream.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use reqwest::Client;
use reqwest::header::HeaderMap;
use tonic::codegen::{Body as _, Service, http};
use tonic::{Code, Status};

use super::format::{Batch, Format, Models};
use super::traced::trace_headers;
use crate::backend::Embedding;
use crate::backend::meta::theirs::Theirs;
use crate::backend::remote::client::{Asked, MAX_ANSWER, transport};
use crate::backend::remote::kind::{Joining, Kind, READY, Scheme};
use crate::backend::remote::pool::Pool;
use crate::backend::remote::probe;
use crate::backend::remote::replica::Replica;
use crate::backend::remote::retry::Failure;
use crate::contract::call::TraceContext;
use crate::contract::request::Task;
use crate::error::{Error, ErrorKind, Result};
use crate::proto;
use crate::proto::vectorize_result::Result as Outcome;
use crate::proto::vectorizer_client::VectorizerClient;

/// Texts in one request.
pub const BATCH: usize = 256;

const METHOD: &str = "text2vec.v1.Vectorizer/Vectorize";

/// Another sidecar. Beside gRPC its port answers what the reference container does.
pub static KIND: Kind = Kind {
    name: "sidecar",
    schemes: &[Scheme::naming("grpc", "http"), Scheme::naming("grpcs", "https")],
    joining: Joining::Meaning,
    api_root: "",
    ready: READY,
    health: READY,
    request_paths: &[],
    http2: true,
};

/// Another sidecar over gRPC.
#[derive(Debug, Default)]
pub struct Sidecar {
    /// Which of its models is asked for; empty: its default one.
    model: String,
}

impl Format for Sidecar {
    fn unasked() -> Option<Sidecar> {
        Some(Sidecar::default())
    }

    fn open(_pool: &Arc<Pool>) -> BoxFuture<'_, Result<Sidecar>> {
        Box::pin(async { Ok(Sidecar::default()) })
    }

    /// Over HTTP it is spoken to as the reference container is; gRPC has to be asked for by the scheme.
    fn recognise(_pool: &Arc<Pool>) -> BoxFuture<'_, Result<Option<Sidecar>>> {
        Box::pin(async { Ok(None) })
    }

    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn at_once(&self) -> usize {
        BATCH
    }

    fn embed<'a>(&'a self, pool: &'a Arc<Pool>, batch: Batch<'a>) -> BoxFuture<'a, Result<Vec<Result<Embedding>>>> {
        Box::pin(many(pool, batch, &self.model))
    }

    fn meta<'a>(&'a self, pool: &'a Arc<Pool>) -> BoxFuture<'a, Result<Option<Theirs>>> {
        Box::pin(async move {
            match &*self.model {
                "" => probe::meta(pool, "/meta").await,
                model => probe::meta(pool, &format!("/models/{model}/meta")).await,
            }
        })
    }

    fn models(&self, meta: &Theirs) -> Models {
        Models::of_sidecar(meta)
    }

    fn of_model(&self, pool: &Arc<Pool>, name: &str) -> Option<(Arc<Pool>, Box<dyn Format>)> {
        Some((pool.clone(), Box::new(Sidecar { model: name.to_owned() })))
    }
}

/// The vectors of a batch. `model`: by its name there, empty for the default one.
async fn many(pool: &Arc<Pool>, batch: Batch<'_>, model: &str) -> Result<Vec<Result<Embedding>>> {
    let Batch { texts, settings, trace, dimensions: known, deadline } = batch;
    if texts.is_empty() {
        return Ok(Vec::new());
    }
    let task = match settings.task() {
        Task::Passage => proto::Task::Passage,
        Task::Query => proto::Task::Query,
    };
    let message = &proto::VectorizeRequest {
        texts: texts.iter().map(|&text| text.to_owned()).collect(),
        options: Some(proto::VectorizeOptions {
            task: task as i32,
            pooling_strategy: settings.pooling.clone().unwrap_or_default(),
            // What the reference container takes for nothing asked is refused on this wire.
            dimensions: settings.dimensions.filter(|&wanted| {
                wanted != 0 && usize::try_from(wanted).ok().zip(known).is_none_or(|(wanted, known)| wanted <= known)
            }),
            prompt: settings.prompt.clone(),
            model: model.to_owned(),
        }),
    };
    let results = pool
        .call(settings.task(), texts.len(), deadline, |replica, limit| {
            Box::pin(async move {
                let results = vectorize(&replica, message.clone(), trace, limit).await?;
                if results.len() != texts.len() {
                    let text = format!("{} results for {} texts", results.len(), texts.len());
                    return Err(Failure::Fault(Error::new(ErrorKind::Upstream, text)));
                }
                Ok(results)
            })
        })
        .await?;
    Ok(results.into_iter().map(read).collect())
}

async fn vectorize(
    replica: &Replica,
    message: proto::VectorizeRequest,
    trace: Option<&TraceContext>,
    limit: Duration,
) -> Result<Vec<proto::VectorizeResult>, Failure> {
    let mut headers = replica.headers();
    headers.extend(trace_headers(trace));
    let wire = Wire { client: replica.client.clone(), base: replica.address.below("").to_string(), headers };
    let mut client = VectorizerClient::new(wire).max_decoding_message_size(MAX_ANSWER);
    let mut request = tonic::Request::new(message);
    request.set_timeout(limit);
    let late = |_| {
        let text = format!("call {METHOD}: no answer within {limit:.1?}");
        Err(Failure::Late(Error::new(ErrorKind::DeadlineExceeded, text)))
    };
    let answer = tokio::time::timeout(limit, client.vectorize(request)).await;
    let answer = answer.map_or_else(late, |answer| answer.map_err(|status| failure(&status)))?;
    Ok(answer.into_inner().results)
}

fn failure(status: &Status) -> Failure {
    use std::error::Error as _;
    if let Some(transport) = status.source().and_then(|source| source.downcast_ref::<Transport>()) {
        return transport.0.clone();
    }
    let error = |kind| Error::new(kind, format!("call {METHOD}: {}: {}", status.code(), status.message()));
    match status.code() {
        Code::InvalidArgument => Failure::Refused(error(ErrorKind::InvalidArgument)),
        Code::ResourceExhausted => Failure::Refused(error(match reason(status) {
            Some(ErrorKind::TooLarge) => ErrorKind::TooLarge,
            _ => ErrorKind::Overloaded,
        })),
        // What gRPC's own limit on a message's bytes answers.
        Code::OutOfRange => Failure::Refused(error(ErrorKind::TooLarge)),
        Code::DeadlineExceeded => Failure::Late(error(ErrorKind::DeadlineExceeded)),
        Code::Unavailable => Failure::Busy(error(ErrorKind::Unavailable), None),
        // Credentials and versions are the operator's matter, not the caller's.
        Code::Unauthenticated | Code::PermissionDenied | Code::NotFound | Code::Unimplemented => {
            Failure::Refused(error(ErrorKind::Upstream))
        }
        _ => Failure::Fault(error(ErrorKind::Upstream)),
    }
}

/// What the other side says that the code leaves open.
fn reason(status: &Status) -> Option<ErrorKind> {
    ErrorKind::labelled(status.metadata().get("t2v-reason")?.to_str().ok()?)
}

fn read(result: proto::VectorizeResult) -> Result<Embedding> {
    match result.result {
        Some(Outcome::Vector(vector)) => Ok(Embedding {
            vector: vector.values.into(),
            tokens: result.tokens,
            truncated: result.truncated,
            ignored: result.ignored_settings.iter().filter_map(|name| known_setting(name)).collect(),
        }),
        Some(Outcome::Error(error)) => {
            let kind = match Code::from(error.code) {
                Code::InvalidArgument => ErrorKind::InvalidArgument,
                Code::ResourceExhausted if error.reason == ErrorKind::Overloaded.meaning().label => {
                    ErrorKind::Overloaded
                }
                Code::ResourceExhausted => ErrorKind::TooLarge,
                Code::Unavailable => ErrorKind::Unavailable,
                Code::DeadlineExceeded => ErrorKind::DeadlineExceeded,
                _ => ErrorKind::Upstream,
            };
            Err(Error::new(kind, error.message))
        }
        None => Err(Error::new(ErrorKind::Upstream, "neither a vector nor an error for this text")),
    }
}

fn known_setting(name: &str) -> Option<&'static str> {
    ["dimensions", "poolingStrategy"].into_iter().find(|&known| known == name)
}

/// tonic's transport: the replica's HTTP client.
#[derive(Clone)]
struct Wire {
    client: Client,
    base: String,
    headers: HeaderMap,
}

/// Why there is no answer, carried through tonic's status.
#[derive(Debug)]
struct Transport(Failure);

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.error().fmt(f)
    }
}

impl std::error::Error for Transport {}

impl Service<http::Request<tonic::body::Body>> for Wire {
    type Response = http::Response<reqwest::Body>;
    type Error = Transport;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let url = format!("{}{}", self.base.trim_end_matches('/'), parts.uri.path());
        let send = self.client.post(url).headers(parts.headers).headers(self.headers.clone());
        Box::pin(async move {
            let answer = send.body(whole(body).await?).send().await;
            let asked = Asked::new(format!("call {METHOD}"));
            Ok(answer.map_err(|error| Transport(transport(error, &asked)))?.into())
        })
    }
}

/// A unary request's body is small and there at once.
async fn whole(body: tonic::body::Body) -> Result<Vec<u8>, Transport> {
    let mut body = pin!(body);
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
        let frame = frame.map_err(|status| Transport(failure(&status)))?;
        bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_s_error_keeps_its_kind_and_old_sidecars_name_none() {
        for (code, reason, kind) in [
            (Code::ResourceExhausted, "overloaded", ErrorKind::Overloaded),
            (Code::ResourceExhausted, "too_large", ErrorKind::TooLarge),
            (Code::ResourceExhausted, "", ErrorKind::TooLarge),
            (Code::InvalidArgument, "invalid_argument", ErrorKind::InvalidArgument),
            (Code::Internal, "internal", ErrorKind::Upstream),
        ] {
            let error = proto::Error { code: code as i32, message: "m".to_owned(), reason: reason.to_owned() };
            let result = proto::VectorizeResult { result: Some(Outcome::Error(error)), ..Default::default() };
            assert_eq!(read(result).expect_err("an error").kind(), kind, "{code:?} {reason}");
        }
    }
}
