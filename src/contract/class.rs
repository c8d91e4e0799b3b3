//! A Weaviate class → a module's settings; class validation; the defaults Weaviate stores.
//!
//! Sources: `usecases/modules/module_config.go` (where settings are read from),
//! `usecases/modulecomponents/settings/base_class_settings.go` and `class_settings_property_helper.go` (how),
//! `modules/text2vec-transformers/vectorizer/class_settings.go` (which), `modules/text2vec-transformers/config.go`, and the same
//! two files of `modules/text2vec-model2vec`.

use std::collections::BTreeMap;

use super::go_format;
use super::module::Module;
use super::request::Task;
use super::value::{Keep, Value, heap_of, heap_of_nodes};
use crate::error::{Error, Result};

/// The name under which classes configure the default module.
pub const MODULE: &str = Module::Transformers.name();

/// What validation says of a class without any configuration object.
pub const EMPTY_CONFIG: &str = "empty config";

const DEFAULT_POOLING_STRATEGY: &str = "masked_mean";

const NOTHING_VECTORIZABLE: &str = "invalid properties: didn't find a single property which is vectorizable and is \
     not excluded from indexing. To fix this add a vectorizable property which is not excluded from indexing";

/// What of a class means something here: other modules' blocks and what else Weaviate keeps in a class may be large.
static KEPT: Keep = Keep::Members(&[
    ("class", Keep::All),
    ("properties", Keep::Each(&KEPT_OF_PROPERTY)),
    ("moduleConfig", KEPT_OF_MODULES),
    ("vectorConfig", Keep::Each(&KEPT_OF_VECTOR)),
]);
static KEPT_OF_PROPERTY: Keep = Keep::Members(&[
    ("name", Keep::All),
    ("dataType", Keep::All),
    ("nestedProperties", Keep::Each(&KEPT_OF_PROPERTY)),
    ("moduleConfig", KEPT_OF_MODULES),
]);
static KEPT_OF_VECTOR: Keep = Keep::Members(&[("vectorizer", KEPT_OF_MODULES)]);
const KEPT_OF_MODULES: Keep = Keep::Members(&[(MODULE, Keep::All), (Module::Model2vec.name(), Keep::All)]);

/// A class as Weaviate's REST schema gives it (`/v1/schema/<Class>`), as far as it means something to a module.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Class {
    /// The module.
    pub module: Module,
    /// The class's name; `""` if the JSON has none.
    pub name: String,
    /// Its properties, in their order.
    pub properties: Vec<Property>,
    /// The module's block of the class.
    block: Value,
    /// The module's block of each named vector that has one.
    vectors: BTreeMap<String, Value>,
}

/// A property, or a member of an `object` property.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Property {
    /// Its name.
    pub name: String,
    /// `dataType`; only the first entry counts.
    pub data_type: Vec<String>,
    /// `nestedProperties`: the members of an `object` or `object[]`.
    pub nested: Vec<Property>,
    /// The module's block in `moduleConfig`.
    pub block: Value,
}

/// What the module reads from a property. Shared by all vectors of the class that use this module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PropertySettings {
    /// `skip`: leave the property out, unless [`Settings::source_properties`] decides.
    pub skip: bool,
    /// `vectorizePropertyName`: put the property's name in front of each of its values.
    pub vectorize_property_name: bool,
}

/// What the module reads from the class for one of its vectors. The default is a class that configures nothing, which
/// also stands for "no class".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `vectorizeClassName`: the text starts with the class's name.
    pub vectorize_class_name: bool,
    /// `poolingStrategy`, as written; not checked, may be empty.
    pub pooling_strategy: String,
    /// `inferenceUrl`, as written; `""` = unset.
    pub inference_url: String,
    /// `passageInferenceUrl`, as written; `""` = unset.
    pub passage_inference_url: String,
    /// `queryInferenceUrl`, as written; `""` = unset.
    pub query_inference_url: String,
    /// `dimensions`, not checked: may be zero or negative.
    pub dimensions: Option<i64>,
    /// `properties`: exactly these are vectorized, and types other than text too. Empty = unset.
    pub source_properties: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings::read(&Value::Null, Module::default())
    }
}

