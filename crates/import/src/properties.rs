//! Properties as they go into Weaviate: checked against the class before anything is made of them, then written as its gRPC
//! interface has them, where each kind of list has a field of its own.

use prost_types::value::Kind;
use prost_types::{Struct, Value as Wire};
use serde_json::{Map, Number, Value};

use crate::collection::{DataType, Properties};
use crate::weaviate_v1::{
    BooleanArrayProperties, IntArrayProperties, NumberArrayProperties, ObjectArrayProperties, ObjectProperties,
    ObjectPropertiesValue, TextArrayProperties, batch_object,
};

/// Weaviate holds whole numbers as f64, which has each of them up to here.
pub(crate) const EXACT: u64 = 1 << 53;

/// What is left out and renamed so that the sidecar and Weaviate get the very same object: no nulls, and names as the class
/// has them (Weaviate writes the first letter small).
pub(crate) fn normalised(
    properties: Map<String, Value>,
    class: &Properties,
    new: bool,
) -> Result<Map<String, Value>, String> {
    let mut normal = Map::new();
    for (name, value) in properties.into_iter().filter(|(_, value)| !value.is_null()) {
        let name = name_in(class, &name);
        if !new && !class.contains_key(&name) {
            return Err(format!(
                "the class has no property '{name}': add it there, take it out of the file, or let Weaviate add it by \
                 --allow-new-properties"
            ));
        }
        if new && !class.contains_key(&name) {
            new_type(&name, &value)?;
        }
        let value = typed(value, class.get(&name));
        if normal.insert(name.clone(), value).is_some() {
            return Err(format!("'{name}' is there twice, but for the first letter's case"));
        }
    }
    Ok(normal)
}

/// The data type of a property that a class does not have, by a value: `None` for an empty list, which may be of any.
pub(crate) fn new_type(name: &str, value: &Value) -> Result<Option<&'static str>, String> {
    Ok(Some(match value {
        Value::String(_) => "text",
        Value::Number(_) => "number",
        Value::Bool(_) => "boolean",
        Value::Array(elements) if elements.is_empty() => return Ok(None),
        Value::Array(elements) => match guessed(elements, name)? {
            DataType::Text => "text[]",
            DataType::Number => "number[]",
            DataType::Boolean => "boolean[]",
            _ => return Err(format!("'{name}' is a list of objects, which is not added to a class: add it there")),
        },
        Value::Object(_) | Value::Null => {
            return Err(format!("'{name}' is an object, which is not added to a class: add it there"));
        }
    }))
}

/// A property's name as the class has it.
pub(crate) fn name_in(class: &Properties, name: &str) -> String {
    let mut letters = name.chars();
    match letters.next() {
        Some(first) if !class.contains_key(name) => first.to_lowercase().chain(letters).collect(),
        _ => name.to_owned(),
    }
}

/// The value, with whole numbers written as such where the class has them: `5.0` is what a column with gaps makes of 5, and
/// another text.
fn typed(value: Value, data_type: Option<&DataType>) -> Value {
    match (data_type, value) {
        (Some(DataType::Int), Value::Number(number)) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() <= EXACT as f64 => {
                (float as i64).into()
            }
            _ => Value::Number(number),
        },
        (Some(DataType::List(element)), Value::Array(elements)) => {
            Value::Array(elements.into_iter().map(|value| typed(value, Some(element))).collect())
        }
        (Some(DataType::Object(nested)), Value::Object(fields)) => {
            let fields = fields.into_iter().map(|(name, value)| {
                let data_type = nested.get(&name);
                (name, typed(value, data_type))
            });
            Value::Object(fields.collect())
        }
        (_, value) => value,
    }
}

