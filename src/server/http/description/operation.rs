//! How a route is described: an OpenAPI operation and the schemas it names. Errors are described by the very bodies
//! that are answered ([`ErrorBody`]), so that statuses, shapes and examples are those of the program.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::content::{Content, ContentBuilder};
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::path::{OperationBuilder, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{Ref, RefOr, Required};

use super::super::errors::{ErrorBody, is_temporary};
use super::refusals;
use super::shapes::{named, of};
use crate::error::{Error, ErrorKind};
use crate::server::http::asked::TIMEOUT_HEADER;

/// Names of the security schemes.
pub(super) const BEARER: &str = "bearer";
/// See [`BEARER`].
pub(super) const BASIC: &str = "basic";

/// The surfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server::http) enum Tag {
    Weaviate,
    Reranking,
    OpenAi,
    Ollama,
    Tei,
    Operation,
    Description,
}

impl Tag {
    pub(super) const ALL: [Tag; 7] =
        [Tag::Weaviate, Tag::Reranking, Tag::OpenAi, Tag::Ollama, Tag::Tei, Tag::Operation, Tag::Description];

    /// Its name, and what it is.
    pub(super) fn words(self) -> (&'static str, &'static str) {
        match self {
            Tag::Weaviate => (
                "Weaviate",
                "The API of the container `t2v-transformers-models`, as `text2vec-transformers` speaks it.",
            ),
            Tag::Reranking => (
                "Reranking",
                "As Weaviate's `reranker-transformers`, text-embeddings-inference, Cohere and Jina have it.",
            ),
            Tag::OpenAi => ("OpenAI", "OpenAI's API for embeddings."),
            Tag::Ollama => ("Ollama", "Ollama's API for embeddings, and what its clients ask about models."),
            Tag::Tei => ("text-embeddings-inference", "The API of text-embeddings-inference (TEI)."),
            Tag::Operation => ("Operation", "Health and metrics."),
            Tag::Description => ("Description", "This description, open to all."),
        }
    }
}

/// Who is asked for a token where tokens are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Everybody.
    Guarded,
    /// Nobody.
    Open,
    /// Everybody, if the operator wants it.
    AsToldBy(&'static str),
}

/// An error's body as it is described: the name of its schema, its status and the body itself.
type Refuse = fn(&Error) -> (u16, String, Value);

fn refuse<E: ErrorBody>(error: &Error) -> (u16, String, Value) {
    let body = serde_json::to_value(E::of(error)).unwrap_or_default();
    (E::status(error.kind()).as_u16(), E::name().into_owned(), body)
}

/// A refusal: its kind, the name of its body's schema, and an example.
struct Refusal {
    kind: ErrorKind,
    schema: String,
    example: Value,
}

/// Schemas by their names.
pub(in crate::server::http) type Schemas = BTreeMap<String, RefOr<Schema>>;

/// The description of an operation.
pub(in crate::server::http) struct Described {
    id: &'static str,
    summary: &'static str,
    about: String,
    tag: Tag,
    access: Access,
    body: Option<Content>,
    waits: bool,
    parameters: Vec<Parameter>,
    answers: BTreeMap<u16, ResponseBuilder>,
    /// In the shape in which everything before the route answers for this path.
    refuse: Refuse,
    refusals: BTreeMap<u16, Vec<Refusal>>,
    schemas: Schemas,
}

impl Described {
    /// An operation of a surface, whose errors have the shape `E` unless it is said otherwise.
    pub(super) fn new<E: ErrorBody>(tag: Tag, id: &'static str, summary: &'static str) -> Described {
        let described = Described {
            id,
            summary,
            about: String::new(),
            tag,
            access: Access::Guarded,
            body: None,
            waits: false,
            parameters: Vec::new(),
            answers: BTreeMap::new(),
            refuse: refuse::<E>,
            refusals: BTreeMap::new(),
            schemas: Schemas::new(),
        };
        described.with_schema::<E>()
    }

    fn with_schema<T: ToSchema>(mut self) -> Described {
        let mut schemas = Vec::new();
        named::<T>(&mut schemas);
        self.schemas.extend(schemas);
        self
    }

    /// What is to be known beyond the summary.
    pub(super) fn about(self, about: impl Into<String>) -> Described {
        Described { about: about.into(), ..self }
    }

    /// It is answered without a token.
    pub(super) fn open(self) -> Described {
        Described { access: Access::Open, ..self }
    }

    /// It is answered without a token unless a flag is given.
    pub(super) fn open_without(self, flag: &'static str) -> Described {
        Described { access: Access::AsToldBy(flag), ..self }
    }