/// The outcome of validating a class.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Validation {
    /// Weaviate's own text, without its prefix `module '<name>': `; `None` = Weaviate accepts the class.
    pub error: Option<String>,
    /// What Weaviate accepts, but is not likely meant.
    pub warnings: Vec<String>,
}

impl Class {
    /// Reads a class from JSON. Unknown keys are ignored, absent and null ones are empty. Names become what Weaviate
    /// stores: the class's starts with a capital, those of its properties with a small letter.
    ///
    /// # Errors
    /// `InvalidArgument` if the text is not a JSON object, or a part of the class frame (`class`, `properties`, their
    /// `name`, `dataType`, `nestedProperties`, `vectorConfig`) has another type than in Weaviate. The module's own
    /// settings never raise an error here.
    pub fn from_json(text: &str) -> Result<Class> {
        Class::of_module(text, Module::default())
    }

    /// As [`Class::from_json`], for another module.
    ///
    /// # Errors
    /// As [`Class::from_json`].
    pub fn of_module(text: &str, module: Module) -> Result<Class> {
        let mut class = Value::part_of_json(text, &KEPT).map_err(|e| e.context("class"))?;
        if !matches!(class, Value::Object(_)) {
            return Err(Error::invalid(format!("class: must be a JSON object, got: {}", go_format::type_name(&class))));
        }
        let vectors = match take(&mut class, "vectorConfig") {
            Value::Null => BTreeMap::new(),
            Value::Object(vectors) => vectors
                .into_iter()
                .map(|(name, mut vector)| (name, module_block(take(&mut vector, "vectorizer"), module)))
                .filter(|(_, block)| *block != Value::Null)
                .collect(),
            other => return Err(wrong_type("class", "vectorConfig", "an object", &other)),
        };
        let mut properties = properties(&mut class, ("class", module), "properties")?;
        for property in &mut properties {
            property.name = stored_property_name(&property.name);
        }
        Ok(Class {
            module,
            name: stored_class_name(&string(&class, "class", "class")?),
            properties,
            block: module_block(take(&mut class, "moduleConfig"), module),
            vectors,
        })
    }

    /// A class that configures nothing, for a module.
    pub fn of_defaults(module: Module) -> Class {
        Class { module, ..Class::default() }
    }

    /// Bytes it occupies, about.
    pub fn weight(&self) -> usize {
        let Class { module: _, name, properties, block, vectors } = self;
        let vectors_heap: usize = vectors.iter().map(|(name, block)| heap_of(name) + block.heap()).sum();
        let nodes = heap_of_nodes::<String, Value>(vectors.len());
        size_of::<Class>() + heap_of(name) + heap_of_properties(properties) + block.heap() + nodes + vectors_heap
    }

    /// The settings of one vector: the class-level block if `target_vector` is empty, else the block of that named
    /// vector; the two are never merged. A vector that the class does not have gets every default.
    pub fn settings(&self, target_vector: &str) -> Settings {
        Settings::read(self.block(target_vector), self.module)
    }

    /// The property that a name means: of equal names the first; the name is cut at its first dot.
    pub fn property(&self, name: &str) -> Option<&Property> {
        let name = name.split('.').next().unwrap_or_default();
        self.properties.iter().find(|property| property.name == name)
    }

    /// The settings of a property; the defaults if the class does not have it.
    pub fn property_settings(&self, name: &str) -> PropertySettings {
        self.property(name).map(Property::settings).unwrap_or_default()
    }

    /// Whether a property's values belong to the text. `properties` decides alone if set, by exact name; else `skip`.
    /// A property that the class does not have counts as vectorized.
    pub fn is_vectorized(&self, settings: &Settings, name: &str) -> bool {
        if settings.source_properties.is_empty() {
            !self.property_settings(name).skip
        } else {
            settings.source_properties.iter().any(|source| source == name)
        }
    }

