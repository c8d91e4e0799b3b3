//! Properties of the module's plain parts that must hold for any input.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::Config;
use serde_json::Value as Json;
use text2vec_sidecar::contract::call::Text;
use text2vec_sidecar::contract::class::{Class, MODULE};
use text2vec_sidecar::contract::date::Date;
use text2vec_sidecar::contract::near_text::{Move, MoveObject, NearText};
use text2vec_sidecar::contract::object_text::{Object, object_text};
use text2vec_sidecar::contract::value::Value;
use text2vec_sidecar::contract::{camel_case, go_format, uuid};

/// A double's sign, shortest digits and exponent of the first digit, found by search: the fewest digits that read back
/// to the same double, of these the nearest.
fn shortest(value: f64) -> (bool, String, i32) {
    for digits in 1..=17_usize {
        let text = format!("{:.*e}", digits - 1, value.abs());
        let (mantissa, exponent) = text.split_once('e').unwrap();
        let (nearest, exponent) = (mantissa.replace('.', ""), exponent.parse::<i32>().unwrap());
        let nearest = nearest.parse::<u64>().unwrap();
        // At a power of two the nearest may lie beyond the half step, and its neighbour within the whole one.
        for candidate in [nearest, nearest + 1, nearest - 1] {
            let power = exponent - (digits as i32 - 1);
            if format!("{candidate}e{power}").parse::<f64>() == Ok(value.abs()) {
                let all = candidate.to_string();
                let exponent = power + all.len() as i32 - 1;
                let kept = all.trim_end_matches('0');
                return (value.is_sign_negative(), kept.to_owned(), exponent);
            }
        }
    }
    unreachable!("17 digits tell all doubles apart")
}

/// The number set in type: plain while the exponent is in the range, else with at least that many exponent digits.
fn typeset(value: f64, plain: std::ops::Range<i32>, width: usize) -> String {
    let sign = if value.is_sign_negative() { "-" } else { "" };
    if value == 0.0 {
        return format!("{sign}0");
    }
    let (_, digits, exponent) = shortest(value);
    let body = if !plain.contains(&exponent) {
        let (first, rest) = digits.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        let direction = if exponent < 0 { '-' } else { '+' };
        format!("{first}{point}{rest}e{direction}{:0>width$}", exponent.abs().to_string())
    } else if exponent < 0 {
        format!("0.{}{digits}", "0".repeat(-exponent as usize - 1))
    } else {
        let whole = exponent as usize + 1;
        let zeros = "0".repeat(whole.saturating_sub(digits.len()));
        let (front, back) = digits.split_at(whole.min(digits.len()));
        let point = if back.is_empty() { "" } else { "." };
        format!("{front}{zeros}{point}{back}")
    };
    format!("{sign}{body}")
}

/// Doubles of all sizes: any bits, short decimals, whole numbers, powers of two and ten and their neighbours.
fn double() -> impl Strategy<Value = f64> {
    let finite = any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |value| value.is_finite());
    let decimal = (-1_000_000_000_i64..1_000_000_000, -12..12_i32)
        .prop_map(|(digits, power)| format!("{digits}e{power}").parse().unwrap());
    let whole = any::<i64>().prop_map(|whole| whole as f64);
    let edge = (prop_oneof![Just(2.0_f64), Just(10.0_f64)], -1074..1024_i32, -1..=1_i64).prop_filter_map(
        "finite",
        |(base, power, step)| {
            let value = base.powi(power);
            let bits = value.to_bits().checked_add_signed(step)?;
            Some(f64::from_bits(bits)).filter(|value| value.is_finite())
        },
    );
    prop_oneof![3 => finite, 3 => decimal, 2 => whole, 2 => edge]
}

/// Strings likely to be looked at: names and values that the module knows, else anything.
fn word() -> impl Strategy<Value = String> {
    let known = [
        "class",
        "properties",
        "name",
        "dataType",
        "nestedProperties",
        "moduleConfig",
        "vectorConfig",
        "vectorizer",
        MODULE,
        "skip",
        "vectorizePropertyName",
        "vectorizeClassName",
        "poolingStrategy",
        "inferenceUrl",
        "dimensions",
        "text",
        "text[]",
        "int",
        "int[]",
        "number",
        "number[]",
        "boolean",
        "date",
        "date[]",
        "uuid",
        "blob",
        "object",
        "object[]",
        "geoCoordinates",
        "Article",
        "a",
        "b",
        "v",
        "A",
        "",
    ];
    prop_oneof![
        6 => prop::sample::select(known.to_vec()).prop_map(str::to_owned),
        1 => ".{0,8}",
        1 => Just("2020-01-02T03:04:05.5+02:00".to_owned()),
        1 => Just("11111111-1111-1111-1111-111111111111".to_owned()),
    ]
}

