//! The module's behaviour against cases that were made by executing Weaviate's own code.
//!
//! The files in `fixtures/contract/` hold `{name, <input…>, expected}`. JSON numbers in the inputs keep their written
//! form (`5.0` is not `5`), so inputs travel as raw text. Every test says how many cases it ran, so none is skipped
//! silently. `wire_exchange` and `meta_merge` belong to the HTTP surface and to remote services.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value as Json, json};
use text2vec_sidecar::contract::call::Text;
use text2vec_sidecar::contract::class::{self, Class, MODULE};
use text2vec_sidecar::contract::endpoint::{Endpoint, Endpoints, InferenceUrls, enabled, request_url};
use text2vec_sidecar::contract::module::Module;
use text2vec_sidecar::contract::near_text::{Move, MoveObject, NearText};
use text2vec_sidecar::contract::object_text::{Object, object_text};
use text2vec_sidecar::contract::request::Task;
use text2vec_sidecar::contract::value::Value;
use text2vec_sidecar::contract::{camel_case, go_format};
use text2vec_sidecar::error::{Error, ErrorKind};

fn cases<T: DeserializeOwned>(file: &str) -> Vec<T> {
    let path = format!("{}/tests/fixtures/contract/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// What Weaviate puts in front of a module's validation error.
fn from_weaviate(error: Option<String>) -> Option<String> {
    error.map(|error| format!("module '{MODULE}': {error}"))
}

fn to_json(members: BTreeMap<String, Value>) -> Json {
    serde_json::from_str(&go_format::json(&Value::Object(members))).unwrap()
}

#[derive(Deserialize)]
struct CamelCase {
    name: String,
    input: Option<String>,
    input_base64: Option<String>,
    expected: CamelCaseExpected,
}

#[derive(Deserialize)]
struct CamelCaseExpected {
    words: Vec<Json>,
    text: Json,
    text_lowercased: String,
}

#[test]
fn camelcase() {
    let (mut split, mut not_text) = (0, 0);
    for case in cases::<CamelCase>("camelcase") {
        let Some(input) = case.input else {
            // Bytes that are no UTF-8 come back whole in Go. Here the type of a name rules them out.
            assert_eq!(case.input_base64.as_deref(), Some("QmFkVVRGOOLioQ=="), "{}", case.name);
            not_text += 1;
            continue;
        };
        assert_eq!(json!(camel_case::words(&input)), json!(case.expected.words), "{}", case.name);
        assert_eq!(json!(camel_case::spaced(&input, false)), case.expected.text, "{}", case.name);
        assert_eq!(camel_case::spaced(&input, true), case.expected.text_lowercased, "{}", case.name);
        split += 1;
    }
    assert_eq!((split, not_text), (56, 1));
}

#[derive(Deserialize)]
struct ClassSettings {
    name: String,
    class: Box<RawValue>,
    #[serde(default)]
    target_vector: String,
    #[serde(default)]
    show_stored: bool,
    expected: Json,
}

#[test]
fn class_settings() {
    let (mut run, mut stored) = (0, 0);
    for ClassSettings { name, class, target_vector, show_stored, expected } in cases("class_settings") {
        let class = Class::from_json(class.get()).unwrap();
        let settings = class.settings(&target_vector);
        let probed = expected["properties"].as_object().unwrap().keys().map(|property| {
            let probe = json!({
                "vectorized": class.is_vectorized(&settings, property),
                "vectorize_property_name": class.property_settings(property).vectorize_property_name,
            });
            (property.clone(), probe)
        });
        let sources = settings.source_properties.clone();
        let mut got = json!({
            "dimensions": settings.dimensions,
            "inference_url": settings.inference_url,
            "passage_inference_url": settings.passage_inference_url,
            "query_inference_url": settings.query_inference_url,
            "pooling_strategy": settings.pooling_strategy,
            "vectorize_class_name": settings.vectorize_class_name,
            "source_properties": if sources.is_empty() { Json::Null } else { json!(sources) },
            "properties": probed.collect::<serde_json::Map<_, _>>(),
            "lowercase_input": false, // the module has no such setting, only the environment
            "validation_error": from_weaviate(class.validate(&target_vector, true).error),
        });
        if show_stored {
            let block = json!({ MODULE: to_json(class.stored_config(&target_vector)) });
            let level = if target_vector.is_empty() { "moduleConfig" } else { "vectorizer" };
            let properties = class
                .properties
                .iter()
                .map(|property| (property.name.clone(), json!({ MODULE: to_json(property.stored_config()) })));
            let properties = properties.collect::<serde_json::Map<_, _>>();
            got["stored_with_defaults"] = json!({ level: block, "property_module_config": properties });
            stored += 1;
        }
        assert_eq!(got, expected, "{name}");
        run += 1;
    }
    assert_eq!((run, stored), (44, 5));
}

#[test]
fn defaults_are_what_weaviate_stores_for_an_empty_class() {
    assert_eq!(
        to_json(class::class_config_defaults(Module::default())),
        json!({ "vectorizeClassName": true, "poolingStrategy": "masked_mean" })
    );
    assert_eq!(to_json(class::property_config_defaults()), json!({ "skip": false, "vectorizePropertyName": false }));
    assert_eq!(class::vectorizable_properties(), (true, &[][..]));
}

#[derive(Deserialize)]
struct ClassValidation {
    name: String,
    class: Box<RawValue>,
    #[serde(default)]
    target_vector: String,
    auto_schema_enabled: Option<bool>,
    expected: Json,
}

#[test]
fn class_validation() {
    let (mut accepted, mut refused) = (0, 0);
    for case in cases::<ClassValidation>("class_validation") {
        let class = Class::from_json(case.class.get()).unwrap();
        let error = class.validate(&case.target_vector, case.auto_schema_enabled.unwrap_or(true)).error;
        if error.is_none() {
            accepted += 1
        } else {
            refused += 1
        }
        let got = json!({ "ok": error.is_none(), "error": error, "error_from_weaviate": from_weaviate(error.clone()) });
        assert_eq!(got, case.expected, "{}", case.name);
    }
    assert_eq!((accepted, refused), (17, 29));
}

#[derive(Deserialize)]
struct ObjectText {
    name: String,
    ingest: String,
    class: Box<RawValue>,
    #[serde(default)]
    target_vector: String,
    #[serde(default)]
    env: BTreeMap<String, String>,
    object: ObjectInput,
    expected: ObjectExpected,
}

#[derive(Deserialize)]
struct ObjectInput {
    #[serde(default)]
    class: String,
    properties: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct ObjectExpected {
    text: Option<String>,
    vectorized: Option<bool>,
    object_rejected: Option<String>,
}

/// The same value as a Struct carries it: every number a double.
fn as_struct(value: Value) -> Value {
    match value {
        Value::Number(written) => Value::Double(written.parse().unwrap()),
        Value::List(values) => Value::List(values.into_iter().map(as_struct).collect()),
        Value::Object(members) => Value::Object(members.into_iter().map(|(k, v)| (k, as_struct(v))).collect()),
        other => other,
    }
}

#[test]
fn object_texts() {
    let mut counts = BTreeMap::<&str, usize>::new();
    for case in cases::<ObjectText>("object_texts") {
        let name = &case.name;
        let class = Class::from_json(case.class.get()).unwrap();
        let settings = class.settings(&case.target_vector);
        let lowercase = case.env.get("LOWERCASE_VECTORIZATION_INPUT").is_some_and(|value| enabled(value));
        let properties = case.object.properties.as_ref().map_or("{}", |properties| properties.get());
        let text = |object: &Object| object_text(object, &class, &settings, lowercase);
        let object = Object::from_json(&case.object.class, properties).unwrap();
        let mut doubles = object.clone();
        doubles.properties = doubles.properties.into_iter().map(|(k, v)| (k, as_struct(v))).collect();

        let kind = match (case.ingest.as_str(), &case.expected.object_rejected) {
            ("rest", Some(message)) => {
                assert_eq!(text(&object).unwrap_err(), Error::invalid(message), "{name}");
                "refused"
            }
            ("rest", None) => {
                assert_eq!(text(&object).unwrap(), case.expected.text, "{name}");
                assert_eq!(text(&doubles).unwrap(), case.expected.text, "{name}, as Struct");
                assert_eq!(case.expected.vectorized, Some(case.expected.text.is_some()), "{name}");
                "rest"
            }
            ("grpc", None) => {
                assert_eq!(text(&doubles).unwrap(), case.expected.text, "{name}");
                "grpc"
            }
            // Go types that validation never makes, so that no caller of ours can send them: only the formats count.
            ("typed", None) => typed_formats(&case),
            // The way of a PATCH is not followed.
            ("patch", None) => "patch: informative",
            other => panic!("{name}: {other:?}"),
        };
        *counts.entry(kind).or_default() += 1;
    }
    let expected = [
        ("grpc", 3),
        ("patch: informative", 5),
        ("refused", 5),
        ("rest", 99),
        ("typed: format", 9),
        ("typed: informative", 17),
    ];
    assert_eq!(counts, BTreeMap::from(expected));
}

/// A value given as `{"$type", "value"}`; with source properties each type has its format.
fn typed_formats(case: &ObjectText) -> &'static str {
    let properties = Value::from_json(case.object.properties.as_ref().unwrap().get()).unwrap();
    let typed = properties.get("x").unwrap();
    let value = typed.get("value").unwrap();
    let text = match (typed.get("$type").and_then(Value::as_str), value) {
        _ if case.target_vector.is_empty() => return "typed: informative",
        (Some("float64"), value) => go_format::double(value.as_str().unwrap().parse().unwrap()),
        (Some("number"), value) => go_format::json(&Value::Number(value.as_str().unwrap().to_owned())),
        (Some("any[]" | "map[]"), Value::List(values)) if matches!(values[0], Value::Object(_)) => {
            go_format::json(value)
        }
        (Some("any[]"), Value::List(values)) => values.iter().map(go_format::verbose).collect::<Vec<_>>().join(" "),
        _ => return "typed: informative",
    };
    assert_eq!(Some(text), case.expected.text, "{}", case.name);
    "typed: format"
}

#[derive(Deserialize)]
struct NearTextCase {
    name: String,
    embeddings: BTreeMap<String, Vec<f32>>,
    #[serde(default)]
    embedding_errors: BTreeMap<String, String>,
    stored_vectors: BTreeMap<String, Vec<f32>>,
    near_text: NearTextInput,
    expected: NearTextExpected,
}

#[derive(Deserialize)]
struct NearTextInput {
    concepts: Vec<String>,
    #[serde(default, rename = "moveTo")]
    move_to: MoveInput,
    #[serde(default, rename = "moveAwayFrom")]
    move_away_from: MoveInput,
    certainty: Option<f64>,
    distance: Option<f64>,
}

#[derive(Deserialize, Default)]
struct MoveInput {
    concepts: Option<Vec<String>>,
    objects: Option<Vec<BTreeMap<String, String>>>,
    force: f64,
}

#[derive(Deserialize)]
struct NearTextExpected {
    texts_sent_as_query: Option<Vec<String>>,
    object_lookups: Option<Vec<BTreeMap<String, String>>>,
    vector_bits: Option<Vec<String>>,
    error: Option<String>,
    validation_error: Option<String>,
}

impl MoveInput {
    /// An entry that names an object comes with its vector, where Weaviate would have found one.
    fn with_vectors(&self, stored: &BTreeMap<String, Vec<f32>>) -> Move {
        let object = |entry: &BTreeMap<String, String>| {
            let text = |key| entry.get(key).cloned().unwrap_or_default();
            let (id, beacon): (String, String) = (text("id"), text("beacon"));
            let named = if beacon.is_empty() { &id } else { beacon.rsplit('/').next().unwrap_or_default() };
            MoveObject { vector: stored.get(named).cloned(), id, beacon }
        };
        let objects = self.objects.as_ref().map(|entries| entries.iter().map(object).collect());
        let concepts = self.concepts.as_ref().map(|concepts| concepts.iter().map(Text::from).collect());
        Move { concepts, objects, force: self.force }
    }
}

/// The ids that are looked up until one fails.
fn lookups(near_text: &NearText, stored: &BTreeMap<String, Vec<f32>>) -> Vec<String> {
    let mut ids = Vec::new();
    for movement in [&near_text.move_to, &near_text.move_away_from].into_iter().filter(|movement| movement.counts()) {
        for id in movement.object_ids() {
            let Ok(id) = id else { return ids };
            ids.push(id);
            if ids.last().is_some_and(|id| !stored.contains_key(id)) {
                return ids;
            }
        }
    }
    ids
}

#[test]
fn near_text_moves() {
    let (mut vectors, mut errors, mut refused) = (0, 0, 0);
    for case in cases::<NearTextCase>("near_text_moves") {
        let (name, expected) = (&case.name, &case.expected);
        let near_text = NearText {
            concepts: case.near_text.concepts.iter().map(Text::from).collect(),
            move_to: case.near_text.move_to.with_vectors(&case.stored_vectors),
            move_away_from: case.near_text.move_away_from.with_vectors(&case.stored_vectors),
            certainty: case.near_text.certainty,
            distance: case.near_text.distance,
        };
        if let Some(error) = &expected.validation_error {
            assert_eq!(near_text.validate(), Err(Error::invalid(error)), "{name}");
            refused += 1;
            continue;
        }
        near_text.validate().unwrap();

        // Embeds only when pulled, as Weaviate does; and everything beforehand, as a server may.
        let embed = |text: &str| match case.embedding_errors.get(text) {
            Some(error) => Err(Error::new(ErrorKind::Upstream, error)),
            None => Ok(case.embeddings[text].clone()),
        };
        let mut sent = Vec::new();
        let got = near_text.combine(near_text.texts().into_iter().map(|text| {
            sent.push(String::from(text.clone()));
            embed(text)
        }));
        let eager: Vec<_> = near_text.texts().into_iter().map(|text| embed(text)).collect();
        let eager = near_text.combine(eager);

        assert_eq!(Some(sent), expected.texts_sent_as_query, "{name}");
        let ids = expected.object_lookups.iter().flatten().map(|lookup| lookup["id"].clone()).collect::<Vec<_>>();
        assert_eq!(lookups(&near_text, &case.stored_vectors), ids, "{name}");
        match (&expected.vector_bits, &expected.error) {
            (Some(bits), None) => {
                for got in [got, eager] {
                    let got = got.unwrap().iter().map(|value| format!("{:08x}", value.to_bits())).collect::<Vec<_>>();
                    assert_eq!(&got, bits, "{name}");
                }
                vectors += 1;
            }
            (None, Some(error)) => {
                assert_eq!(got.unwrap_err().message(), error, "{name}");
                assert_eq!(eager.unwrap_err().message(), error, "{name}");
                errors += 1;
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    assert_eq!((vectors, errors, refused), (34, 12, 5));
}

/// Reads the three variables as [`InferenceUrls::from_environment`] wants them.
fn urls_from(env: &BTreeMap<String, String>) -> Result<Option<InferenceUrls>, Error> {
    let value = |task: &str| env.get(&format!("TRANSFORMERS_{task}INFERENCE_API")).map_or("", String::as_str);
    InferenceUrls::from_environment(value(""), value("PASSAGE_"), value("QUERY_"))
}

#[derive(Deserialize)]
struct UrlResolution {
    name: String,
    env: BTreeMap<String, String>,
    class_settings: Box<RawValue>,
    expected: Json,
}

#[test]
fn url_resolution() {
    let mut run = 0;
    for case in cases::<UrlResolution>("url_resolution") {
        let class = format!(
            r#"{{"class":"Article","moduleConfig":{{"{MODULE}":{}}},"properties":[]}}"#,
            case.class_settings.get()
        );
        let class = Class::from_json(&class).unwrap();
        let settings = class.settings("");
        let endpoints = Endpoints::new(urls_from(&case.env).unwrap(), "");
        let vectors_url = |task| match endpoints.resolve(&settings, task) {
            Endpoint::Remote(base) => request_url(base, "/vectors"),
            Endpoint::Local | Endpoint::Model(_) => panic!("{}: local", case.name),
        };
        let environment = endpoints.environment().unwrap();
        let services = |path: &str| match environment.is_one_service() {
            true => json!({ "": request_url(&environment.passage, path) }),
            false => json!({
                "passage": request_url(&environment.passage, path),
                "query": request_url(&environment.query, path),
            }),
        };
        let got = json!({
            "object_vectors_url": vectors_url(Task::Passage),
            "query_vectors_url": vectors_url(Task::Query),
            "meta_urls": services("/meta"),
            "ready_urls": services("/.well-known/ready"),
            "class_validation_error": from_weaviate(class.validate("", true).error),
        });
        assert_eq!(got, case.expected, "{}", case.name);
        run += 1;
    }
    assert_eq!(run, 18);
}

#[derive(Deserialize)]
struct EnvValidation {
    name: String,
    env: BTreeMap<String, String>,
    expected: EnvExpected,
}

#[derive(Deserialize)]
struct EnvExpected {
    ok: bool,
    error: Option<String>,
    waits_for_startup: Option<bool>,
    ready_probes: Option<usize>,
}

#[test]
fn env_validation() {
    let (mut services, mut errors, mut local) = (0, 0, 0);
    for EnvValidation { name, env, expected } in cases("env_validation") {
        match urls_from(&env) {
            Ok(Some(urls)) => {
                assert!(expected.ok, "{name}");
                let wait = env.get("TRANSFORMERS_WAIT_FOR_STARTUP").map_or("", String::as_str);
                let waits = wait.is_empty() || enabled(wait);
                assert_eq!(expected.waits_for_startup, Some(waits), "{name}");
                let probes = if urls.is_one_service() { 1 } else { 2 };
                assert_eq!(expected.ready_probes, Some(if waits { probes } else { 0 }), "{name}");
                services += 1;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Config, "{name}");
                assert_eq!(Some(format!("init vectorizer: {error}")), expected.error, "{name}");
                errors += 1;
            }
            // Wanted deviation: Weaviate has no model of its own and refuses to start.
            Ok(None) => {
                let refusal = expected.error.unwrap();
                assert!(refusal.starts_with("init vectorizer: required variable TRANSFORMERS_INFERENCE_API or both"));
                local += 1;
            }
        }
    }
    assert_eq!((services, errors, local), (16, 8, 2));
}
