//! Weaviate: the class and tenants by its REST API, objects with their vectors by its gRPC one.
//!
//! What an answer says of single objects is believed only where it is the object's own fault. A shard that cannot write says
//! so for one object of a request and nothing of the others; so a request with any other error counts as not done at all.
//! And what may have been half done is deleted before it is sent again: Weaviate takes an equal object for one that needs no
//! work, even where it was stored and never reached the vector index.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Client, Method, StatusCode, Url};
use serde_json::{Value, json};
use tonic::codegen::InterceptedService;
use tonic::transport::Channel;

use crate::chunk::{Failed, Object};
use crate::collection::{Collection, Properties, Target};
use crate::error::{Error, Result};
use crate::options::{Consistency, WeaviateOptions};
use crate::outage::{Failure, Outage};
use crate::properties::on_the_wire;
use crate::sidecar::Made;
use crate::transport::{Bearer, CONNECT, MAX_ANSWER, causes, channel, check_url, grpc_url, mistake};
use crate::verdict::{all_the_same, failure, is_passing, is_the_object_s, is_too_large, said};
use crate::weaviate_v1::filters::Operator;
use crate::weaviate_v1::vectors::VectorType;
use crate::weaviate_v1::weaviate_client::WeaviateClient;
use crate::weaviate_v1::{
    BatchDeleteRequest, BatchObject, BatchObjectsRequest, ConsistencyLevel, FilterTarget, Filters, TextArray, Vectors,
};

/// How long Weaviate may take to answer about a class, a tenant or an object.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long it may take to insert a chunk. A slow vector index is no error, and a request that is given up is half done.
const INSERTION: Duration = Duration::from_secs(600);

/// Its gRPC port, unless told otherwise.
const GRPC_PORT: u16 = 50051;

/// Tenants that are known to be there are remembered, so many at most.
const KNOWN_TENANTS: usize = 100_000;

/// After so many attempts a request whose error says nothing of time is divided, to find the object at fault.
const WHOLE: u32 = 2;

/// A Weaviate and the collection that is filled.
pub(crate) struct Weaviate {
    rest: Client,
    url: String,
    api_key: Option<String>,
    grpc: WeaviateClient<InterceptedService<Channel, Bearer>>,
    consistency: Option<Consistency>,
    known_tenants: Mutex<HashSet<String>>,
}

/// What is inserted, and with which vectors: one for each target, or none where there is nothing to embed.
pub(crate) struct Entry {
    pub(crate) object: Object,
    pub(crate) vectors: Vec<Made>,
}

impl Weaviate {
    pub(crate) fn new(options: &WeaviateOptions, ca: Option<&[u8]>) -> Result<Weaviate> {
        let url = options.url.trim_end_matches('/').to_owned();
        let key = options.api_key.as_deref();
        check_url(&url, key, "--weaviate", "--weaviate-api-key")?;
        let grpc = match &options.grpc_url {
            Some(given) => grpc_url(given),
            None => beside(&url).ok_or_else(|| Error::new("--weaviate names no host: add --weaviate-grpc"))?,
        };
        check_url(&grpc, key, "--weaviate-grpc", "--weaviate-api-key")?;
        let mut rest = Client::builder().connect_timeout(CONNECT).timeout(PATIENCE);
        if let Some(pem) = ca {
            let trusted = reqwest::Certificate::from_pem_bundle(pem)
                .map_err(|error| Error::new(format!("--ca cannot be used: {}", causes(&error))))?;
            for certificate in trusted {
                rest = rest.add_root_certificate(certificate);
            }
        }
        let rest =
            rest.build().map_err(|error| Error::new(format!("no HTTP client can be made: {}", causes(&error))))?;
        let bearer = Bearer::new(key, "--weaviate-api-key")?;
        let channel = channel(&grpc, ca, "--weaviate-grpc")?;
        let grpc = WeaviateClient::with_interceptor(channel, bearer).max_decoding_message_size(MAX_ANSWER);
        Ok(Weaviate {
            rest,
            url,
            api_key: key.map(|key| key.trim().to_owned()),
            grpc,
            consistency: options.consistency,
            known_tenants: Mutex::default(),
        })
    }

