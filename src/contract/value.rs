//! JSON as Weaviate holds it in memory: numbers keep their written form until the data type of their property is known.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, Result};

/// A JSON value. Members are sorted by the bytes of their names, the order in which Weaviate's module reads and writes
/// them.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Value {
    /// `null`.
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number as JSON text wrote it: `5.0` is not `5` here. Go's `json.Number`.
    Number(String),
    /// A number that came as a double, as in a protobuf Struct. Go's `float64`.
    Double(f64),
    /// A string.
    String(String),
    /// A list.
    List(Vec<Value>),
    /// An object.
    Object(BTreeMap<String, Value>),
}

impl Value {
    /// Reads JSON text. Of equal keys the last one counts, as in Go.
    ///
    /// Linear in the length of the text, at any nesting.
    ///
    /// # Errors
    /// `InvalidArgument` if the text is not one JSON value. Stricter than Go in three points, none of which a stored
    /// Weaviate object can have: more than 127 levels, a lone surrogate escape (Go reads U+FFFD), a number beyond the
    /// doubles (`1e400`).
    pub fn from_json(text: &str) -> Result<Value> {
        Value::part_of_json(text, &Keep::All)
    }

    /// [`Value::from_json`] of a part of what the text says. The rest is read as strictly, and not kept.
    ///
    /// # Errors
    /// As [`Value::from_json`].
    pub fn part_of_json(text: &str, keep: &Keep) -> Result<Value> {
        let mut json = serde_json::Deserializer::from_str(text);
        let numbers = RefCell::new(WrittenNumbers { rest: text });
        let value = AnyValue { numbers: &numbers, keep }.deserialize(&mut json);
        value.and_then(|value| json.end().map(|()| value)).map_err(|e| Error::invalid(format!("invalid JSON: {e}")))
    }

    /// The member of that name, if this is an object that has it.
    pub fn get(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Object(members) => members.get(name),
            _ => None,
        }
    }

    /// The text, if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The truth value, if this is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The double nearest to this number, if it is a number; infinite when a written one lies beyond the doubles.
    pub fn as_double(&self) -> Option<f64> {
        match self {
            Value::Number(written) => written.parse().ok(),
            Value::Double(value) => Some(*value),
            _ => None,
        }
    }
}

/// What of a JSON value is kept. A value of another kind than this is about keeps its kind: a list or an object is then empty.
#[derive(Debug)]
pub enum Keep {
    /// All of it.
    All,
    /// Of an object, these members.
    Members(&'static [(&'static str, Keep)]),
    /// Of an object each member, of a list each entry, and of each of them this.
    Each(&'static Keep),
}

impl Keep {
    /// Of a member.
    fn member(&self, name: &str) -> Option<&Keep> {
        match self {
            Keep::All => Some(self),
            Keep::Members(members) => members.iter().find(|(member, _)| *member == name).map(|(_, keep)| keep),
            Keep::Each(keep) => Some(keep),
        }
    }

    /// Of a list's entries.
    fn entries(&self) -> Option<&Keep> {
        match self {
            Keep::All => Some(self),
            Keep::Members(_) => None,
            Keep::Each(keep) => Some(keep),
        }
    }
}

/// Bytes that the system's allocator adds to an allocation.
const ALLOCATION: usize = 16;

/// Bytes a text occupies beside its own three words.
pub fn heap_of(text: &str) -> usize {
    if text.is_empty() { 0 } else { text.len() + ALLOCATION }
}

/// Bytes the nodes of a map occupy. Each has room for eleven, and is half full at least, but for a single one.
pub fn heap_of_nodes<K, V>(members: usize) -> usize {
    members.div_ceil(6) * (11 * (size_of::<K>() + size_of::<V>()) + 2 * ALLOCATION)
}

impl Value {
    /// Bytes it occupies beside its own size, about.
    pub fn heap(&self) -> usize {
        match self {
            Value::Null | Value::Bool(_) | Value::Double(_) => 0,
            Value::Number(text) | Value::String(text) => heap_of(text),
            Value::List(values) => {
                values.capacity() * size_of::<Value>() + ALLOCATION + values.iter().map(Value::heap).sum::<usize>()
            }
            Value::Object(members) => {
                let members_heap = members.iter().map(|(name, value)| heap_of(name) + value.heap());
                heap_of_nodes::<String, Value>(members.len()) + members_heap.sum::<usize>()
            }
        }
    }
}

/// The number tokens of a JSON text, in the order they stand there.
///
/// serde_json hands numbers over as `u64`, `i64` or a rounded `f64`, without their text, but it visits them in the
/// order of the document. So the texts are picked up beside it: one pass each, where capturing raw values level by
/// level would read deep nests once per level.
struct WrittenNumbers<'a> {
    rest: &'a str,
}

impl<'a> Iterator for WrittenNumbers<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let bytes = self.rest.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            match bytes[at] {
                b'"' => {
                    at += 1;
                    while at < bytes.len() && bytes[at] != b'"' {
                        at += if bytes[at] == b'\\' { 2 } else { 1 };
                    }
                    at += 1;
                }
                b'-' | b'0'..=b'9' => {
                    let length =
                        bytes[at..].iter().take_while(|b| matches!(b, b'+' | b'-' | b'.' | b'e' | b'E' | b'0'..=b'9'));
                    let end = at + length.count();
                    let number = self.rest.get(at..end);
                    self.rest = self.rest.get(end..).unwrap_or("");
                    return number;
                }
                _ => at += 1,
            }
        }
        None
    }
}

