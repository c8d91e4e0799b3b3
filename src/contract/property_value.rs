//! A property's value, checked and converted by its data type.
//!
//! Follows `usecases/objects/validation/properties_validation.go`, with its messages: whether numbers come as JSON text
//! or as doubles, `int` and `number` become doubles here. Geo coordinates, phone numbers and references are not looked
//! into, because they are never rendered.

use std::collections::BTreeMap;

use super::class::Property;
use super::date::Date;
use super::go_format;
use super::uuid;
use super::value::Value;

/// A value in the form Weaviate vectorizes and stores.
#[derive(Debug, Clone, PartialEq)]
pub enum PropertyValue {
    /// `null`; only inside objects.
    Null,
    /// text, string, blob, blobHash.
    Text(String),
    /// int, number. Finite.
    Number(f64),
    /// boolean.
    Bool(bool),
    /// date.
    Date(Date),
    /// uuid, canonical.
    Uuid(String),
    /// object.
    Object(BTreeMap<String, PropertyValue>),
    /// Any list type; all elements are of one kind.
    List(Vec<PropertyValue>),
    /// geoCoordinates, phoneNumber, references.
    Opaque,
}

impl PropertyValue {
    /// Checks a value, not null, against the data type of its property (the first entry of `dataType`).
    ///
    /// `name` and `class` are the names under which a failure is reported.
    ///
    /// # Errors
    /// Weaviate's text for a value that it refuses; also for NaN and infinities, which it takes (only a protobuf Struct
    /// can carry them).
    pub fn convert(value: &Value, property: &Property, name: &str, class: &str) -> Result<PropertyValue, String> {
        let data_type = property.data_type.first().map_or("", String::as_str);
        let (kind, is_list) = data_type.strip_suffix("[]").map_or((data_type, false), |kind| (kind, true));
        let context = |error: String| {
            let noun = match (kind, is_list) {
                ("int", false) => "integer".to_owned(),
                ("int", true) => "integer array".to_owned(),
                ("object", _) | (_, false) => data_type.to_owned(),
                (_, true) => format!("{kind} array"),
            };
            format!("invalid {noun} property '{name}' on class '{class}': {error}")
        };
        match (kind, is_list) {
            ("object", false) => object(value, property, name, class).map_err(context),
            ("object", true) => object_list(value, property, name, class).map_err(context),
            ("text" | "string" | "int" | "number" | "boolean" | "date" | "uuid", true) => {
                scalar_list(kind, value).map_err(context)
            }
            ("text" | "string" | "int" | "number" | "boolean" | "date" | "uuid" | "blob" | "blobHash", false) => {
                scalar(kind, value).map_err(context)
            }
            ("geoCoordinates" | "phoneNumber", false) => Ok(PropertyValue::Opaque),
            _ if is_reference(data_type) => Ok(PropertyValue::Opaque),
            _ => Err(format!("unrecognized data type '{data_type}'")),
        }
    }

    /// The value as it appears inside the JSON of an object.
    pub fn into_json(self) -> Value {
        match self {
            PropertyValue::Null | PropertyValue::Opaque => Value::Null,
            PropertyValue::Text(text) | PropertyValue::Uuid(text) => Value::String(text),
            PropertyValue::Number(value) => Value::Double(value),
            PropertyValue::Bool(value) => Value::Bool(value),
            PropertyValue::Date(date) => Value::String(date.to_json()),
            PropertyValue::List(values) => Value::List(values.into_iter().map(PropertyValue::into_json).collect()),
            PropertyValue::Object(members) => {
                Value::Object(members.into_iter().map(|(name, value)| (name, value.into_json())).collect())
            }
        }
    }
}

/// A reference has a class name for its data type, perhaps qualified (`namespace:Class`); it starts with a capital.
fn is_reference(data_type: &str) -> bool {
    let class = data_type.split_once(':').map_or(data_type, |(_, class)| class);
    class.starts_with(|c: char| c.is_ascii_uppercase())
}

fn object(value: &Value, property: &Property, name: &str, class: &str) -> Result<PropertyValue, String> {
    let Value::Object(members) = value else {
        return Err(format!("object must be a map, but got: {}", go_format::type_name(value)));
    };
    let mut converted = BTreeMap::new();
    for (member, value) in members {
        let path = format!("{name}.{member}");
        // Of equal names the last, where properties take the first: Weaviate makes a map of them.
        let Some(nested) = property.nested.iter().rfind(|nested| nested.name == *member) else {
            return Err(format!("unknown property '{path}'"));
        };
        let value = match (value, nested.data_type.first()) {
            (_, None) => return Err(format!("property '{path}': must have a data type")),
            (_, Some(data_type)) if is_reference(data_type) || is_opaque(data_type) => {
                return Err(format!("property '{path}': data type '{data_type}' cannot be nested"));
            }
            (Value::Null, _) => PropertyValue::Null,
            _ => {
                let converted = PropertyValue::convert(value, nested, &path, class);
                converted.map_err(|error| format!("property '{path}': {error}"))?
            }
        };
        converted.insert(member.clone(), value);
    }
    Ok(PropertyValue::Object(converted))
}

