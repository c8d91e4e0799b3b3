//! Exchanges held against the document that the server itself serves: status, content type, headers, and bodies by JSON
//! Schema 2020-12. What is answered must be described to the last field.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use boon::{Compiler, Draft, SchemaIndex, Schemas};
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::support::TestServer;

const LOCATION: &str = "http://described/openapi.json";

/// Objects whose names are not ours: whatever stands there, more may stand there.
const OPEN: &[&str] = &["model", "model_info", "id2label", "label2id", "input"];

/// Where `/meta` has what another server says.
const THEIRS: &[&str] = &["", "/passage", "/query"];

/// So many entries of a list are looked into.
const ENOUGH: usize = 3;

/// Headers that are described and need not come.
const OPTIONAL_HEADERS: &[&str] = &["www-authenticate"];

/// An operation of the document and the status of its answer.
pub(super) type Answered = (String, String, u16);

/// The document, and what has been held against it.
pub(super) struct Checker {
    pub(super) document: Value,
    compiler: Compiler,
    schemas: Schemas,
    compiled: BTreeMap<String, SchemaIndex>,
    pub(super) seen: BTreeSet<Answered>,
    pub(super) exchanges: usize,
    /// Exchanges that are not as they are described.
    pub(super) faults: Vec<String>,
}

/// A request to an operation of the document.
#[derive(Clone)]
pub(super) struct Asked {
    method: Method,
    path: String,
    parameters: Vec<(&'static str, String)>,
    headers: Vec<(&'static str, String)>,
    body: Option<Vec<u8>>,
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = self.body.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        let body: String = body.chars().take(300).collect();
        write!(f, "{} {} {:?} {body}", self.method, self.target(), self.headers)
    }
}

impl Asked {
    /// `path` is the document's own.
    pub(super) fn get(path: &str) -> Asked {
        Asked { method: Method::GET, path: path.to_owned(), parameters: vec![], headers: vec![], body: None }
    }

    pub(super) fn post(path: &str, body: &Value) -> Asked {
        let headers = vec![("content-type", "application/json".to_owned())];
        Asked { method: Method::POST, headers, body: Some(body.to_string().into_bytes()), ..Asked::get(path) }
    }

    pub(super) fn parameter(mut self, name: &'static str, value: &str) -> Asked {
        self.parameters.push((name, value.to_owned()));
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: &str) -> Asked {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.to_owned()));
        self
    }

    pub(super) fn body(self, body: impl Into<Vec<u8>>) -> Asked {
        Asked { body: Some(body.into()), ..self }
    }

    /// The path with its parameters.
    pub(super) fn target(&self) -> String {
        self.parameters
            .iter()
            .fold(self.path.clone(), |path, (name, value)| path.replace(&format!("{{{name}}}"), value))
    }

    pub(super) fn operation(&self) -> (&str, String) {
        (&self.path, self.method.as_str().to_lowercase())
    }
}

/// What came back.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

pub(super) fn client() -> Client {
    Client::builder().no_proxy().build().expect("client")
}

/// Sends a request.
pub(super) async fn sent(server: &TestServer, asked: &Asked) -> Answer {
    let mut request = client().request(asked.method.clone(), server.url(&asked.target()));
    for (name, value) in &asked.headers {
        request = request.header(*name, value);
    }
    if let Some(body) = &asked.body {
        request = request.body(body.clone());
    }
    let response = request.send().await.expect("an answer");
    let status = response.status().as_u16();
    let headers = response.headers().iter();
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned())).collect();
    Answer { status, headers, body: response.bytes().await.expect("a body").to_vec() }
}

