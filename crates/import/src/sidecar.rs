//! The sidecar, which makes the vectors: one stream for each chunk and vector.

use tonic::codegen::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::chunk::Object;
use crate::collection::{Collection, Target};
use crate::error::{Error, Result};
use crate::options::SidecarOptions;
use crate::outage::{Failure, Outage};
use crate::text2vec::module_client::ModuleClient;
use crate::text2vec::object_result::Result as Answer;
use crate::text2vec::vectorize_batch_stream_request::Message;
use crate::text2vec::{
    ClassConfig, MetaInfoRequest, Object as Sent, VectorizeBatchHeader, VectorizeBatchStreamRequest,
    VectorizeBatchStreamResponse,
};
use crate::transport::{Bearer, MAX_ANSWER, channel, check_url, grpc_url, mistake};

/// Reasons of errors after which another try may succeed, as the interface names them.
const LATER: [&str; 4] = ["slow_request", "overloaded", "unavailable", "upstream"];

/// What became of an object for one of its vectors.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Made {
    Vector(Vec<f32>),
    /// There is nothing to embed: Weaviate has no vector of it either.
    Nothing,
    Refused(String),
}

/// The sidecar with its model taken out of the URL, which names it as Weaviate's URLs do: `http://host:port/models/<name>`.
pub(crate) fn with_model_of_url(options: SidecarOptions) -> Result<SidecarOptions> {
    let url = grpc_url(&options.url);
    check_url(&url, options.token.as_deref(), "--sidecar", "--sidecar-token")?;
    let begin = url.find("://").map_or(0, |at| at + 3);
    let end = url[begin..].find(['/', '?', '#']).map_or(url.len(), |at| begin + at);
    let (server, path) = url.split_at(end);
    let path = path.strip_suffix('/').unwrap_or(path);
    let named = match path.strip_prefix("/models/") {
        None if path.is_empty() => return Ok(SidecarOptions { url: server.to_owned(), ..options }),
        Some(name) if !name.is_empty() && !name.contains(['/', '?', '#', '%']) => name,
        _ => {
            return Err(Error::new(
                "--sidecar has more than host and port: use host:port, and name a model by --sidecar-model",
            ));
        }
    };
    match options.model.as_str() {
        "" => {}
        model if model == named => {}
        model => {
            return Err(Error::new(format!(
                "--sidecar names the model '{named}', and --sidecar-model '{model}': leave one of them out"
            )));
        }
    }
    Ok(SidecarOptions { url: server.to_owned(), model: named.to_owned(), ..options })
}

/// A sidecar, and what its vectors are to be like.
#[derive(Clone)]
pub(crate) struct Sidecar {
    client: ModuleClient<InterceptedService<Channel, Bearer>>,
    url: String,
    model: String,
}

impl Sidecar {
    pub(crate) fn new(options: &SidecarOptions, ca: Option<&[u8]>) -> Result<Sidecar> {
        let SidecarOptions { url, model, .. } = with_model_of_url(options.clone())?;
        let bearer = Bearer::new(options.token.as_deref(), "--sidecar-token")?;
        let channel = channel(&url, ca, "--sidecar")?;
        let client = ModuleClient::with_interceptor(channel, bearer).max_decoding_message_size(MAX_ANSWER);
        Ok(Sidecar { client, url, model })
    }

    /// What names the weights, the tokenizer and every setting of the model that makes the vectors; empty where the sidecar
    /// does not say, as for a model of an upstream.
    pub(crate) async fn fingerprint(&self, outage: &Outage) -> Result<String> {
        let mut attempt = 0;
        loop {
            let mut client = self.client.clone();
            let asked = client.meta_info(MetaInfoRequest { model: self.model.clone() });
            match in_time(outage, asked).await {
                Ok(answer) => {
                    let meta = answer.into_inner().meta.unwrap_or_default();
                    let text = |value: &prost_types::Value| match &value.kind {
                        Some(prost_types::value::Kind::StringValue(text)) => Some(text.clone()),
                        _ => None,
                    };
                    let sidecar = meta.fields.get("sidecar").and_then(|value| match &value.kind {
                        Some(prost_types::value::Kind::StructValue(fields)) => fields.fields.get("fingerprint"),
                        _ => None,
                    });
                    return Ok(sidecar.and_then(text).unwrap_or_default());
                }
                Err(status) => {
                    attempt += 1;
                    self.again(attempt, &status, outage).await.map_err(Error::new)?;
                }
            }
        }
    }

