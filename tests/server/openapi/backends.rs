//! Backends that answer whatever a text asks for: vectors, scores, an error of any kind, or nothing for a long time.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::{Map, Value};
use text2vec_sidecar::backend::meta::{Meta, ReplicaReport, Served, Subject, UpstreamReport};
use text2vec_sidecar::backend::scoring::{Activation, Scoring};
use text2vec_sidecar::backend::{Backend, Embedding, ModelInfo};
use text2vec_sidecar::contract::call::Call;
use text2vec_sidecar::error::{Error, ErrorKind, Result};

/// A backend that does as it is told: `kind:<label>` fails the call, `fail` fails the text, `slow` takes a minute, `long` is
/// cut.
pub(super) struct Told {
    info: ModelInfo,
    /// It is beyond help, and so is what it forwards to.
    broken: bool,
}

impl Told {
    /// Makes vectors of three numbers.
    pub(super) fn embedder(name: &str) -> Arc<Told> {
        let info =
            ModelInfo { name: name.into(), fingerprint: "0".into(), dimensions: Some(3), ..ModelInfo::default() };
        Arc::new(Told { info, broken: false })
    }

    /// Scores pairs.
    pub(super) fn reranker(name: &str) -> Arc<Told> {
        let scoring = Scoring { labels: vec!["LABEL_0".into()], activation: Activation::Sigmoid };
        let info = ModelInfo {
            name: name.into(),
            fingerprint: "1".into(),
            scoring: Some(scoring.into()),
            ..ModelInfo::default()
        };
        Arc::new(Told { info, broken: false })
    }

    pub(super) fn broken(name: &str) -> Arc<Told> {
        let info = Told::embedder(name).info.clone();
        Arc::new(Told { info, broken: true })
    }
}

impl Backend for Told {
    fn embed(&self, call: Call) -> BoxFuture<'_, Result<Vec<Result<Embedding>>>> {
        let numbers = self.info.numbers().unwrap_or(3);
        Box::pin(async move {
            for text in &call.texts {
                if let Some(label) = text.strip_prefix("kind:") {
                    return Err(Error::new(ErrorKind::labelled(label).expect("a kind"), "as it was told"));
                }
                if &**text == "slow" {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                }
            }
            let embed = |text: &str| match text {
                "fail" => Err(Error::invalid("this text fails")),
                text => Ok(Embedding {
                    vector: (0..numbers).map(|i| (text.len() + i) as f32 / 8.0).collect(),
                    tokens: 1,
                    truncated: text == "long",
                    ignored: Vec::new(),
                }),
            };
            Ok(call.texts.iter().map(|text| embed(text)).collect())
        })
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn trouble(&self) -> Option<&'static str> {
        self.broken.then_some("it is broken")
    }

    fn meta(&self) -> Meta {
        let said = Map::from_iter([("model".to_owned(), Value::from("theirs")), ("more".to_owned(), Value::from(1))]);
        let url = "http://t2v:8080".to_owned();
        let replica =
            ReplicaReport { url: url.clone(), address: "10.0.0.1:8080".to_owned(), ..ReplicaReport::default() };
        let upstream = UpstreamReport { url, kind: Some("t2v"), replicas: vec![replica], sidecar: None };
        Meta::of(Subject::Upstream(said.into()), Served::Upstream { upstream, fingerprint: "0".to_owned() })
    }

    fn live_meta(&self) -> BoxFuture<'_, Result<Option<Meta>>> {
        let answer = match self.broken {
            true => Err(Error::new(ErrorKind::Upstream, "nobody answers (upstream http://t2v:8080)")),
            false => Ok(Some(self.meta())),
        };
        Box::pin(async { answer })
    }
}