/// As Weaviate's gRPC interface has them.
pub(crate) fn on_the_wire(
    properties: &Map<String, Value>,
    class: &Properties,
) -> Result<batch_object::Properties, String> {
    let all = object(properties, class, "")?;
    Ok(batch_object::Properties {
        non_ref_properties: all.non_ref_properties,
        number_array_properties: all.number_array_properties,
        int_array_properties: all.int_array_properties,
        text_array_properties: all.text_array_properties,
        boolean_array_properties: all.boolean_array_properties,
        object_properties: all.object_properties,
        object_array_properties: all.object_array_properties,
        empty_list_props: all.empty_list_props,
    })
}

/// `path` is what the object's names begin with in errors.
fn object(properties: &Map<String, Value>, class: &Properties, path: &str) -> Result<ObjectPropertiesValue, String> {
    let mut wire = ObjectPropertiesValue::default();
    let mut single = Struct::default();
    for (name, value) in properties {
        let at = format!("{path}{name}");
        let prop_name = name.clone();
        match (class.get(name), value) {
            (_, Value::Null) => {}
            (Some(DataType::Reference), _) => {
                return Err(format!(
                    "'{at}' is a reference to other objects, which an import does not set: leave it out, and add the \
                     references afterwards by Weaviate's client"
                ));
            }
            (Some(DataType::List(element)), Value::Array(elements)) => {
                list(&mut wire, prop_name, elements, element, &at)?
            }
            (Some(DataType::List(_)), _) => return Err(format!("'{at}' is a list in the class: write [ … ]")),
            (Some(DataType::Object(nested)), Value::Object(fields)) => {
                let value = Some(object(fields, nested, &format!("{at}."))?);
                wire.object_properties.push(ObjectProperties { prop_name, value });
            }
            (Some(one), value) => {
                single.fields.insert(prop_name, scalar(value, one, &at)?);
            }
            (None, Value::Array(elements)) => {
                let element = guessed(elements, &at)?;
                list(&mut wire, prop_name, elements, &element, &at)?;
            }
            (None, Value::Object(fields)) => {
                let value = Some(object(fields, &Properties::new(), &format!("{at}."))?);
                wire.object_properties.push(ObjectProperties { prop_name, value });
            }
            (None, value) => {
                single.fields.insert(prop_name, plain(value, &at)?);
            }
        }
    }
    wire.non_ref_properties = Some(single);
    Ok(wire)
}

/// What a list holds that the class does not know.
fn guessed(elements: &[Value], at: &str) -> Result<DataType, String> {
    let all = |is: fn(&Value) -> bool| elements.iter().all(is);
    match () {
        () if all(Value::is_string) => Ok(DataType::Text),
        () if all(Value::is_number) => Ok(DataType::Number),
        () if all(Value::is_boolean) => Ok(DataType::Boolean),
        () if all(Value::is_object) => Ok(DataType::Object(Properties::new())),
        () => Err(format!("'{at}' is a list of several kinds, which Weaviate has none for")),
    }
}

fn list(
    wire: &mut ObjectPropertiesValue,
    prop_name: String,
    elements: &[Value],
    element: &DataType,
    at: &str,
) -> Result<(), String> {
    if elements.is_empty() {
        wire.empty_list_props.push(prop_name);
        return Ok(());
    }
    let wrong = |wanted: &str| format!("'{at}' is to be a list of {wanted}");
    match element {
        DataType::Int => {
            let whole = elements.iter().map(|element| whole(element, at)).collect::<Result<Vec<_>, _>>()?;
            wire.int_array_properties.push(IntArrayProperties { values: whole, prop_name });
        }
        DataType::Number => {
            let mut values_bytes = Vec::with_capacity(elements.len() * size_of::<f64>());
            for element in elements {
                let number = element.as_f64().ok_or_else(|| wrong("numbers"))?;
                values_bytes.extend_from_slice(&number.to_le_bytes());
            }
            wire.number_array_properties.push(NumberArrayProperties { prop_name, values_bytes });
        }
        DataType::Boolean => {
            let values: Option<Vec<_>> = elements.iter().map(Value::as_bool).collect();
            let values = values.ok_or_else(|| wrong("true and false"))?;
            wire.boolean_array_properties.push(BooleanArrayProperties { values, prop_name });
        }
        DataType::Object(nested) => {
            let mut values = Vec::with_capacity(elements.len());
            for element in elements {
                let fields = element.as_object().ok_or_else(|| wrong("objects"))?;
                values.push(object(fields, nested, &format!("{at}."))?);
            }
            wire.object_array_properties.push(ObjectArrayProperties { values, prop_name });
        }
        _ => {
            let texts: Option<Vec<_>> = elements.iter().map(|element| element.as_str().map(str::to_owned)).collect();
            let values = texts.ok_or_else(|| wrong("texts"))?;
            wire.text_array_properties.push(TextArrayProperties { values, prop_name });
        }
    }
    Ok(())
}