    /// The class as Weaviate has it.
    pub(crate) async fn collection(&self, name: &str) -> Result<Collection> {
        let path = format!("/v1/schema/{}", escaped(name));
        match self.ask(Method::GET, &path, None).await? {
            (StatusCode::OK, answer) => Collection::of_json(answer, &format!("{}{path}", self.url)),
            (StatusCode::NOT_FOUND, _) => Err(Error::new(format!(
                "Weaviate at {} has no collection '{name}': create it first (or is that another server's address?)",
                self.url
            ))),
            (status, answer) => Err(self.refused(status, &answer)),
        }
    }

    /// The class as Weaviate has it by now.
    pub(crate) async fn collection_patiently(&self, name: &str, outage: &Outage) -> Result<Collection> {
        let path = format!("/v1/schema/{}", escaped(name));
        match self.ask_patiently(Method::GET, &path, None, outage).await? {
            (StatusCode::OK, answer) => Collection::of_json(answer, &format!("{}{path}", self.url)),
            (status, answer) => Err(self.refused(status, &answer)),
        }
    }

    /// Adds a property to the class: `Err` is why it cannot be.
    pub(crate) async fn add_property(
        &self,
        collection: &str,
        name: &str,
        data_type: &str,
        outage: &Outage,
    ) -> Result<Result<(), String>> {
        let path = format!("/v1/schema/{}/properties", escaped(collection));
        let property = json!({"name": name, "dataType": [data_type]});
        match self.ask_patiently(Method::POST, &path, Some(property), outage).await? {
            (status, _) if status.is_success() => Ok(Ok(())),
            (StatusCode::UNPROCESSABLE_ENTITY, answer) => {
                Ok(Err(format!("the property '{name}' cannot be added: {}", said(&answer))))
            }
            (status, answer) => Err(self.refused(status, &answer)),
        }
    }

    /// Whether an object is there. One of a tenant that is not there is not.
    pub(crate) async fn has(&self, collection: &str, id: &str, tenant: &str, outage: &Outage) -> Result<bool> {
        let query = if tenant.is_empty() { String::new() } else { format!("?tenant={}", escaped(tenant)) };
        let path = format!("/v1/objects/{}/{id}{query}", escaped(collection));
        match self.ask_patiently(Method::HEAD, &path, None, outage).await? {
            (StatusCode::NO_CONTENT | StatusCode::OK, _) => Ok(true),
            (StatusCode::NOT_FOUND, _) => Ok(false),
            (StatusCode::UNPROCESSABLE_ENTITY, _) if !tenant.is_empty() => Ok(false),
            (status, answer) => Err(self.refused(status, &answer)),
        }
    }

    /// Makes sure that a tenant is there: `Err` is what is wrong with objects of it.
    pub(crate) async fn ensure_tenant(
        &self,
        collection: &Collection,
        tenant: &str,
        create: bool,
        outage: &Outage,
    ) -> Result<Result<(), String>> {
        if self.known_tenants.lock().unwrap_or_else(PoisonError::into_inner).contains(tenant) {
            return Ok(Ok(()));
        }
        let tenants = format!("/v1/schema/{}/tenants", escaped(&collection.name));
        let path = format!("{tenants}/{}", escaped(tenant));
        let there = match self.ask_patiently(Method::GET, &path, None, outage).await? {
            (StatusCode::OK, _) => true,
            (StatusCode::NOT_FOUND | StatusCode::UNPROCESSABLE_ENTITY, _) => false,
            (status, answer) => return Err(self.refused(status, &answer)),
        };
        if !there && !create {
            return Ok(Err(format!("there is no tenant '{tenant}': --create-tenants makes those that are missing")));
        }
        if !there {
            match self.ask_patiently(Method::POST, &tenants, Some(json!([{"name": tenant}])), outage).await? {
                (status, _) if status.is_success() => {}
                (StatusCode::UNPROCESSABLE_ENTITY, answer) => {
                    return Ok(Err(format!("the tenant '{tenant}' cannot be made: {}", said(&answer))));
                }
                (status, answer) => return Err(self.refused(status, &answer)),
            }
        }
        let mut known = self.known_tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_TENANTS {
            known.clear();
        }
        known.insert(tenant.to_owned());
        Ok(Ok(()))
    }