    /// Weaviate's checks at class creation, in its order and words: the first failure is the error. Our warnings come
    /// beside it. `auto_schema`: whether the server makes properties from objects (Weaviate's default is yes).
    pub fn validate(&self, target_vector: &str, auto_schema: bool) -> Validation {
        let settings = self.settings(target_vector);
        let error = check_source_properties(self.block(target_vector))
            .and_then(|()| if auto_schema { Ok(()) } else { self.check_vectorizable(&settings) })
            .and_then(|()| check_urls(&settings))
            .err();
        let warnings = if self.module.has_model_settings() { warnings(&settings) } else { Vec::new() };
        Validation { error, warnings }
    }

    /// The module's block of one vector with the defaults filled in, as Weaviate stores it.
    pub fn stored_config(&self, target_vector: &str) -> BTreeMap<String, Value> {
        with_defaults(class_config_defaults(self.module), self.block(target_vector))
    }

    /// The module's block: `moduleConfig` of the class or `vectorizer` of the named vector, under the module's name.
    fn block(&self, target_vector: &str) -> &Value {
        match target_vector {
            "" => &self.block,
            name => self.vectors.get(name).unwrap_or(&Value::Null),
        }
    }

    /// Something must be left to vectorize when the class name is not and the server adds no properties by itself.
    fn check_vectorizable(&self, settings: &Settings) -> Result<(), String> {
        if settings.vectorize_class_name {
            return Ok(());
        }
        for property in &self.properties {
            let Some(data_type) = property.data_type.first() else {
                return Err(format!("property {} must have at least one datatype: got []", property.name));
            };
            if counts_as_vectorizable(data_type, settings) && self.is_vectorized(settings, &property.name) {
                return Ok(());
            }
        }
        Err(NOTHING_VECTORIZABLE.to_owned())
    }
}

impl Property {
    /// What the module reads from this property; anything but a boolean is the default.
    pub fn settings(&self) -> PropertySettings {
        let read = |key| self.block.get(key).and_then(Value::as_bool).unwrap_or(false);
        PropertySettings { skip: read("skip"), vectorize_property_name: read("vectorizePropertyName") }
    }

    /// The module's block of this property with the defaults filled in, as Weaviate stores it.
    pub fn stored_config(&self) -> BTreeMap<String, Value> {
        with_defaults(property_config_defaults(), &self.block)
    }
}

fn heap_of_properties(properties: &[Property]) -> usize {
    let heap_of_one = |property: &Property| {
        let Property { name, data_type, nested, block } = property;
        let types: usize = data_type.iter().map(|text| size_of::<String>() + heap_of(text)).sum();
        heap_of(name) + types + heap_of_properties(nested) + block.heap()
    };
    size_of_val(properties) + properties.iter().map(heap_of_one).sum::<usize>()
}

impl Settings {
    /// Whether the class says where texts of a task are embedded.
    pub fn names_a_url(&self, task: Task) -> bool {
        let of_task = match task {
            Task::Passage => &self.passage_inference_url,
            Task::Query => &self.query_inference_url,
        };
        !self.inference_url.is_empty() || !of_task.is_empty()
    }

    fn read(block: &Value, module: Module) -> Settings {
        let text = |key, default: &str| block.get(key).and_then(Value::as_str).unwrap_or(default).to_owned();
        let of_model = module.has_model_settings();
        let text_of_model = |key, default| if of_model { text(key, default) } else { String::new() };
        // Left out it is what Weaviate fills in; what is no boolean is on for every module.
        let class_name = |value: &Value| value.as_bool().unwrap_or(true);
        Settings {
            vectorize_class_name: block.get("vectorizeClassName").map_or(module.vectorizes_class_name(), class_name),
            pooling_strategy: text_of_model("poolingStrategy", DEFAULT_POOLING_STRATEGY),
            inference_url: text("inferenceUrl", ""),
            passage_inference_url: text_of_model("passageInferenceUrl", ""),
            query_inference_url: text_of_model("queryInferenceUrl", ""),
            dimensions: block.get("dimensions").filter(|_| of_model).and_then(dimensions),
            source_properties: block.get("properties").and_then(source_properties).unwrap_or_default(),
        }
    }
}

