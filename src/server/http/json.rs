//! JSON of bodies, read as it is asked for: what nobody asks for is skipped and takes no memory, however much it is.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The APIs here know a dozen fields; a body with more than this many is refused.
const MAX_FIELDS: usize = 100;

/// The fields of an object, as their JSON.
pub(super) struct Object(HashMap<String, Box<RawValue>>);

impl Object {
    /// Reads an object: of fields with one name the last counts.
    pub(super) fn read(json: &str) -> serde_json::Result<Object> {
        serde_json::from_str(json)
    }

    /// Takes a field out.
    pub(super) fn take(&mut self, key: &str) -> Option<Box<RawValue>> {
        self.0.remove(key)
    }

    /// Whether a field is there, and not null.
    pub(super) fn has(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|value| value.get() != "null")
    }

    /// Whether a field is there, and neither null nor an empty text.
    pub(super) fn says(&self, key: &str) -> bool {
        self.has(key) && self.0.get(key).is_some_and(|value| value.get() != "\"\"")
    }

    /// Lets a field be given by another name.
    pub(super) fn rename(&mut self, other: &str, key: &str) {
        if let (Some(value), false) = (self.0.remove(other), self.0.contains_key(key)) {
            self.0.insert(key.to_owned(), value);
        }
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut fields = HashMap::new();
                while let Some((key, value)) = map.next_entry()? {
                    fields.insert(key, value);
                    if fields.len() > MAX_FIELDS {
                        return Err(A::Error::custom(format!("an object of more than {MAX_FIELDS} fields")));
                    }
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// Hands over each element of a list, with its place.
pub(super) fn each<'j>(
    list: &'j str,
    take: impl FnMut(usize, &'j str) -> serde_json::Result<()>,
) -> serde_json::Result<()> {
    struct Elements<T>(T);
    impl<'de, T: FnMut(usize, &'de str) -> serde_json::Result<()>> Visitor<'de> for Elements<T> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
            let mut place = 0;
            while let Some(element) = list.next_element::<&'de RawValue>()? {
                (self.0)(place, element.get()).map_err(A::Error::custom)?;
                place += 1;
            }
            Ok(())
        }
    }
    serde_json::Deserializer::from_str(list).deserialize_seq(Elements(take))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_taken_by_name_and_not_too_many() {
        let mut object = Object::read(r#" {"a": [1, 2], "b": "x", "a": {"c": 1e999}} "#).expect("an object");
        assert_eq!(object.take("a").expect("a field").get(), r#"{"c": 1e999}"#);
        assert!(object.take("a").is_none());
        object.rename("b", "c");
        assert_eq!(object.take("c").expect("a field").get(), r#""x""#);
        let fields = |count: usize| (0..count).map(|i| format!(r#""{i}":0"#)).collect::<Vec<_>>().join(",");
        assert!(Object::read(&format!("{{{}}}", fields(MAX_FIELDS))).is_ok());
        let error = Object::read(&format!("{{{}}}", fields(MAX_FIELDS + 1))).err().expect("refused");
        assert!(error.to_string().contains("more than 100 fields"), "{error}");
        for (json, is_data) in [("[]", true), ("7", true), ("null", true), ("{", false), ("", false), ("{} x", false)] {
            assert_eq!(Object::read(json).err().expect("refused").is_data(), is_data, "{json}");
        }
    }

    #[test]
    fn elements_come_one_by_one() {
        let mut seen = Vec::new();
        let all = each(r#"[1, "a,b" ,[2,3]]"#, |place, raw| {
            seen.push((place, raw));
            Ok(())
        });
        assert!(all.is_ok());
        assert_eq!(seen, [(0, "1"), (1, r#""a,b""#), (2, "[2,3]")]);
    }
}