/// A value of a known kind that is no list.
fn scalar(value: &Value, data_type: &DataType, at: &str) -> Result<Wire, String> {
    let wanted = match (data_type, value) {
        (DataType::Int, Value::Number(_)) => {
            whole(value, at)?;
            return plain(value, at);
        }
        (DataType::Text | DataType::Date | DataType::Uuid | DataType::Blob, Value::String(_))
        | (DataType::Number, Value::Number(_))
        | (DataType::Boolean, Value::Bool(_))
        | (DataType::Geo | DataType::Phone, Value::Object(_)) => return plain(value, at),
        (DataType::Text, _) => "a text",
        (DataType::Int, _) => "a whole number",
        (DataType::Number, _) => "a number",
        (DataType::Boolean, _) => "true or false",
        (DataType::Date, _) => "a date as text, such as 2026-01-31T12:00:00Z",
        (DataType::Uuid, _) => "a UUID as text",
        (DataType::Blob, _) => "a text in base64",
        (DataType::Geo, _) => "{\"latitude\": …, \"longitude\": …}",
        (DataType::Phone, _) => "{\"input\": \"…\", \"defaultCountry\": \"…\"}",
        (DataType::Object(_), _) => "an object",
        (DataType::List(_) | DataType::Reference, _) => "something else",
    };
    Err(format!("'{at}' is to be {wanted}, and is {}", shown(value)))
}

/// A whole number that Weaviate holds exactly.
fn whole(value: &Value, at: &str) -> Result<i64, String> {
    let number = value.as_i64().or_else(|| {
        let number = value.as_f64()?;
        (number.fract() == 0.0 && number.abs() <= EXACT as f64).then_some(number as i64)
    });
    match number {
        Some(number) if number.unsigned_abs() <= EXACT => Ok(number),
        Some(_) => {
            Err(format!("'{at}' is beyond 2^53, where Weaviate rounds whole numbers: make it a text in the class"))
        }
        None => Err(format!("'{at}' is to be a whole number, and is {}", shown(value))),
    }
}

/// A value as it stands; numbers become f64, as they do in Weaviate.
fn plain(value: &Value, at: &str) -> Result<Wire, String> {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(yes) => Kind::BoolValue(*yes),
        Value::Number(number) => Kind::NumberValue(finite(number, at)?),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(_, value)| !value.is_null());
            let fields = fields.map(|(name, value)| Ok((name.clone(), plain(value, &format!("{at}.{name}"))?)));
            Kind::StructValue(Struct { fields: fields.collect::<Result<_, String>>()? })
        }
        Value::Array(_) => return Err(format!("'{at}' is a list where none can be")),
    };
    Ok(Wire { kind: Some(kind) })
}

fn finite(number: &Number, at: &str) -> Result<f64, String> {
    match number.as_f64() {
        Some(number) if number.is_finite() => Ok(number),
        _ => Err(format!("'{at}' is no number that Weaviate has: {number}")),
    }
}