/// Any JSON, as text so that numbers have any written form and keys may come twice.
fn json_text() -> impl Strategy<Value = String> {
    let number = prop_oneof!["-?(0|[1-9][0-9]{0,25})", "-?(0|[1-9][0-9]{0,4})(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,2})?"];
    let string = word().prop_map(|word| serde_json::to_string(&word).unwrap());
    let literal = prop::sample::select(vec!["null", "true", "false"]).prop_map(str::to_owned);
    let leaf = prop_oneof![number.prop_map(|n| n), string, literal];
    leaf.prop_recursive(5, 40, 6, |inner| {
        let blank = || prop::sample::select(vec!["", " ", "\n"]);
        let list = prop::collection::vec(inner.clone(), 0..6);
        let member = (word(), inner, blank()).prop_map(|(name, value, blank)| {
            format!("{blank}{}{blank}:{value}", serde_json::to_string(&name).unwrap())
        });
        prop_oneof![
            1 => list.prop_map(|values| format!("[{}]", values.join(", "))),
            3 => prop::collection::vec(member, 0..6).prop_map(|members| format!("{{{}}}", members.join(","))),
        ]
    })
}

/// A class of a usable shape, so that assembly gets beyond the first check.
fn class_text() -> impl Strategy<Value = String> {
    let quoted = |word: String| serde_json::to_string(&word).unwrap();
    let property = (word(), word(), json_text()).prop_map(move |(name, data_type, config)| {
        let nested = r#"[{"name":"a","dataType":["text"]},{"name":"b","dataType":["object[]"],"nestedProperties":[
            {"name":"a","dataType":["number"]}]}]"#;
        format!(
            r#"{{"name":{},"dataType":[{}],"moduleConfig":{{"{MODULE}":{config}}},"nestedProperties":{nested}}}"#,
            quoted(name),
            quoted(data_type)
        )
    });
    (word(), prop::collection::vec(property, 0..6), json_text(), prop::collection::vec(word(), 0..5)).prop_map(
        move |(name, properties, config, sources)| {
            let properties = properties.join(",");
            let sources = serde_json::to_string(&sources).unwrap();
            let vector = format!(r#"{{"vectorizer":{{"{MODULE}":{{"properties":{sources}}}}}}}"#);
            format!(
                r#"{{"class":{},"moduleConfig":{{"{MODULE}":{config}}},"vectorConfig":{{"v":{vector}}},
                    "properties":[{properties}]}}"#,
                quoted(name)
            )
        },
    )
}

fn small_vector() -> impl Strategy<Value = Option<Vec<f32>>> {
    prop::option::of(prop::collection::vec(any::<f32>(), 0..3))
}

/// Every step on any texts; what comes out must only be free of contradictions.
fn assemble(class: &str, object: &str, lowercase: bool) {
    let Ok(class) = Class::from_json(class) else { return };
    for target_vector in ["", "v"] {
        let settings = class.settings(target_vector);
        let validation = class.validate(target_vector, lowercase);
        assert_ne!(validation.error.as_deref(), Some(""));
        let stored = Value::Object(class.stored_config(target_vector));
        assert!(stored.get("vectorizeClassName").is_some() && stored.get("poolingStrategy").is_some());
        let Ok(object) = Object::from_json("", object) else { continue };
        let text = object_text(&object, &class, &settings, lowercase);
        assert_ne!(text.as_ref().ok(), Some(&Some(String::new())), "an empty text is not vectorized");
        let Ok(Some(text)) = text else { continue };
        let mut lower = camel_case::spaced(&class.name, lowercase);
        lower.push(' ');
        assert!(!settings.vectorize_class_name || format!("{text} ").starts_with(&lower), "{text}");
        assert!(!lowercase || camel_case::lowercase(&text) == text, "{text}");
    }
}

