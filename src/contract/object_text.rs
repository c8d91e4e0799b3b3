//! Object + settings → the text that is embedded.
//!
//! This follows the way of an object that is created, batch-imported or replaced (PUT): values are first checked and
//! converted by the data type of their property ([`property_value`](super::property_value)), then rendered
//! (`usecases/modulecomponents/vectorizer/object_texts.go`). PATCH differs in Weaviate (old values come from storage as
//! plain JSON, so stored dates and UUIDs turn into rendered text); that quirk is not followed.
//!
//! An object that Weaviate refuses is refused here too, except for faults in geo coordinates, phone numbers and
//! references, which are not looked into. Refused although Weaviate takes them: NaN and infinite numbers, dates with an
//! offset of a day or more, JSON that [`Value::from_json`] does not read.

use std::collections::BTreeMap;

use super::camel_case::{lowercase, spaced};
use super::class::{Class, Settings, stored_property_name};
use super::go_format;
use super::property_value::PropertyValue;
use super::value::Value;
use crate::error::{Error, Result};

/// An object as a caller gives it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Object {
    /// Its class's name; `""` = the class's own.
    pub class: String,
    /// Property values by name.
    pub properties: BTreeMap<String, Value>,
}

impl Object {
    /// An object whose properties are JSON text; `null` means none.
    ///
    /// # Errors
    /// `InvalidArgument` if the text is not a JSON object ([`Value::from_json`] says which JSON is refused).
    pub fn from_json(class: impl Into<String>, properties: &str) -> Result<Object> {
        let properties = match Value::from_json(properties).map_err(|e| e.context("properties"))? {
            Value::Object(properties) => properties,
            Value::Null => BTreeMap::new(),
            other => {
                let got = go_format::type_name(&other);
                return Err(Error::invalid(format!("properties: must be a JSON object, got: {got}")));
            }
        };
        Ok(Object { class: class.into(), properties })
    }
}

/// The text to embed for an object, or `None` if it is not vectorized because its text is empty.
///
/// `lowercase_input`: `LOWERCASE_VECTORIZATION_INPUT` is on ([`enabled`](super::endpoint::enabled)).
///
/// 1. The class name, if it is vectorized.
/// 2. Each vectorized property that the object has, in the byte order of names: one part per rendered value,
///    lower-cased if asked, the property's name in front if that is vectorized.
/// 3. Without source properties and without any part: the class name after all.
///
/// The parts are joined with one blank; nothing is trimmed or limited. An empty string is a value and makes a part.
///
/// # Errors
/// `InvalidArgument`, in Weaviate's words, for a property that the class does not have or whose value is not of its
/// data type. All properties are checked, also those that are not rendered; the first in byte order is reported.
pub fn object_text(
    object: &Object,
    class: &Class,
    settings: &Settings,
    lowercase_input: bool,
) -> Result<Option<String>> {
    let class_name = if object.class.is_empty() { &class.name } else { &object.class };
    let source_properties = !settings.source_properties.is_empty();
    let mut parts = Vec::new();
    if settings.vectorize_class_name {
        parts.push(spaced(class_name, lowercase_input));
    }
    for (name, value) in stored_properties(object) {
        let property = class.property(&name).ok_or_else(|| no_such_property(&name, class))?;
        let value = PropertyValue::convert(value, property, &name, class_name).map_err(Error::invalid)?;
        if !class.is_vectorized(settings, &name) {
            continue;
        }
        let with_name = property.settings().vectorize_property_name;
        let prefix = if with_name { spaced(&name, lowercase_input) + " " } else { String::new() };
        for text in render(value, source_properties) {
            parts.push(prefix.clone() + &if lowercase_input { lowercase(&text) } else { text });
        }
    }
    if !source_properties && parts.is_empty() {
        parts.push(spaced(class_name, lowercase_input));
    }
    let text = parts.join(" ");
    Ok(if text.is_empty() { None } else { Some(text) })
}

/// The properties as they are stored: nulls are dropped, names start with a small letter. Where two names become one,
/// the value that was written under it counts.
fn stored_properties(object: &Object) -> BTreeMap<String, &Value> {
    let given = object.properties.iter().filter(|(_, value)| **value != Value::Null);
    given.map(|(name, value)| (stored_property_name(name), value)).collect()
}

fn no_such_property(name: &str, class: &Class) -> Error {
    let class = &class.name;
    Error::invalid(format!(
        "no such prop with name '{name}' found in class '{class}' in the schema. Check your schema files for which \
         properties in this class are available"
    ))
}

/// The texts of one value, one for each part. Without source properties only texts are rendered; blobs are texts.
fn render(value: PropertyValue, source_properties: bool) -> Vec<String> {
    match value {
        PropertyValue::Text(text) => vec![text],
        PropertyValue::List(values) if matches!(values.first(), Some(PropertyValue::Object(_))) => {
            render_json(PropertyValue::List(values), source_properties)
        }
        PropertyValue::List(values) => {
            let rendered = values.into_iter().filter_map(|value| match value {
                PropertyValue::Text(text) => Some(text),
                PropertyValue::Number(value) if source_properties => Some(go_format::double(value)),
                PropertyValue::Bool(value) if source_properties => Some(value.to_string()),
                _ => None, // also dates, unlike a single one
            });
            rendered.collect()
        }
        PropertyValue::Number(value) if source_properties => vec![go_format::double(value)],
        PropertyValue::Bool(value) if source_properties => vec![value.to_string()],
        PropertyValue::Date(date) if source_properties => vec![date.to_seconds()],
        PropertyValue::Object(_) => render_json(value, source_properties),
        _ => Vec::new(),
    }
}

/// An object, or a list of objects, is one text.
fn render_json(value: PropertyValue, source_properties: bool) -> Vec<String> {
    if source_properties { vec![go_format::json(&value.into_json())] } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASS: &str = r#"{"class":"MyArticle","properties":[
        {"name":"title","dataType":["text"]},{"name":"x","dataType":["number"]}]}"#;

    fn text(properties: &str) -> Result<Option<String>> {
        let class = Class::from_json(CLASS)?;
        object_text(&Object::from_json("", properties)?, &class, &class.settings(""), false)
    }

    #[test]
    fn the_written_name_wins_over_one_with_a_capital() {
        assert_eq!(text(r#"{"title":"a","Title":"b"}"#).unwrap().as_deref(), Some("My Article a"));
        assert_eq!(text(r#"{"title":null,"Title":"b","title":"c"}"#).unwrap().as_deref(), Some("My Article c"));
    }

    #[test]
    fn the_object_may_name_its_class() {
        let class = Class::from_json(CLASS).unwrap();
        let object = Object::from_json("OtherName", "null").unwrap();
        let text = object_text(&object, &class, &class.settings(""), true).unwrap();
        assert_eq!(text.as_deref(), Some("other name"));
    }

    #[test]
    fn what_weaviate_refuses_is_refused() {
        for properties in [
            r#"{"nope":"x"}"#,
            r#"{"é":"x"}"#,
            r#"{"":"x"}"#,
            r#"{"title":5}"#,
            r#"{"title":"ok","x":"5"}"#,
            "[]",
            r#"{"title":"\ud800"}"#,
        ] {
            assert!(text(properties).is_err(), "{properties}");
        }
        assert_eq!(text(r#"{"nope":null}"#).unwrap().as_deref(), Some("My Article"));
    }

    #[test]
    fn a_dotted_name_means_the_property_before_the_dot() {
        assert_eq!(text(r#"{"title.x":"a"}"#).unwrap().as_deref(), Some("My Article a"));
    }
}
