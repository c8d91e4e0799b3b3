//! The class of a collection: which vectors are to be made, and what its properties hold.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::error::{Error, Result};

/// Weaviate's modules whose vectors a sidecar makes.
const MODULES: [&str; 2] = ["text2vec-transformers", "text2vec-model2vec"];

/// A vector to be made of each object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Its name; empty: the class-level one.
    pub(crate) name: String,
    pub(crate) module: &'static str,
}

/// What a property holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum DataType {
    Text,
    Int,
    Number,
    Boolean,
    Date,
    Uuid,
    Blob,
    Geo,
    Phone,
    Object(Properties),
    /// A list of one of the above.
    List(Box<DataType>),
    /// Other objects, by their ids.
    Reference,
}

/// Properties by name.
pub(crate) type Properties = HashMap<String, DataType>;

/// A class, as Weaviate's REST API tells it.
#[derive(Debug, Clone)]
pub(crate) struct Collection {
    pub(crate) name: String,
    /// Its JSON, which the sidecar takes.
    pub(crate) json: String,
    pub(crate) targets: Vec<Target>,
    /// Names of vectors that are made by others, when an object is inserted.
    pub(crate) others: Vec<String>,
    pub(crate) properties: Properties,
    pub(crate) has_tenants: bool,
    /// Weaviate makes tenants that are not there.
    pub(crate) makes_tenants: bool,
}

impl Collection {
    /// Of a file with what `GET /v1/schema/<name>` answers.
    pub(crate) fn of_file(path: &Path) -> Result<Collection> {
        let text = std::fs::read(path)
            .map_err(|error| Error::new(format!("--class-file {} cannot be read: {error}", path.display())))?;
        let value = serde_json::from_slice(&text)
            .map_err(|error| Error::new(format!("--class-file {} is not JSON: {error}", path.display())))?;
        Collection::of_json(value, &path.display().to_string())
    }

    /// Refuses another name than the class's, if one is given; Weaviate writes the first letter large.
    pub(crate) fn is_named(&self, name: &str) -> Result<()> {
        let large = |name: &str| {
            let mut letters = name.chars();
            letters.next().map(|first| first.to_uppercase().chain(letters).collect::<String>())
        };
        match name.is_empty() || large(name) == large(&self.name) {
            true => Ok(()),
            false => Err(Error::new(format!(
                "--class-file is of {}, and --collection is '{name}': leave --collection out, or name that class's file",
                self.name
            ))),
        }
    }