/// A name within a JSON pointer in a URL.
fn escaped(name: &str) -> String {
    let name = name.replace('~', "~0").replace('/', "~1");
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"~-_.".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn pointer(names: &[&str]) -> String {
    names.iter().map(|name| format!("/{}", escaped(name))).collect()
}

impl Checker {
    /// Of the document that a server serves.
    pub(super) async fn of(server: &TestServer) -> Checker {
        let answer = sent(server, &Asked::get("/openapi.json")).await;
        assert_eq!(answer.status, 200);
        let document = answer.json();
        let mut compiler = Compiler::new();
        compiler.set_default_draft(Draft::V2020_12);
        compiler.add_resource(LOCATION, document.clone()).expect("a document");
        let (schemas, compiled) = (Schemas::new(), BTreeMap::new());
        Checker { document, compiler, schemas, compiled, seen: BTreeSet::new(), exchanges: 0, faults: Vec::new() }
    }

    /// Every operation of the document with each of its statuses.
    pub(super) fn described(&self) -> BTreeSet<Answered> {
        let mut described = BTreeSet::new();
        for (path, item) in self.document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("operations") {
                for status in operation["responses"].as_object().expect("responses").keys() {
                    described.insert((path.clone(), method.clone(), status.parse().expect("a status")));
                }
            }
        }
        described
    }

    /// Why a value does not fit the schema at a place of the document, if it does not.
    pub(super) fn misfit(&mut self, place: &str, value: &Value) -> Option<String> {
        let schema = match self.compiled.get(place) {
            Some(schema) => *schema,
            None => {
                let compiled = self.compiler.compile(&format!("{LOCATION}#{place}"), &mut self.schemas);
                let schema = compiled.unwrap_or_else(|error| panic!("{place}: {error:#}"));
                self.compiled.insert(place.to_owned(), schema);
                schema
            }
        };
        self.schemas.validate(value, schema).err().map(|error| format!("{error:#}"))
    }

    /// The place of an answer in the document: where it is, or where it refers to.
    fn place_of(&self, path: &str, method: &str, status: &str) -> Option<(Value, Vec<String>)> {
        let answer = self.document["paths"].get(path)?.get(method)?["responses"].get(status)?;
        match answer["$ref"].as_str() {
            None => {
                let place = ["paths", path, method, "responses", status].map(str::to_owned);
                Some((answer.clone(), place.to_vec()))
            }
            Some(reference) => {
                let name = reference.strip_prefix("#/components/responses/").expect("a response");
                let place = ["components", "responses", name].map(str::to_owned);
                Some((self.document["components"]["responses"][name].clone(), place.to_vec()))
            }
        }
    }

    /// Sends a request and holds it and its answer against the document.
    pub(super) async fn exchange(&mut self, server: &TestServer, asked: &Asked) -> Answer {
        let answer = sent(server, asked).await;
        self.hold(asked, &answer);
        answer
    }

    /// Holds a request and its answer against the document.
    pub(super) fn hold(&mut self, asked: &Asked, answer: &Answer) {
        self.exchanges += 1;
        let (path, method) = asked.operation();
        self.seen.insert((path.to_owned(), method, answer.status));
        if let Err(fault) = self.held(asked, answer) {
            let body: String = String::from_utf8_lossy(&answer.body).chars().take(500).collect();
            self.faults.push(format!("{fault}\n{asked:?}\n{} {body}", answer.status));
        }
    }

    fn held(&mut self, asked: &Asked, answer: &Answer) -> Result<(), String> {
        let (path, method) = asked.operation();
        let status = answer.status.to_string();
        let Some((described, place)) = self.place_of(path, &method, &status) else {
            return Err("no such answer is described".to_owned());
        };
        for name in described["headers"].as_object().into_iter().flat_map(|headers| headers.keys()) {
            let name = name.to_lowercase();
            let came = answer.headers.contains_key(&name) || OPTIONAL_HEADERS.contains(&&*name);
            if !came {
                return Err(format!("it has no header {name}"));
            }
        }
        match described["content"].as_object() {
            None if answer.body.is_empty() => {}
            None => return Err("it has a body".to_owned()),
            Some(content) => {
                let kind = answer.headers.get("content-type").map_or("none", String::as_str);
                if !content.contains_key(kind) {
                    return Err(format!("its type is {kind}"));
                }
                let place: Vec<&str> = place.iter().map(String::as_str).chain(["content", kind, "schema"]).collect();
                let place = pointer(&place);
                let value = match kind {
                    "application/json" => serde_json::from_slice(&answer.body).expect("JSON"),
                    _ => Value::from(String::from_utf8(answer.body.clone()).expect("text")),
                };
                if let Some(misfit) = self.misfit(&place, &value) {
                    return Err(misfit);
                }
                // But for the document itself, which is any.
                if path != "/openapi.json" {
                    self.must_be_closed(&place, &value)?;
                }
            }
        }
        if let (200..300, Some(body)) = (answer.status, &asked.body)
            && let Ok(body) = serde_json::from_slice(body)
        {
            let place = pointer(&["paths", path, &method, "requestBody", "content", "application/json", "schema"]);
            if let Some(misfit) = self.misfit(&place, &body) {
                return Err(format!("the request: {misfit}"));
            }
        }
        Ok(())
    }

    /// A field that is not described must not fit, wherever it stands.
    fn must_be_closed(&mut self, place: &str, value: &Value) -> Result<(), String> {
        // What another server says of itself is its own.
        let is_meta = place.contains("~1meta/");
        let is_theirs = |inside: &str| {
            let sidecar = value.pointer(&format!("{inside}/sidecar"));
            is_meta && sidecar.is_some_and(|sidecar| sidecar.get("upstream").is_some())
        };
        for inside in objects(value).iter().filter(|inside| !THEIRS.contains(&inside.as_str()) || !is_theirs(inside)) {
            let mut more = value.clone();
            let object = more.pointer_mut(inside).expect("there").as_object_mut().expect("an object");
            object.insert("not described".to_owned(), json!(1));
            if self.misfit(place, &more).is_none() {
                return Err(format!("at '{inside}' anything fits {place}"));
            }
        }
        Ok(())
    }
}

/// Pointers to the objects in a value, but for those whose names are not ours.
fn objects(value: &Value) -> Vec<String> {
    fn walk(value: &Value, at: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                found.push(at.to_owned());
                for (name, value) in fields.iter().filter(|(name, _)| !OPEN.contains(&name.as_str())) {
                    walk(value, &format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), found);
                }
            }
            Value::Array(values) => {
                for (index, value) in values.iter().enumerate().take(ENOUGH) {
                    walk(value, &format!("{at}/{index}"), found);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(value, "", &mut found);
    found
}
