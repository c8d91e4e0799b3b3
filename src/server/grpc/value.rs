//! Protobuf's Struct and Value to and from JSON and the contract's values.

use std::collections::BTreeMap;

use prost_types::value::Kind;

use crate::contract::value::Value;

/// A contract object as a Struct. Numbers become doubles.
pub(super) fn to_struct(object: BTreeMap<String, Value>) -> prost_types::Struct {
    prost_types::Struct { fields: object.into_iter().map(|(key, value)| (key, to_value(value))).collect() }
}

fn to_value(value: Value) -> prost_types::Value {
    let number = value.as_double();
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(on) => Kind::BoolValue(on),
        Value::Number(_) | Value::Double(_) => Kind::NumberValue(number.unwrap_or(f64::NAN)),
        Value::String(text) => Kind::StringValue(text),
        Value::List(values) => {
            Kind::ListValue(prost_types::ListValue { values: values.into_iter().map(to_value).collect() })
        }
        Value::Object(object) => Kind::StructValue(to_struct(object)),
    };
    prost_types::Value { kind: Some(kind) }
}

/// The fields of a Struct as contract values. A value without a kind is null.
pub(super) fn from_struct(object: prost_types::Struct) -> BTreeMap<String, Value> {
    object.fields.into_iter().map(|(key, value)| (key, from_value(value))).collect()
}

fn from_value(value: prost_types::Value) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(on)) => Value::Bool(on),
        Some(Kind::NumberValue(number)) => Value::Double(number),
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::ListValue(list)) => Value::List(list.values.into_iter().map(from_value).collect()),
        Some(Kind::StructValue(object)) => Value::Object(from_struct(object)),
    }
}

/// A JSON object as a Struct. Numbers become doubles.
pub(super) fn json_to_struct(object: serde_json::Map<String, serde_json::Value>) -> prost_types::Struct {
    prost_types::Struct { fields: object.into_iter().map(|(key, value)| (key, json_to_value(value))).collect() }
}

fn json_to_value(value: serde_json::Value) -> prost_types::Value {
    use serde_json::Value as Json;
    let kind = match value {
        Json::Null => Kind::NullValue(0),
        Json::Bool(on) => Kind::BoolValue(on),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(values) => {
            Kind::ListValue(prost_types::ListValue { values: values.into_iter().map(json_to_value).collect() })
        }
        Json::Object(object) => Kind::StructValue(json_to_struct(object)),
    };
    prost_types::Value { kind: Some(kind) }
}