    /// One vector of each of these, in their order. What failed for now is asked for again.
    pub(crate) async fn vectorize(
        &self,
        collection: &Collection,
        objects: &[Object],
        target: &Target,
        outage: &Outage,
    ) -> Result<Vec<Made>, String> {
        let mut made: Vec<Option<Made>> = vec![None; objects.len()];
        let mut attempt = 0;
        loop {
            let missing: Vec<usize> = (0..objects.len()).filter(|&index| made[index].is_none()).collect();
            if missing.is_empty() {
                return Ok(made.into_iter().flatten().collect());
            }
            let asked = self.stream(collection, objects, &missing, target, outage, &mut made).await;
            if missing.iter().any(|&index| made[index].is_some()) {
                outage.succeeded();
                attempt = 0;
            }
            let reason = match asked {
                Ok(None) => continue,
                Ok(Some(reason)) => reason,
                Err(status) => {
                    attempt += 1;
                    self.again(attempt, &status, outage).await?;
                    continue;
                }
            };
            attempt += 1;
            outage.wait(attempt, &reason).await?;
        }
    }

    /// One stream. What it says of an object is noted; what may succeed later stays open, with the reason.
    async fn stream(
        &self,
        collection: &Collection,
        objects: &[Object],
        missing: &[usize],
        target: &Target,
        outage: &Outage,
        made: &mut [Option<Made>],
    ) -> Result<Option<String>, Status> {
        let config = ClassConfig {
            class_json: collection.json.clone(),
            target_vector: target.name.clone(),
            tenant: String::new(),
            model: self.model.clone(),
            module_name: target.module.to_owned(),
        };
        let header = VectorizeBatchHeader { config: Some(config), return_text: false };
        let mut messages = vec![VectorizeBatchStreamRequest { message: Some(Message::Header(header)) }];
        messages.extend(missing.iter().map(|&index| {
            let properties = Some(crate::text2vec::object::Properties::Json(objects[index].json.clone()));
            let sent = Sent { class: String::new(), id: objects[index].id.clone(), properties };
            VectorizeBatchStreamRequest { message: Some(Message::Object(sent)) }
        }));
        let sent = futures_util::stream::iter(messages);
        let mut client = self.client.clone();
        let mut answers = in_time(outage, client.vectorize_batch_stream(sent)).await?.into_inner();
        let (mut answered, mut later) = (0, None);
        while let Some(VectorizeBatchStreamResponse { index, result }) = in_time(outage, answers.message()).await? {
            let place = usize::try_from(index).ok().and_then(|index| missing.get(index)).copied();
            let place = place.ok_or_else(|| Status::internal(format!("an answer of no object: index {index}")))?;
            answered += 1;
            made[place] = match result.and_then(|result| result.result) {
                Some(Answer::Vector(vector)) if vector.values.iter().all(|value| value.is_finite()) => {
                    Some(Made::Vector(vector.values))
                }
                Some(Answer::Vector(_)) => Some(Made::Refused("its vector has numbers that are none".into())),
                Some(Answer::Skipped(_)) => Some(Made::Nothing),
                Some(Answer::Error(error)) if LATER.contains(&&*error.reason) => {
                    later = Some(error.message);
                    None
                }
                Some(Answer::Error(error)) => Some(Made::Refused(error.message)),
                None => {
                    Some(Made::Refused("the sidecar says nothing of it: is it a newer one than this program?".into()))
                }
            };
        }
        if answered < missing.len() {
            return Err(Status::unavailable("the stream ended before every object was answered"));
        }
        Ok(later)
    }

    /// Waits after a call that failed as a whole; `Err` if another one will not succeed.
    async fn again(&self, attempt: u32, status: &Status, outage: &Outage) -> Result<(), String> {
        match failure(status) {
            Failure::Later(reason) => outage.wait(attempt, &format!("{reason} ({})", self.url)).await,
            Failure::Never(reason) => Err(format!("the sidecar at {} says: {reason}", self.url)),
        }
    }
}

/// An answer, unless the sidecar is silent for too long.
async fn in_time<T>(outage: &Outage, answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let patience = outage.patience();
    let silent = |_| Status::unavailable(format!("nothing came within {} s", patience.as_secs()));
    tokio::time::timeout(patience, answer).await.unwrap_or_else(|elapsed| Err(silent(elapsed)))
}