    /// The class with more properties: their names and data types.
    pub(crate) fn with(&self, more: &[(String, &'static str)]) -> Result<Collection> {
        let unusable = |error: serde_json::Error| Error::new(format!("the class of {} is no JSON: {error}", self.name));
        let mut class: Value = serde_json::from_str(&self.json).map_err(unusable)?;
        let more = more.iter().map(|(name, data_type)| json!({"name": name, "dataType": [data_type]}));
        match class.get_mut("properties").and_then(Value::as_array_mut) {
            Some(listed) => listed.extend(more),
            None => class["properties"] = more.collect(),
        }
        Collection::of_json(class, &self.name)
    }

    /// Of its JSON; `source` says where that came from.
    pub(crate) fn of_json(class: Value, source: &str) -> Result<Collection> {
        let Some(name) = class.get("class").and_then(Value::as_str).map(str::to_owned) else {
            let message = format!("{source} is no class: it is to be what GET /v1/schema/<name> of Weaviate answers");
            return Err(Error::new(message));
        };
        let mut targets = Vec::new();
        let mut others = Vec::new();
        if let Some(module) = class.get("vectorizer").and_then(Value::as_str) {
            match MODULES.into_iter().find(|known| *known == module) {
                Some(module) => targets.push(Target { name: String::new(), module }),
                None if module.is_empty() || module == "none" => {}
                None => others.push(module.to_owned()),
            }
        }
        let named = class.get("vectorConfig").and_then(Value::as_object);
        for (name, config) in named.into_iter().flatten() {
            let vectorizer = config.get("vectorizer").and_then(Value::as_object);
            match MODULES.into_iter().find(|module| vectorizer.is_some_and(|given| given.contains_key(*module))) {
                Some(module) => targets.push(Target { name: name.clone(), module }),
                None => others.push(name.clone()),
            }
        }
        if targets.is_empty() {
            let message = format!(
                "no vector of {name} is made by text2vec-transformers or text2vec-model2vec: the class names another \
                 vectorizer, and a sidecar has nothing to do for it"
            );
            return Err(Error::new(message));
        }
        let tenancy = class.get("multiTenancyConfig");
        let says = |key: &str| tenancy.and_then(|tenancy| tenancy.get(key)).and_then(Value::as_bool) == Some(true);
        Ok(Collection {
            properties: properties(class.get("properties")),
            has_tenants: says("enabled"),
            makes_tenants: says("autoTenantCreation"),
            json: class.to_string(),
            name,
            targets,
            others,
        })
    }
}

fn properties(listed: Option<&Value>) -> Properties {
    let listed = listed.and_then(Value::as_array).into_iter().flatten();
    listed.filter_map(|property| Some((property.get("name")?.as_str()?.to_owned(), data_type(property)?))).collect()
}

/// `None`: of a kind that no Weaviate had when this was written; such a property is sent as it is.
fn data_type(property: &Value) -> Option<DataType> {
    let named = property.get("dataType")?.get(0)?.as_str()?;
    let (name, is_list) = match named.strip_suffix("[]") {
        Some(name) => (name, true),
        None => (named, false),
    };
    let one = match name {
        "text" | "string" => DataType::Text,
        "int" => DataType::Int,
        "number" => DataType::Number,
        "boolean" => DataType::Boolean,
        "date" => DataType::Date,
        "uuid" => DataType::Uuid,
        "blob" => DataType::Blob,
        "geoCoordinates" => DataType::Geo,
        "phoneNumber" => DataType::Phone,
        "object" => DataType::Object(properties(property.get("nestedProperties"))),
        class if class.starts_with(char::is_uppercase) => DataType::Reference,
        _ => return None,
    };
    Some(if is_list { DataType::List(Box::new(one)) } else { one })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(class: Value) -> Result<Collection> {
        Collection::of_json(class, "a test")
    }

    #[test]
    fn targets_are_those_of_a_sidecar_s_modules() {
        let named = json!({
            "class": "Article",
            "vectorConfig": {
                "a": {"vectorizer": {"text2vec-transformers": {}}},
                "b": {"vectorizer": {"none": {}}},
                "c": {"vectorizer": {"text2vec-model2vec": {"inferenceUrl": "http://x"}}},
            },
        });
        let collection = read(named).expect("a class");
        let targets: Vec<_> = collection.targets.iter().map(|target| (&*target.name, target.module)).collect();
        assert_eq!(targets, [("a", "text2vec-transformers"), ("c", "text2vec-model2vec")]);
        assert_eq!(collection.others, ["b"]);
        let class_level = read(json!({"class": "A", "vectorizer": "text2vec-transformers"})).expect("a class");
        assert_eq!(class_level.targets, [Target { name: String::new(), module: "text2vec-transformers" }]);
        assert!(!class_level.has_tenants);
        for (name, is_it) in [("A", true), ("a", true), ("", true), ("B", false), ("Aa", false)] {
            assert_eq!(class_level.is_named(name).is_ok(), is_it, "{name}");
        }
        for (class, said) in [
            (json!({"class": "A", "vectorizer": "none"}), "no vector of A is made by"),
            (json!({"error": []}), "a test is no class"),
            (json!([]), "a test is no class"),
        ] {
            assert!(read(class).expect_err("refused").message().contains(said));
        }
    }

    #[test]
    fn properties_have_their_types() {
        let class = json!({
            "class": "A", "vectorizer": "text2vec-transformers",
            "multiTenancyConfig": {"enabled": true, "autoTenantCreation": false},
            "properties": [
                {"name": "t", "dataType": ["text"]}, {"name": "ns", "dataType": ["number[]"]},
                {"name": "o", "dataType": ["object"], "nestedProperties": [{"name": "i", "dataType": ["int"]}]},
                {"name": "r", "dataType": ["Author"]}, {"name": "new", "dataType": ["hologram"]},
            ],
        });
        let collection = read(class).expect("a class");
        assert!(collection.has_tenants && !collection.makes_tenants);
        assert_eq!(collection.properties["t"], DataType::Text);
        assert_eq!(collection.properties["ns"], DataType::List(Box::new(DataType::Number)));
        assert_eq!(collection.properties["o"], DataType::Object(HashMap::from([("i".into(), DataType::Int)])));
        assert_eq!(collection.properties["r"], DataType::Reference);
        assert!(!collection.properties.contains_key("new"));
    }
}