fn is_opaque(data_type: &str) -> bool {
    matches!(data_type, "geoCoordinates" | "phoneNumber")
}

fn object_list(value: &Value, property: &Property, name: &str, class: &str) -> Result<PropertyValue, String> {
    let Value::List(values) = value else {
        return Err(format!("not an object array, but {}", go_format::type_name(value)));
    };
    let element = |(i, value)| {
        object(value, property, name, class).map_err(|error| format!("invalid object '{i}' in array: {error}"))
    };
    values.iter().enumerate().map(element).collect::<Result<_, _>>().map(PropertyValue::List)
}

fn scalar_list(kind: &str, value: &Value) -> Result<PropertyValue, String> {
    let noun = match kind {
        "int" | "number" => "integer", // also for numbers
        other => other,
    };
    let Value::List(values) = value else {
        let article = if noun == "integer" { "an" } else { "a" };
        return Err(format!("not {article} {noun} array, but {}", go_format::type_name(value)));
    };
    let values = values.iter().map(|value| scalar(kind, value)).collect::<Result<_, _>>();
    values.map(PropertyValue::List).map_err(|_| format!("invalid {noun} array value: {}", go_format::verbose(value)))
}

fn scalar(kind: &str, value: &Value) -> Result<PropertyValue, String> {
    let not_a = |what: &str| format!("not a {what}, but {}", go_format::type_name(value));
    let given = || go_format::verbose(value);
    match kind {
        "int" => int(value),
        "number" => number(value),
        "boolean" => value.as_bool().map(PropertyValue::Bool).ok_or_else(|| not_a("bool")),
        "date" => value.as_str().and_then(Date::parse).map(PropertyValue::Date).ok_or_else(|| {
            format!("requires a string with a RFC3339 formatted date, but the given value is '{}'", given())
        }),
        "uuid" => {
            let uuid = value.as_str().and_then(uuid::canonical).map(PropertyValue::Uuid);
            uuid.ok_or_else(|| format!("requires a string of UUID format, but the given value is '{}'", given()))
        }
        "blob" | "blobHash" => match value.as_str() {
            Some(text) if is_base64(text) => Ok(PropertyValue::Text(text.to_owned())),
            Some(_) => Err("not a valid blob base64 string".to_owned()),
            None => Err(not_a("blob base64 string")),
        },
        _ => value.as_str().map(|text| PropertyValue::Text(text.to_owned())).ok_or_else(|| not_a("string")),
    }
}