#[derive(Clone, Copy)]
struct AnyValue<'r, 'a> {
    numbers: &'r RefCell<WrittenNumbers<'a>>,
    keep: &'r Keep,
}

/// Reads a value and keeps nothing, in step with the numbers.
#[derive(Clone, Copy)]
struct NoValue<'r, 'a> {
    numbers: &'r RefCell<WrittenNumbers<'a>>,
}

impl NoValue<'_, '_> {
    fn number(self) {
        self.numbers.borrow_mut().next();
    }
}

impl<'de> DeserializeSeed<'de> for NoValue<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NoValue<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.number();
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        self.number();
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.number();
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key_seed(self)?.is_some() {
            map.next_value_seed(self)?;
        }
        Ok(())
    }
}

impl AnyValue<'_, '_> {
    fn number<E: serde::de::Error>(self) -> Result<Value, E> {
        let written = self.numbers.borrow_mut().next();
        written.map(|number| Value::Number(number.to_owned())).ok_or_else(|| E::custom("a number without text"))
    }
}

impl<'de> DeserializeSeed<'de> for AnyValue<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AnyValue<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Value, E> {
        self.number()
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Value, E> {
        self.number()
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Value, E> {
        self.number()
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        let Some(keep) = self.keep.entries() else {
            while list.next_element_seed(NoValue { numbers: self.numbers })?.is_some() {}
            return Ok(Value::List(values));
        };
        while let Some(value) = list.next_element_seed(AnyValue { keep, ..self })? {
            values.push(value);
        }
        Ok(Value::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            match self.keep.member(&name) {
                Some(keep) => {
                    let value = map.next_value_seed(AnyValue { keep, ..self }).map_err(A::Error::custom)?;
                    members.insert(name, value);
                }
                None => map.next_value_seed(NoValue { numbers: self.numbers }).map_err(A::Error::custom)?,
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Value {
        Value::Number(text.to_owned())
    }

    #[test]
    fn numbers_keep_their_written_form() {
        let text = r#"[5.0, 5, -0, -0.0, 1E3, 123456789012345678901234567890, 0.1000, {"7":"8 \" 9 \\","b":[1e-7]}]"#;
        let Value::List(values) = Value::from_json(text).unwrap() else { panic!("a list") };
        let written = ["5.0", "5", "-0", "-0.0", "1E3", "123456789012345678901234567890", "0.1000"];
        assert_eq!(values[..7], written.map(number));
        assert_eq!(values[7].get("7"), Some(&Value::String(r#"8 " 9 \"#.to_owned())));
        assert_eq!(values[7].get("b"), Some(&Value::List(vec![number("1e-7")])));
    }

    #[test]
    fn a_part_is_read_as_the_whole_is() {
        static ENTRY: Keep = Keep::Members(&[("a", Keep::All)]);
        static PART: Keep = Keep::Members(&[("list", Keep::Each(&ENTRY)), ("n", Keep::All)]);
        let text =
            r#"{"no":[1,{"x":-2.50,"y":["3",true,null]}],"list":[{"a":{"b":4.0},"c":5},6,[7],{}],"m":8,"n":9.0}"#;
        let part = Value::part_of_json(text, &PART).unwrap();
        let expected = r#"{"list":[{"a":{"b":4.0}},6,[],{}],"n":9.0}"#;
        assert_eq!(part, Value::from_json(expected).unwrap(), "numbers are those of their places");
        assert!(part.heap() < Value::from_json(text).unwrap().heap());
        for text in [r#"{"no":1e400}"#, r#"{"no":"\ud800"}"#, r#"{"no":{"\ud800":1}}"#, r#"{"no":[1,]}"#] {
            assert!(Value::part_of_json(text, &PART).is_err(), "{text}");
        }
    }

    #[test]
    fn the_last_of_equal_keys_counts() {
        let value = Value::from_json(r#"{"a":1,"a":{"b":2},"a":"x3"}"#).unwrap();
        assert_eq!(value.get("a"), Some(&Value::String("x3".into())));
    }

    #[test]
    fn what_is_not_json_is_an_error() {
        let deep = "[".repeat(100_000);
        let surrogate = r#""\ud800""#;
        for text in ["", "{", "[1,]", "[1 2]", "nul", "1e400", "01", "\"\\", "{}1", "\u{feff}{}", surrogate, &deep] {
            let error = Value::from_json(text).unwrap_err();
            assert!(error.message().starts_with("invalid JSON: "), "{text:.20}: {error}");
        }
    }

    #[test]
    fn nesting_is_read_up_to_127_levels() {
        let nest = |levels: usize| "[".repeat(levels) + "5.0" + &"]".repeat(levels);
        assert!(Value::from_json(&nest(127)).is_ok());
        assert!(Value::from_json(&nest(128)).is_err());
    }
}