    /// The JSON body that it takes, with examples by their names.
    pub(super) fn takes<T: ToSchema>(self, examples: &[(&str, Value)]) -> Described {
        let examples = examples.iter().map(|(name, value)| {
            (*name, RefOr::T(ExampleBuilder::new().summary(*name).value(Some(value.clone())).build()))
        });
        let content = ContentBuilder::new().schema(Some(of::<T>())).examples_from_iter(examples).build();
        Described { body: Some(content), ..self.with_schema::<T>() }
    }

    /// It is given up when its caller waits no longer.
    pub(super) fn waits(self) -> Described {
        Described { waits: true, ..self }
    }

    /// A parameter in the path.
    pub(super) fn parameter(mut self, name: &str, about: &str, example: &str) -> Described {
        self.parameters.push(in_path(name, about, example));
        self
    }

    /// 200 with JSON.
    pub(super) fn answers<T: ToSchema>(self, about: &str, examples: &[(&str, Value)]) -> Described {
        self.with_body::<T>(200, about, examples)
    }

    /// A status with JSON.
    pub(super) fn with_body<T: ToSchema>(mut self, status: u16, about: &str, examples: &[(&str, Value)]) -> Described {
        let examples = examples.iter().map(|(name, value)| {
            (*name, RefOr::T(ExampleBuilder::new().summary(*name).value(Some(value.clone())).build()))
        });
        let content = ContentBuilder::new().schema(Some(of::<T>())).examples_from_iter(examples).build();
        self.answers.insert(status, ResponseBuilder::new().description(about).content("application/json", content));
        self.with_schema::<T>()
    }

    /// 200 with text of some type; of one type or another, where it is said again.
    pub(super) fn says(mut self, content_type: &str, about: &str) -> Described {
        let text = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).build();
        let content = ContentBuilder::new().schema(Some(Schema::Object(text))).build();
        let answer = self.answers.remove(&200).unwrap_or_else(|| ResponseBuilder::new().description(about));
        self.answers.insert(200, answer.content(content_type, content));
        self
    }

    /// A status without a body.
    pub(super) fn without_body(mut self, status: u16, about: &str) -> Described {
        self.answers.insert(status, ResponseBuilder::new().description(about));
        self
    }

    /// A header of the 200.
    pub(super) fn header(mut self, name: &str, about: &str, example: &str) -> Described {
        if let Some(answer) = self.answers.remove(&200) {
            self.answers.insert(200, answer.header(name, header(about, example)));
        }
        self
    }

    /// Errors of these kinds, in the shape of the surface.
    pub(super) fn refuses(mut self, kinds: &[ErrorKind]) -> Described {
        for &kind in kinds {
            let (status, schema, example) = (self.refuse)(&refusals::example(kind));
            let refusals = self.refusals.entry(status).or_default();
            if !refusals.iter().any(|refusal| refusal.kind == kind && refusal.schema == schema) {
                refusals.push(Refusal { kind, schema, example });
            }
        }
        self
    }

    /// Errors of these kinds in another shape.
    pub(super) fn refuses_as<E: ErrorBody>(self, kinds: &[ErrorKind]) -> Described {
        let own = self.refuse;
        let described = Described { refuse: refuse::<E>, ..self }.refuses(kinds).with_schema::<E>();
        Described { refuse: own, ..described }
    }

    /// The same below a model's path.
    pub(super) fn of_a_model(self) -> Described {
        let about = "A name that is served here. It may have slashes, as they are or as `%2F`.";
        self.parameter("name", about, "all-MiniLM-L6-v2").refuses(&[ErrorKind::NotFound, ErrorKind::Unavailable])
    }

    /// The operation, its schemas, and the responses that it shares with others, by their names.
    pub(in crate::server::http) fn build(
        self,
        of_a_model: bool,
    ) -> (OperationBuilder, Schemas, BTreeMap<String, Response>) {
        let described = if self.access == Access::Open { self } else { self.refuses(&[ErrorKind::Unauthenticated]) };
        let (id, summary) = match of_a_model {
            false => (described.id.to_owned(), described.summary.to_owned()),
            true => (format!("{}_of_model", described.id), format!("{}, by the model of the path", described.summary)),
        };
        let mut about = described.about;
        if let Access::AsToldBy(flag) = described.access {
            about.push_str(&format!(" Needs a token only with `{flag}`."));
        }
        let mut operation = OperationBuilder::new().operation_id(Some(id)).tag(described.tag.words().0);
        operation = operation.summary(Some(summary)).description((!about.is_empty()).then(|| about.trim().to_owned()));
        for parameter in described.parameters {
            operation = operation.parameter(parameter);
        }
        if described.waits {
            operation = operation.parameter(patience());
        }
        if let Some(content) = described.body {
            let body = RequestBodyBuilder::new().content("application/json", content).required(Some(Required::True));
            operation = operation.request_body(Some(body.build()));
        }
        if described.access != Access::Open {
            // The first of them: nothing is asked for unless tokens are set.
            let schemes = [SecurityRequirement::default(), scheme(BEARER), scheme(BASIC)];
            operation = operation.securities(Some(schemes));
        } else {
            operation = operation.securities(Some([SecurityRequirement::default()]));
        }
        for (status, answer) in described.answers {
            operation = operation.response(status.to_string(), answer.build());
        }
        let mut shared = BTreeMap::new();
        for (status, refusals) in described.refusals {
            let (name, response) = response(status, &refusals);
            operation = operation.response(status.to_string(), Ref::from_response_name(&name));
            shared.insert(name, response);
        }
        (operation, described.schemas, shared)
    }
}

