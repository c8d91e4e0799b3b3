//! Ids that are the same in every run over the same file: what was inserted before a break is replaced, not doubled.

use serde_json::{Map, Value};
use uuid::Uuid;

use crate::options::IdRule;

/// The namespace of ids made here (UUID version 5). It never changes: with another one every import would double.
const NAMESPACE: Uuid = Uuid::from_u128(0x6c1f_3a52_94be_4d07_8e1d_5b0c_7a96_2f43);

/// The id of a row: its own, else by the rule.
pub(crate) fn id(
    rule: &IdRule,
    collection: &str,
    number: u64,
    own: Option<String>,
    properties: &Map<String, Value>,
) -> Result<String, String> {
    if let Some(own) = own {
        return match Uuid::try_parse(&own) {
            Ok(id) => Ok(id.hyphenated().to_string()),
            Err(_) => Err(format!("its id '{own}' is no UUID: leave it out, or name a property with --id-property")),
        };
    }
    let name = match rule {
        IdRule::Position => format!("{collection}\n{number}\n{}", canonical(properties)),
        IdRule::Content => format!("{collection}\n{}", canonical(properties)),
        IdRule::Property(property) => match properties.get(property) {
            Some(Value::String(text)) => match Uuid::try_parse(text) {
                Ok(id) => return Ok(id.hyphenated().to_string()),
                Err(_) => format!("{collection}\n{property}\n{text}"),
            },
            Some(Value::Number(number)) => format!("{collection}\n{property}\n{number}"),
            Some(_) => return Err(format!("'{property}', which --id-property names, is neither a text nor a number")),
            None => return Err(format!("'{property}', which --id-property names, is not there")),
        },
    };
    Ok(Uuid::new_v5(&NAMESPACE, name.as_bytes()).hyphenated().to_string())
}

/// Properties as JSON with sorted keys: their order in the file does not count.
fn canonical(properties: &Map<String, Value>) -> String {
    let mut text = String::new();
    write_object(properties, &mut text);
    text
}

fn write_object(object: &Map<String, Value>, text: &mut String) {
    let mut fields: Vec<_> = object.iter().collect();
    fields.sort_unstable_by_key(|(key, _)| *key);
    text.push('{');
    for (key, value) in fields {
        text.push_str(&Value::from(key.as_str()).to_string());
        text.push(':');
        write_value(value, text);
        text.push(',');
    }
    text.push('}');
}

fn write_value(value: &Value, text: &mut String) {
    match value {
        Value::Object(object) => write_object(object, text),
        Value::Array(elements) => {
            text.push('[');
            for element in elements {
                write_value(element, text);
                text.push(',');
            }
            text.push(']');
        }
        other => text.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn made(rule: &IdRule, number: u64, own: Option<&str>, properties: Value) -> Result<String, String> {
        id(rule, "Article", number, own.map(str::to_owned), properties.as_object().expect("an object"))
    }

    #[test]
    fn ids_are_the_same_in_every_run() {
        // Changed, they would double every collection that was imported before.
        let row = json!({"title": "a", "year": 2024});
        assert_eq!(
            made(&IdRule::Position, 1, None, row.clone()).expect("an id"),
            "5bfa82c5-6d6f-58f1-a8ec-2d12d0cd041e"
        );
        assert_eq!(
            made(&IdRule::Content, 1, None, row.clone()).expect("an id"),
            "44d833d1-1ffc-5415-a909-4e1b4790fe46"
        );
        let by_title = IdRule::Property("title".into());
        assert_eq!(made(&by_title, 1, None, row).expect("an id"), "e6f8b6b8-a794-53e3-88d7-0ca29cb6fcd0");
    }

    #[test]
    fn rules_differ_in_what_counts() {
        let (a, same) = (json!({"x": 1, "y": [2]}), json!({"y": [2], "x": 1}));
        let position = |number, row: &Value| made(&IdRule::Position, number, None, row.clone()).expect("an id");
        assert_eq!(position(1, &a), position(1, &same));
        assert_ne!(position(1, &a), position(2, &a));
        let content = |number, row: &Value| made(&IdRule::Content, number, None, row.clone()).expect("an id");
        assert_eq!(content(1, &a), content(2, &same));
        let by_x = IdRule::Property("x".into());
        assert_eq!(made(&by_x, 1, None, a.clone()), made(&by_x, 9, None, json!({"x": 1, "z": 3})));
        assert!(
            made(&IdRule::Property("q".into()), 1, None, a.clone()).expect_err("refused").contains("--id-property")
        );
        assert!(made(&IdRule::Property("y".into()), 1, None, a).expect_err("refused").contains("neither"));
    }

    #[test]
    fn own_ids_stay() {
        let own = "4E6B37F6-1D0C-4D2E-9A52-9C5B6A0C9E11";
        for rule in [IdRule::Position, IdRule::Content, IdRule::Property("q".into())] {
            assert_eq!(made(&rule, 1, Some(own), json!({})), Ok(own.to_lowercase()));
        }
        assert!(made(&IdRule::Position, 1, Some("seven"), json!({})).expect_err("refused").contains("no UUID"));
        let by_url = IdRule::Property("id".into());
        assert_eq!(made(&by_url, 1, None, json!({"id": own})), Ok(own.to_lowercase()));
    }
}