/// What a call that failed as a whole means.
fn failure(status: &Status) -> Failure {
    let reason = status.metadata().get("t2v-reason").and_then(|reason| reason.to_str().ok());
    let is_later = match reason {
        Some(reason) => LATER.contains(&reason),
        // Of a proxy, or of a connection that broke.
        None => !matches!(
            status.code(),
            Code::InvalidArgument
                | Code::NotFound
                | Code::Unimplemented
                | Code::Unauthenticated
                | Code::PermissionDenied
                | Code::FailedPrecondition
        ),
    };
    let said = match status.message() {
        "" => format!("{:?}", status.code()),
        message => message.to_owned(),
    };
    let said = match std::error::Error::source(status) {
        Some(cause) => format!("{said}: {}", crate::transport::causes(cause)),
        None => said,
    };
    if status.code() == Code::Unauthenticated {
        let remedy = "it wants a token, or another one: give it by --sidecar-token (T2V_SIDECAR_TOKEN)";
        return Failure::Never(remedy.to_owned());
    }
    if let Some(remedy) = mistake(&said) {
        return Failure::Never(format!("{said}: {remedy}"));
    }
    if is_later { Failure::Later(said) } else { Failure::Never(said) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_may_name_the_model_and_nothing_else() {
        let read = |url: &str, model: &str| {
            with_model_of_url(SidecarOptions { url: url.into(), token: None, model: model.into() })
        };
        for (url, model, expected) in [
            ("localhost:8081", "", ("http://localhost:8081", "")),
            ("https://s:1/", "m", ("https://s:1", "m")),
            ("http://s:1/models/rank", "", ("http://s:1", "rank")),
            ("s:1/models/rank/", "rank", ("http://s:1", "rank")),
            ("grpcs://[::1]:1/models/a.b", "", ("https://[::1]:1", "a.b")),
        ] {
            let options = read(url, model).expect("understood");
            assert_eq!((&*options.url, &*options.model), expected, "{url}");
        }
        for url in ["s:1/models/nope/any?x=y", "s:1/models", "s:1/models/", "s:1/x", "s:1?model=a", "s:1/models/a%20b"]
        {
            let error = read(url, "").expect_err("refused");
            assert!(error.message().contains("--sidecar-model"), "{url}: {error}");
        }
        let error = read("s:1/models/rank", "other").expect_err("refused");
        assert!(error.message().contains("'rank'") && error.message().contains("'other'"), "{error}");
        let error = read("http://u:hunter2@s:1/x", "").expect_err("refused");
        assert!(!error.message().contains("hunter2"), "{error}");
    }

    #[tokio::test]
    async fn a_server_without_tls_is_no_outage() {
        let address = crate::transport::tests::plain_server().await;
        let options = SidecarOptions { url: format!("https://{address}"), token: None, model: String::new() };
        let sidecar = Sidecar::new(&options, None).expect("a sidecar");
        let outage = Outage::new("the sidecar", std::time::Duration::from_secs(300));
        let asked = sidecar.fingerprint(&outage);
        let asked = tokio::time::timeout(std::time::Duration::from_secs(20), asked).await.expect("no outage");
        let error = asked.expect_err("refused");
        assert!(error.message().contains("it speaks no TLS there"), "{error}");
    }

    #[test]
    fn a_token_is_asked_for_by_its_flag() {
        let refused = Status::unauthenticated("give it in a URL http://any:<token>@host:port");
        let Failure::Never(said) = failure(&refused) else { panic!("another attempt") };
        assert!(said.contains("--sidecar-token") && !said.contains("http://"), "{said}");
    }

    #[test]
    fn statuses_are_worth_another_try_or_not() {
        let with_reason = |code: Code, reason: &'static str| {
            let mut status = Status::new(code, "x");
            status.metadata_mut().insert("t2v-reason", reason.parse().expect("ASCII"));
            status
        };
        for (status, is_later) in [
            (Status::unavailable("x"), true),
            (Status::unauthenticated("x"), false),
            (Status::invalid_argument("x"), false),
            (with_reason(Code::ResourceExhausted, "overloaded"), true),
            (with_reason(Code::ResourceExhausted, "too_large"), false),
            (with_reason(Code::Unavailable, "upstream"), true),
        ] {
            assert_eq!(matches!(failure(&status), Failure::Later(_)), is_later, "{status:?}");
        }
    }
}