/// A whole number of 64 bits; written ones without fraction and exponent. It becomes a double all the same.
fn int(value: &Value) -> Result<PropertyValue, String> {
    let whole = match value {
        Value::Number(written) => match written.parse::<i64>() {
            Ok(whole) => Some(whole as f64),
            Err(_) => return Err(format!("the JSON number '{written}' could not be converted to an int")),
        },
        Value::Double(double) => {
            let in_range = (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(double);
            Some(*double).filter(|double| in_range && double.fract() == 0.0)
        }
        _ => None,
    };
    let refused = || format!("requires an integer, the given value is '{}'", go_format::verbose(value));
    whole.map(PropertyValue::Number).ok_or_else(refused)
}

fn number(value: &Value) -> Result<PropertyValue, String> {
    match (value, value.as_double()) {
        (_, Some(double)) if double.is_finite() => Ok(PropertyValue::Number(double)),
        (Value::Number(written), _) => Err(format!("the JSON number '{written}' could not be converted to a float.")),
        _ => Err(format!("requires a float, the given value is '{}'", go_format::verbose(value))),
    }
}

/// Padded standard base64 of at least one byte.
fn is_base64(text: &str) -> bool {
    let bytes = text.as_bytes();
    let padding = bytes.iter().rev().take(2).take_while(|&&b| b == b'=').count();
    let digits = &bytes[..bytes.len() - padding];
    let is_digit = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    !bytes.is_empty() && bytes.len().is_multiple_of(4) && digits.iter().all(is_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(data_type: &str, value: &Value) -> Result<PropertyValue, String> {
        let property = Property { data_type: vec![data_type.to_owned()], ..Property::default() };
        PropertyValue::convert(value, &property, "p", "C")
    }

    fn json(data_type: &str, text: &str) -> Result<PropertyValue, String> {
        convert(data_type, &Value::from_json(text).unwrap())
    }

    #[test]
    fn ints_are_whole_and_written_so() {
        for (text, double) in [("5", 5.0), ("-0", 0.0), ("9007199254740993", 9_007_199_254_740_992.0)] {
            assert_eq!(json("int", text), Ok(PropertyValue::Number(double)), "{text}");
        }
        let Ok(PropertyValue::Number(zero)) = json("int", "-0") else { panic!("a number") };
        assert_eq!(zero.to_bits(), 0, "an integer has no minus zero");
        for text in ["5.0", "1e3", "\"5\"", "true", "9223372036854775808", "[1]"] {
            assert!(json("int", text).is_err(), "{text}");
        }
        for double in [f64::NAN, f64::INFINITY, 0.5, 1e300, 9_223_372_036_854_775_808.0] {
            assert!(convert("int", &Value::Double(double)).is_err(), "{double}");
        }
        let least = -9_223_372_036_854_775_808.0;
        assert_eq!(convert("int", &Value::Double(least)), Ok(PropertyValue::Number(least)));
    }

    #[test]
    fn numbers_are_read_to_the_nearest_double_and_are_finite() {
        // Digits on which a fast parser without correction is one unit off.
        for text in ["1.7976931348623157e308", "8.41e+21", "2.2250738585072011e-308", "9007199254740993.0"] {
            assert_eq!(json("number", text), Ok(PropertyValue::Number(text.parse().unwrap())), "{text}");
        }
        for double in [f64::NAN, f64::INFINITY] {
            assert!(convert("number", &Value::Double(double)).is_err());
            assert!(convert("number[]", &Value::List(vec![Value::Double(double)])).is_err());
        }
    }

    #[test]
    fn refusals_have_weaviates_words() {
        for (data_type, value, message) in [
            ("text[]", "5", "invalid text array property 'p' on class 'C': not a text array, but json.Number"),
            (
                "string[]",
                "[null]",
                "invalid string array property 'p' on class 'C': invalid string array value: [<nil>]",
            ),
            (
                "number[]",
                "{}",
                "invalid number array property 'p' on class 'C': not an integer array, but map[string]interface {}",
            ),
            ("boolean", "1", "invalid boolean property 'p' on class 'C': not a bool, but json.Number"),
            ("blob", "\"x\"", "invalid blob property 'p' on class 'C': not a valid blob base64 string"),
            (
                "uuid",
                "\"x\"",
                "invalid uuid property 'p' on class 'C': requires a string of UUID format, but the given value is 'x'",
            ),
            (
                "object[]",
                "[1]",
                "invalid object[] property 'p' on class 'C': invalid object '0' in array: object must be a map, but \
                 got: json.Number",
            ),
            ("blob[]", "[]", "unrecognized data type 'blob[]'"),
            ("", "1", "unrecognized data type ''"),
        ] {
            assert_eq!(json(data_type, value), Err(message.to_owned()));
        }
    }

    #[test]
    fn base64_is_padded_and_not_empty() {
        for text in ["aGVsbG8=", "aGVsbA==", "aGVs", "+/+/"] {
            assert!(is_base64(text), "{text}");
        }
        for text in ["", "a", "aGVsbG8", "====", "aG=s", "aGV-", "a===", "aGVs\n"] {
            assert!(!is_base64(text), "{text}");
        }
    }

    #[test]
    fn nested_members_keep_null_and_must_be_known() {
        let member = |name: &str, data_type: &str| Property {
            name: name.into(),
            data_type: vec![data_type.into()],
            ..Property::default()
        };
        let property = Property {
            data_type: vec!["object".into()],
            nested: vec![member("d", "date"), member("u", "uuid"), member("g", "geoCoordinates"), Property::default()],
            ..Property::default()
        };
        let convert = |text: &str| PropertyValue::convert(&Value::from_json(text).unwrap(), &property, "o", "C");
        let json = convert(r#"{"d":null,"u":"AAAAAAAA222233334444555555555555"}"#).unwrap().into_json();
        assert_eq!(go_format::json(&json), r#"{"d":null,"u":"aaaaaaaa-2222-3333-4444-555555555555"}"#);
        for (text, message) in [
            (r#"{"x":null}"#, "unknown property 'o.x'"),
            (r#"{"g":null}"#, "property 'o.g': data type 'geoCoordinates' cannot be nested"),
            (r#"{"":1}"#, "property 'o.': must have a data type"),
            (
                r#"{"d":1}"#,
                "property 'o.d': invalid date property 'o.d' on class 'C': requires a string with a RFC3339 formatted \
                 date, but the given value is '1'",
            ),
        ] {
            assert_eq!(convert(text), Err(format!("invalid object property 'o' on class 'C': {message}")));
        }
    }
}