proptest! {
    #![proptest_config(Config { cases: 15_000, ..Config::default() })]

    #[test]
    fn doubles_as_parts(value in double()) {
        prop_assert_eq!(go_format::double(value), typeset(value, -4..6, 2));
    }

    #[test]
    fn doubles_as_json(value in double()) {
        let text = go_format::json_double(value);
        prop_assert_eq!(&text, &typeset(value, -6..21, 1));
        prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), value.to_bits());
    }
}

proptest! {
    #![proptest_config(Config { cases: 3_000, ..Config::default() })]

    #[test]
    fn any_class_and_object_text(class in class_text(), object in json_text(), lowercase in any::<bool>()) {
        assemble(&class, &object, lowercase);
    }
}

proptest! {
    #![proptest_config(Config { cases: 10_000, ..Config::default() })]

    #[test]
    fn names_lose_and_gain_nothing_but_blanks(name in ".{0,20}", lowercase in any::<bool>()) {
        prop_assert_eq!(camel_case::words(&name).concat(), name.clone());
        let letters = |text: &str| text.replace(' ', "");
        let expected = if lowercase { camel_case::lowercase(&name) } else { name.clone() };
        prop_assert_eq!(letters(&camel_case::spaced(&name, lowercase)), letters(&expected));
    }
}

proptest! {
    #![proptest_config(Config { cases: 3_000, ..Config::default() })]

    /// Values read beside serde_json's own tree: the same, with numbers as they were written.
    #[test]
    fn json_is_read_without_loss(text in json_text()) {
        let ours = Value::from_json(&text).unwrap();
        let reread: Json = serde_json::from_str(&go_format::json(&ours)).unwrap();
        prop_assert_eq!(reread, serde_json::from_str::<Json>(&text).unwrap());
    }

    #[test]
    fn any_text_is_read_or_refused(text in prop_oneof![".{0,40}", "[-\\[\\]{}\",:0-9eE.+\\\\u ]{0,24}"]) {
        let ours = Value::from_json(&text).is_ok();
        prop_assert_eq!(ours, serde_json::from_str::<Json>(&text).is_ok());
        assemble(&text, &text, true);
        let _ = Date::parse(&text);
        let _ = uuid::canonical(&text);
    }

    #[test]
    fn any_search_combines_or_fails(
        texts in prop::collection::vec((word(), word(), small_vector()), 0..4),
        force in any::<f64>(),
        length in 0..3_usize,
    ) {
        let objects = texts.iter().map(|(id, beacon, vector)| {
            MoveObject { id: id.clone(), beacon: format!("weaviate://{beacon}/{id}"), vector: vector.clone() }
        });
        let concepts = texts.iter().map(|text| Text::from(&text.0)).collect();
        let movement = Move { concepts: Some(concepts), objects: Some(objects.collect()), force };
        let near_text = NearText {
            concepts: texts.iter().map(|text| Text::from(&text.1)).collect(),
            move_to: Move { objects: None, ..movement.clone() },
            move_away_from: movement,
            ..NearText::default()
        };
        near_text.validate().unwrap();
        let vectors = near_text.texts().into_iter().map(|_| Ok(vec![1.5_f32; length]));
        if let Ok(vector) = near_text.combine(vectors) {
            prop_assert!(vector.len() == length || near_text.concepts.is_empty());
        }
    }
}

#[test]
fn deep_nests_are_read_in_linear_time_or_refused() {
    let deep = |levels: usize, width: usize| {
        let wide = vec!["1.50"; width].join(",");
        (0..levels).fold(format!("[{wide}]"), |inner, _| format!(r#"{{"a":{inner}}}"#))
    };
    let text = deep(120, 200_000);
    let start = std::time::Instant::now();
    let value = Value::from_json(&text).unwrap();
    let took = start.elapsed();
    assert_eq!(go_format::json(&value), text);
    // Read once per level this would be 120 MB; the bound is loose, it only has to tell one pass from a hundred.
    assert!(took.as_secs() < 5, "{took:?}");
    let refused = Object::from_json("", &deep(5_000, 1));
    assert!(refused.is_err_and(|error| error.message().contains("recursion limit")));
    assert_eq!(Object::from_json("", "null").unwrap().properties, BTreeMap::new());
}