/// A property's name as Weaviate stores it: with a small first letter.
pub fn stored_property_name(name: &str) -> String {
    let mut name = name.to_owned();
    if let Some(first) = name.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    name
}

/// A class's name as Weaviate stores it: with a capital, behind the namespace if it has one (`namespace:Class`).
fn stored_class_name(name: &str) -> String {
    let mut name = name.to_owned();
    let first = name.find(':').map_or(0, |colon| colon + 1);
    if let Some(first) = name.get_mut(first..first + 1) {
        first.make_ascii_uppercase();
    }
    name
}

/// What Weaviate fills into the class's block at creation.
pub fn class_config_defaults(module: Module) -> BTreeMap<String, Value> {
    let class_name = ("vectorizeClassName".to_owned(), Value::Bool(module.vectorizes_class_name()));
    let pooling = ("poolingStrategy".to_owned(), Value::String(DEFAULT_POOLING_STRATEGY.to_owned()));
    [class_name].into_iter().chain(module.has_model_settings().then_some(pooling)).collect()
}

/// What Weaviate fills into each property's block at creation, whatever its data type.
pub fn property_config_defaults() -> BTreeMap<String, Value> {
    BTreeMap::from([("skip".to_owned(), Value::Bool(false)), ("vectorizePropertyName".to_owned(), Value::Bool(false))])
}

/// The module's answer to "which properties do you look at": text properties, and these media properties (none).
pub const fn vectorizable_properties() -> (bool, &'static [&'static str]) {
    (true, &[])
}

/// A class is stored as JSON and re-read, so a number is a double here, cut towards zero. Beyond the 64-bit integers it
/// becomes the smallest of them, as Go converts on amd64.
fn dimensions(value: &Value) -> Option<i64> {
    if let Value::String(text) = value {
        return text.parse().ok();
    }
    let number = value.as_double()?.trunc();
    let fits = (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&number);
    Some(if fits { number as i64 } else { i64::MIN })
}

/// A list with anything but strings cannot be stored; it counts as unset.
fn source_properties(value: &Value) -> Option<Vec<String>> {
    let Value::List(values) = value else { return None };
    values.iter().map(|value| value.as_str().map(str::to_owned)).collect()
}

fn check_source_properties(block: &Value) -> Result<(), String> {
    match block.get("properties") {
        None => Ok(()),
        Some(Value::List(values)) if values.is_empty() => {
            Err("properties field needs to have at least 1 property defined".to_owned())
        }
        Some(Value::List(values)) => match values.iter().find(|value| value.as_str().is_none()) {
            Some(value) => Err(format!("properties field value: {} must be a string", go_format::verbose(value))),
            None => Ok(()),
        },
        Some(other) => Err(format!("properties field needs to be of array type, got: {}", go_format::type_name(other))),
    }
}

/// Not the same list as what is rendered: `date[]` counts here and is never rendered, `blob` is the other way round.
fn counts_as_vectorizable(data_type: &str, settings: &Settings) -> bool {
    match data_type {
        "text" | "text[]" | "string" | "string[]" => true,
        "object" | "object[]" | "int" | "int[]" | "number" | "number[]" | "date" | "date[]" | "boolean"
        | "boolean[]" => !settings.source_properties.is_empty(),
        _ => false,
    }
}

fn check_urls(settings: &Settings) -> Result<(), String> {
    let common = !settings.inference_url.is_empty();
    let passage = !settings.passage_inference_url.is_empty();
    let query = !settings.query_inference_url.is_empty();
    let error = match (common, passage, query) {
        (true, true, _) | (true, _, true) => {
            "either inferenceUrl or passageInferenceUrl together with queryInferenceUrl needs to be set, not both"
        }
        (_, false, true) => "queryInferenceUrl is set but passageInferenceUrl is empty, both needs to be set",
        (_, true, false) => "passageInferenceUrl is set but queryInferenceUrl is empty, both needs to be set",
        _ => return Ok(()),
    };
    Err(error.to_owned())
}