    /// The same question until it is answered, by something else than trouble that may pass.
    async fn ask_patiently(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        outage: &Outage,
    ) -> Result<(StatusCode, Value)> {
        let mut attempt = 0;
        loop {
            let trouble = match self.ask(method.clone(), path, body.clone()).await {
                Ok((status, answer)) if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                    self.refused(status, &answer)
                }
                Ok(answer) => {
                    outage.succeeded();
                    return Ok(answer);
                }
                Err(trouble) => trouble,
            };
            attempt += 1;
            outage.wait(attempt, trouble.message()).await.map_err(Error::new)?;
        }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<(StatusCode, Value)> {
        let mut request = self.rest.request(method, format!("{}{path}", self.url));
        if let Some(key) = &self.api_key {
            request = request.bearer_auth(key);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let unreachable = |error: reqwest::Error| {
            let said = causes(&error.without_url());
            let remedy = mistake(&said).unwrap_or("see --weaviate");
            Error::new(format!("Weaviate cannot be reached at {}: {said}; {remedy}", self.url))
        };
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(unreachable)?;
        match serde_json::from_slice(&body) {
            Ok(value) => Ok((status, value)),
            Err(_) if body.is_empty() || !status.is_success() => Ok((status, Value::Null)),
            Err(_) => {
                Err(Error::new(format!("{}{path} does not answer with JSON: is that Weaviate's address?", self.url)))
            }
        }
    }

    fn refused(&self, status: StatusCode, answer: &Value) -> Error {
        let said = match said(answer) {
            text if text.is_empty() => String::new(),
            text => format!(": {text}"),
        };
        let remedy = match status {
            StatusCode::UNAUTHORIZED => ": give a key by --weaviate-api-key (T2V_WEAVIATE_API_KEY)",
            StatusCode::FORBIDDEN => " (the key's role does not allow it)",
            _ => "",
        };
        Error::new(format!("Weaviate at {} answers {status}{said}{remedy}", self.url))
    }

    /// Inserts objects, or replaces those with their ids. `doubtful`: an attempt before may have been half done. What cannot go
    /// in by its own fault comes back; `Err` ends the import.
    pub(crate) async fn insert(
        &self,
        collection: &Collection,
        entries: Vec<Entry>,
        doubtful: bool,
        outage: &Outage,
    ) -> Result<Vec<Failed>, String> {
        let mut failed = Vec::new();
        let mut ready = Vec::with_capacity(entries.len());
        for entry in entries {
            match on_the_wire_with_vectors(&entry, collection) {
                Ok(wire) => ready.push((entry.object, wire)),
                Err(reason) => failed.push(entry.object.failed(reason)),
            }
        }
        // Parts of a request, to be sent one by one.
        let mut parts = vec![(ready, doubtful)];
        while let Some((part, doubtful)) = parts.pop() {
            if !part.is_empty() {
                self.insert_part(collection, part, doubtful, outage, &mut parts, &mut failed).await?;
            }
        }
        Ok(failed)
    }

    async fn insert_part(
        &self,
        collection: &Collection,
        mut part: Vec<(Object, BatchObject)>,
        mut doubtful: bool,
        outage: &Outage,
        parts: &mut Vec<(Vec<(Object, BatchObject)>, bool)>,
        failed: &mut Vec<Failed>,
    ) -> Result<(), String> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let tried = async {
                if doubtful {
                    self.delete(collection, &part).await?;
                }
                self.send(&part).await
            };
            let reason = match tried.await {
                Ok(errors) if errors.is_empty() => {
                    outage.succeeded();
                    return Ok(());
                }
                Ok(errors) => {
                    doubtful = true;
                    if let Some(reason) = all_the_same(&errors, part.len()) {
                        return Err(format!("Weaviate refuses every object of a request: {reason}"));
                    }
                    if errors.iter().all(|(index, reason)| *index < part.len() && is_the_object_s(reason)) {
                        outage.succeeded();
                        failed.extend(errors.iter().map(|(index, reason)| part[*index].0.failed(reason)));
                        return Ok(());
                    }
                    let (_, reason) =
                        errors.into_iter().find(|(_, reason)| !is_the_object_s(reason)).unwrap_or_default();
                    if is_passing(&reason) {
                        reason
                    } else if part.len() == 1 {
                        outage.succeeded();
                        failed.push(part[0].0.failed(reason));
                        return Ok(());
                    } else if attempt >= WHOLE {
                        let rest = part.split_off(part.len() / 2);
                        parts.push((rest, true));
                        parts.push((part, true));
                        return Ok(());
                    } else {
                        reason
                    }
                }
                Err(Failure::Later(reason)) => {
                    doubtful = true;
                    reason
                }
                Err(Failure::Never(reason)) if is_too_large(&reason) && part.len() > 1 => {
                    let rest = part.split_off(part.len() / 2);
                    parts.push((rest, doubtful));
                    parts.push((part, doubtful));
                    return Ok(());
                }
                Err(Failure::Never(reason)) if is_too_large(&reason) => {
                    failed.push(part[0].0.failed(reason));
                    return Ok(());
                }
                Err(Failure::Never(reason)) => return Err(format!("Weaviate says: {reason}")),
            };
            outage.wait(attempt, &reason).await?;
        }
    }

    /// One request; the errors of single objects by their place.
    async fn send(&self, part: &[(Object, BatchObject)]) -> Result<Vec<(usize, String)>, Failure> {
        let objects = part.iter().map(|(_, wire)| wire.clone()).collect();
        let request = BatchObjectsRequest { objects, consistency_level: self.consistency_level() };
        let mut client = self.grpc.clone();
        let answered = tokio::time::timeout(INSERTION, client.batch_objects(request)).await;
        let answer = answered.map_err(|_| Failure::Later(format!("no answer within {} s", INSERTION.as_secs())))?;
        let errors = answer.map_err(|status| failure(&status))?.into_inner().errors;
        Ok(errors.into_iter().map(|error| (usize::try_from(error.index).unwrap_or(usize::MAX), error.error)).collect())
    }

    /// Deletes objects that may be half there.
    async fn delete(&self, collection: &Collection, part: &[(Object, BatchObject)]) -> Result<(), Failure> {
        let mut tenants: Vec<&str> = part.iter().map(|(object, _)| &*object.tenant).collect();
        tenants.sort_unstable();
        tenants.dedup();
        for tenant in tenants {
            let of_it = part.iter().filter(|(object, _)| object.tenant == tenant);
            let filters = Filters {
                operator: Operator::ContainsAny as i32,
                value_text_array: Some(TextArray { values: of_it.map(|(object, _)| object.id.clone()).collect() }),
                target: Some(FilterTarget { property: "_id".into() }),
            };
            let request = BatchDeleteRequest {
                collection: collection.name.clone(),
                filters: Some(filters),
                verbose: false,
                dry_run: false,
                consistency_level: self.consistency_level(),
                tenant: (!tenant.is_empty()).then(|| tenant.to_owned()),
            };
            loop {
                let mut client = self.grpc.clone();
                let answered = tokio::time::timeout(INSERTION, client.batch_delete(request.clone())).await;
                let answer =
                    answered.map_err(|_| Failure::Later(format!("no answer within {} s", INSERTION.as_secs())))?;
                let answer = match answer {
                    Ok(answer) => answer.into_inner(),
                    // Nor are its objects.
                    Err(status) if status.message().contains("tenant not found") => break,
                    Err(status) => return Err(failure(&status)),
                };
                if answer.failed > 0 {
                    let message = format!("{} objects that may be half there cannot be deleted", answer.failed);
                    return Err(Failure::Later(message));
                }
                // Weaviate deletes so many at once and no more.
                if answer.successful == 0 || answer.matches <= answer.successful {
                    break;
                }
            }
        }
        Ok(())
    }

    fn consistency_level(&self) -> Option<i32> {
        let level = match self.consistency? {
            Consistency::One => ConsistencyLevel::One,
            Consistency::Quorum => ConsistencyLevel::Quorum,
            Consistency::All => ConsistencyLevel::All,
        };
        Some(level as i32)
    }
}