fn scheme(name: &str) -> SecurityRequirement {
    SecurityRequirement::new(name, [""; 0])
}

/// The answer of a status that stands for errors, and its name among the shared ones: of their shapes and kinds.
fn response(status: u16, refusals: &[Refusal]) -> (String, Response) {
    let mut schemas: Vec<&str> = refusals.iter().map(|refusal| &*refusal.schema).collect();
    schemas.sort_unstable();
    schemas.dedup();
    let mut kinds: Vec<&str> = refusals.iter().map(|refusal| refusal.kind.meaning().label).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let name = format!("{}.{status}.{}", schemas.join("."), kinds.join("."));
    let mut about: Vec<&str> = refusals.iter().map(|refusal| refusals::about(refusal.kind)).collect();
    about.dedup();
    let schema = match &schemas[..] {
        [only] => RefOr::Ref(Ref::from_schema_name(*only)),
        several => {
            let either =
                several.iter().fold(OneOfBuilder::new(), |one_of, name| one_of.item(Ref::from_schema_name(*name)));
            RefOr::T(Schema::OneOf(either.build()))
        }
    };
    let examples = refusals.iter().map(|refusal| {
        let name = format!("{}.{}", refusal.schema, refusal.kind.meaning().label);
        (name, RefOr::T(ExampleBuilder::new().value(Some(refusal.example.clone())).build()))
    });
    let content = ContentBuilder::new().schema(Some(schema)).examples_from_iter(examples).build();
    let mut response = ResponseBuilder::new().description(about.join(" ")).content("application/json", content);
    if refusals.iter().any(|refusal| is_temporary(refusal.kind)) {
        response = response.header("Retry-After", header("Seconds after which to try again.", "1"));
    }
    if status == 401 {
        let about =
            "`Bearer` and `Basic`, a header each, where tokens are set; none where only a certificate is wanted.";
        response = response.header("WWW-Authenticate", header(about, "Bearer realm=\"text2vec-sidecar\""));
    }
    if status == 415 {
        response = response.header("Accept-Encoding", header("The coding that is undone here.", "gzip"));
    }
    (name, response.build())
}

fn header(about: &str, example: &str) -> Header {
    let text = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).build();
    HeaderBuilder::new()
        .schema(Some(Schema::Object(text)))
        .description(Some(about))
        .example(Some(Value::from(example)))
        .build()
}

fn in_path(name: &str, about: &str, example: &str) -> Parameter {
    let text = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).build();
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(about))
        .schema(Some(Schema::Object(text)))
        .example(Some(Value::from(example)))
        .build()
}

/// How long a caller waits.
fn patience() -> Parameter {
    let number = ObjectBuilder::new().schema_type(SchemaType::Type(Type::Number)).minimum(Some(0.0)).build();
    ParameterBuilder::new()
        .name(header_case(TIMEOUT_HEADER))
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some("For how many seconds the caller waits: then it is answered 504, and the work is dropped."))
        .schema(Some(Schema::Object(number)))
        .example(Some(Value::from(2.5)))
        .build()
}

/// A header's name as people write it.
fn header_case(name: &str) -> String {
    let word = |word: &str| word.chars().take(1).flat_map(char::to_uppercase).chain(word.chars().skip(1)).collect();
    name.split('-').map(word).collect::<Vec<String>>().join("-")
}