fn warnings(settings: &Settings) -> Vec<String> {
    let mut warnings = Vec::new();
    let pooling = &settings.pooling_strategy;
    if !matches!(pooling.as_str(), "" | "masked_mean" | "cls") {
        warnings.push(format!(
            "poolingStrategy '{pooling}' is not known: models that pool by request will refuse every text; \
             use masked_mean or cls"
        ));
    }
    if let Some(dimensions @ ..1) = settings.dimensions {
        let meaning = if dimensions == 0 { "0 cuts nothing" } else { "a negative number drops values from the end" };
        warnings.push(format!("dimensions is {dimensions}: {meaning}; use 1 or more, or leave it out"));
    }
    warnings
}

fn with_defaults(mut defaults: BTreeMap<String, Value>, given: &Value) -> BTreeMap<String, Value> {
    if let Value::Object(given) = given {
        defaults.extend(given.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    defaults
}

fn string(parent: &Value, of: &str, key: &str) -> Result<String> {
    match parent.get(key) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(wrong_type(of, key, "a string", other)),
    }
}

fn list<'a>(parent: &'a Value, of: &str, key: &str) -> Result<&'a [Value]> {
    match parent.get(key) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::List(values)) => Ok(values),
        Some(other) => Err(wrong_type(of, key, "a list", other)),
    }
}

/// Takes a member out; null where there is none.
fn take(parent: &mut Value, key: &str) -> Value {
    match parent {
        Value::Object(members) => members.remove(key).unwrap_or_default(),
        _ => Value::Null,
    }
}

/// The module's block among those of all modules.
fn module_block(mut modules: Value, module: Module) -> Value {
    take(&mut modules, module.name())
}

fn properties(parent: &mut Value, (of, module): (&str, Module), key: &str) -> Result<Vec<Property>> {
    match take(parent, key) {
        Value::Null => Ok(Vec::new()),
        // Collected anew: in place the values' larger room would be kept.
        Value::List(values) => {
            let mut properties = Vec::with_capacity(values.len());
            for value in values {
                properties.push(property(value, module)?);
            }
            Ok(properties)
        }
        other => Err(wrong_type(of, key, "a list", &other)),
    }
}

fn property(mut value: Value, module: Module) -> Result<Property> {
    if !matches!(value, Value::Object(_)) {
        let message = format!("class: a property must be an object, got: {}", go_format::type_name(&value));
        return Err(Error::invalid(message));
    }
    let name = string(&value, "property", "name")?;
    let of = format!("property {name}");
    let data_type = list(&value, &of, "dataType")?.iter().map(|entry| {
        entry.as_str().map(str::to_owned).ok_or_else(|| wrong_type(&of, "dataType", "a list of strings", entry))
    });
    Ok(Property {
        data_type: data_type.collect::<Result<_>>()?,
        nested: properties(&mut value, (&of, module), "nestedProperties")?,
        block: module_block(take(&mut value, "moduleConfig"), module),
        name,
    })
}