/// The gRPC port beside a REST API.
fn beside(url: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    Some(format!("{}://{}:{GRPC_PORT}", url.scheme(), url.host_str()?))
}

/// An object and its vectors as they are sent. All of its vectors or none: a missing one would be made by Weaviate.
fn on_the_wire_with_vectors(entry: &Entry, collection: &Collection) -> Result<BatchObject, String> {
    let Entry { object, vectors } = entry;
    let properties: &Properties = &collection.properties;
    let mut wire = BatchObject {
        uuid: object.id.clone(),
        properties: Some(on_the_wire(&object.properties, properties)?),
        collection: collection.name.clone(),
        tenant: object.tenant.clone(),
        ..BatchObject::default()
    };
    for (Target { name, .. }, made) in collection.targets.iter().zip(vectors) {
        let bytes = match made {
            Made::Vector(vector) => vector.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Made::Nothing => continue,
            Made::Refused(reason) => return Err(reason.clone()),
        };
        match name.is_empty() {
            true => wire.vector_bytes = bytes,
            false => {
                let r#type = VectorType::SingleFp32 as i32;
                wire.vectors.push(Vectors { name: name.clone(), vector_bytes: bytes, r#type });
            }
        }
    }
    Ok(wire)
}

/// A name within a path.
fn escaped(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_without_tls_is_no_outage() {
        let url = format!("https://{}", crate::transport::tests::plain_server().await);
        let options =
            WeaviateOptions { url: url.clone(), grpc_url: Some(url), ..crate::options::tests::options().weaviate };
        let weaviate = Weaviate::new(&options, None).expect("a client");
        let error = weaviate.collection("A").await.expect_err("refused");
        assert!(error.message().contains("it speaks no TLS there"), "{error}");
        let object = Object {
            number: 1,
            id: "4e6b37f6-1d0c-4d2e-9a52-9c5b6a0c9e11".into(),
            tenant: String::new(),
            json: "{}".into(),
            properties: serde_json::Map::new(),
            kept: crate::chunk::Kept::Properties,
        };
        let class = json!({"class": "A", "vectorizer": "text2vec-transformers"});
        let collection = Collection::of_json(class, "a test").expect("a class");
        let entries = vec![Entry { object, vectors: vec![Made::Nothing] }];
        let outage = Outage::new("Weaviate", Duration::from_secs(300));
        let inserted = weaviate.insert(&collection, entries, false, &outage);
        let inserted = tokio::time::timeout(Duration::from_secs(20), inserted).await.expect("no outage");
        let error = inserted.expect_err("refused");
        assert!(error.contains("it speaks no TLS there"), "{error}");
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(escaped("Artikel_1"), "Artikel_1");
        assert_eq!(escaped("a/b ü?"), "a%2Fb%20%C3%BC%3F");
    }
}