/// A value in an error, not all of it.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::json;

    use super::*;

    fn class() -> Properties {
        let list = |element| DataType::List(Box::new(element));
        HashMap::from([
            ("title".into(), DataType::Text),
            ("year".into(), DataType::Int),
            ("years".into(), list(DataType::Int)),
            ("shares".into(), list(DataType::Number)),
            ("tags".into(), list(DataType::Text)),
            ("place".into(), DataType::Geo),
            ("author".into(), DataType::Object(HashMap::from([("names".into(), list(DataType::Text))]))),
            ("cites".into(), DataType::Reference),
        ])
    }

    fn written(properties: Value) -> Result<batch_object::Properties, String> {
        on_the_wire(properties.as_object().expect("an object"), &class())
    }

    #[test]
    fn each_kind_has_its_place() {
        let wire = written(json!({
            "title": "a", "year": 2024, "years": [1, 2.0], "shares": [0.5, 1], "tags": ["x"], "place": {"latitude": 1.5, "longitude": 2},
            "author": {"names": []}, "more": [true], "other": {"deep": [1]},
        }))
        .expect("properties");
        let single = wire.non_ref_properties.expect("fields").fields;
        assert_eq!(single["year"].kind, Some(Kind::NumberValue(2024.0)));
        assert_eq!(single.keys().collect::<Vec<_>>(), ["place", "title", "year"]);
        assert_eq!(wire.int_array_properties[0].values, [1, 2]);
        assert_eq!(wire.number_array_properties[0].values_bytes, [0.5_f64.to_le_bytes(), 1_f64.to_le_bytes()].concat());
        assert_eq!(wire.text_array_properties[0].values, ["x"]);
        assert_eq!(wire.boolean_array_properties[0].values, [true]);
        let named = |name: &str| wire.object_properties.iter().find(|object| object.prop_name == name);
        let author = named("author").and_then(|object| object.value.as_ref()).expect("an object");
        assert_eq!(author.empty_list_props, ["names"]);
        assert!(named("other").is_some());
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        for (properties, said) in [
            (json!({"title": 7}), "'title' is to be a text, and is 7"),
            (json!({"year": 1.5}), "'year' is to be a whole number, and is 1.5"),
            (json!({"year": 9_007_199_254_740_993_i64}), "'year' is beyond 2^53"),
            (json!({"years": [1, "x"]}), "'years' is to be a whole number, and is \"x\""),
            (json!({"tags": "x"}), "'tags' is a list in the class"),
            (json!({"tags": [1]}), "'tags' is to be a list of texts"),
            (json!({"author": {"names": [[]]}}), "'author.names' is to be a list of texts"),
            (json!({"cites": ["x"]}), "'cites' is a reference"),
            (json!({"new": [1, "x"]}), "'new' is a list of several kinds"),
        ] {
            let error = written(properties).expect_err("refused");
            assert!(error.starts_with(said), "{error}");
        }
    }

    #[test]
    fn names_are_the_class_s_and_nulls_are_left_out() {
        let normal = |properties: Value, new| {
            normalised(properties.as_object().expect("an object").clone(), &class(), new).map(Value::Object)
        };
        assert_eq!(normal(json!({"Title": "a", "year": null}), false), Ok(json!({"title": "a"})));
        assert!(normal(json!({"Title": "a", "title": "b"}), false).expect_err("refused").contains("there twice"));
        assert!(normal(json!({"titel": "a"}), false).expect_err("refused").contains("--allow-new-properties"));
        assert_eq!(normal(json!({"titel": "a"}), true), Ok(json!({"titel": "a"})));
        for (properties, said) in
            [(json!({"new": {"a": 1}}), "is an object"), (json!({"new": [{}]}), "a list of objects")]
        {
            assert!(normal(properties, true).expect_err("refused").contains(said));
        }
        assert_eq!(normal(json!({"new": [], "place": {}}), true), Ok(json!({"new": [], "place": {}})));
        let whole = normal(json!({"year": 5.0, "years": [1.0, 2], "shares": [1.0]}), false);
        assert_eq!(whole.map(|value| value.to_string()), Ok(r#"{"shares":[1.0],"year":5,"years":[1,2]}"#.into()));
    }
}