fn wrong_type(of: &str, key: &str, wanted: &str, got: &Value) -> Error {
    let of = if of == "class" { "class".to_owned() } else { format!("class: {of}") };
    Error::invalid(format!("{of}: {key} must be {wanted}, got: {}", go_format::type_name(got)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(block: &str) -> Settings {
        let class = format!(r#"{{"class":"A","moduleConfig":{{"{MODULE}":{block}}}}}"#);
        Class::from_json(&class).unwrap().settings("")
    }

    #[test]
    fn dimensions_are_read_as_go_reads_them() {
        for (written, expected) in [
            ("0.5", Some(0)),
            ("-0.5", Some(0)),
            ("1e3", Some(1000)),
            ("9223372036854775807", Some(i64::MIN)), // rounds to 2^63 as a double
            ("1e300", Some(i64::MIN)),
            (r#""+512""#, Some(512)),
            (r#""-7""#, Some(-7)),
            (r#""007""#, Some(7)),
            (r#""1_000""#, None),
            (r#""٣""#, None),
            (r#""99999999999999999999""#, None),
        ] {
            assert_eq!(settings(&format!(r#"{{"dimensions":{written}}}"#)).dimensions, expected, "{written}");
        }
    }

    #[test]
    fn a_level_that_is_no_object_means_defaults() {
        for class in [
            "{}",
            r#"{"moduleConfig":null}"#,
            r#"{"moduleConfig":[1]}"#,
            r#"{"moduleConfig":{"text2vec-transformers":7}}"#,
            r#"{"moduleConfig":{"text2vec-transformers":{"properties":["a",5]}}}"#,
            r#"{"properties":null,"vectorConfig":null}"#,
        ] {
            assert_eq!(Class::from_json(class).unwrap().settings(""), Settings::default(), "{class}");
        }
        for vector in [r#"null"#, r#"{"vectorizer":"none"}"#, r#"{"vectorizer":{"text2vec-transformers":[]}}"#] {
            let class = format!(r#"{{"vectorConfig":{{"v":{vector}}}}}"#);
            assert_eq!(Class::from_json(&class).unwrap().settings("v"), Settings::default(), "{class}");
        }
    }

    #[test]
    fn names_are_those_that_weaviate_stores() {
        let class = Class::from_json(r#"{"class":"ns:article","properties":[{"name":"Title"},{"name":"é"}]}"#).unwrap();
        assert_eq!(class.name, "ns:Article");
        assert!(class.property("title").is_some() && class.property("é").is_some());
        for (given, stored) in [("", ""), ("a", "A"), ("ns:", "ns:"), ("éa", "éa")] {
            assert_eq!(stored_class_name(given), stored);
        }
    }

    #[test]
    fn a_frame_of_wrong_types_is_an_error_that_names_the_place() {
        for (class, message) in [
            ("[]", "class: must be a JSON object, got: []interface {}"),
            (r#"{"class":5}"#, "class: class must be a string, got: json.Number"),
            (r#"{"properties":{}}"#, "class: properties must be a list, got: map[string]interface {}"),
            (r#"{"properties":[1]}"#, "class: a property must be an object, got: json.Number"),
            (
                r#"{"properties":[{"name":"a","dataType":"text"}]}"#,
                "class: property a: dataType must be a list, got: string",
            ),
            (
                r#"{"properties":[{"name":"a","dataType":[1]}]}"#,
                "class: property a: dataType must be a list of strings, got: json.Number",
            ),
            (r#"{"vectorConfig":[]}"#, "class: vectorConfig must be an object, got: []interface {}"),
        ] {
            assert_eq!(Class::from_json(class).unwrap_err().message(), message);
        }
    }

    #[test]
    fn warnings_stand_apart_from_errors() {
        let class = r#"{"moduleConfig":{"text2vec-transformers":
            {"poolingStrategy":"Max","dimensions":-5,"queryInferenceUrl":"u"}}}"#;
        let validation = Class::from_json(class).unwrap().validate("", true);
        assert!(validation.error.is_some_and(|error| error.starts_with("queryInferenceUrl is set")));
        assert_eq!(validation.warnings.len(), 2, "{:?}", validation.warnings);
        for pooling in ["", "cls", "masked_mean"] {
            let class =
                format!(r#"{{"moduleConfig":{{"{MODULE}":{{"poolingStrategy":"{pooling}","dimensions":1}}}}}}"#);
            assert_eq!(Class::from_json(&class).unwrap().validate("", true), Validation::default());
        }
    }

    #[test]
    fn a_property_without_a_data_type_is_named() {
        let class = r#"{"moduleConfig":{"text2vec-transformers":{"vectorizeClassName":false}},
            "properties":[{"name":"n","dataType":["int"]},{"name":"x"},{"name":"t","dataType":["text"]}]}"#;
        let validation = Class::from_json(class).unwrap().validate("", false);
        assert_eq!(validation.error.as_deref(), Some("property x must have at least one datatype: got []"));
    }
}
