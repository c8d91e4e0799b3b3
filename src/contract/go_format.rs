//! Values as Go's `fmt` and `encoding/json` print them.

use std::ops::Range;

use super::value::Value;

/// A double in `%v` form: shortest digits that read back to the same double; exponent form below 0.0001 and from one
/// million on, with sign and at least two digits (`1e+06`).
pub fn double(value: f64) -> String {
    typeset(value, -4..6, 2)
}

/// A finite double as `encoding/json` writes it: plain for 0 and 1e-6 ≤ |v| < 1e21, else exponent form without padding
/// (`1e-7`). JSON has no form for NaN and infinities; they come out as in [`double`].
pub fn json_double(value: f64) -> String {
    typeset(value, -6..21, 1)
}

/// A number as `%f`: six decimals.
pub fn six_decimals(value: f32) -> String {
    if value.is_finite() { format!("{value:.6}") } else { double(value.into()) }
}

/// Any value in `%v` form: `<nil>`, `[a 1]`, `map[a:1 b:[x <nil>]]`; strings bare.
pub fn verbose(value: &Value) -> String {
    let mut out = String::new();
    write_verbose(value, &mut out);
    out
}

/// Any value as `encoding/json` writes it: no blanks, members by the bytes of their names, `<`, `>`, `&`, U+2028 and
/// U+2029 escaped besides what JSON demands. A number that is still in its written form keeps it.
pub fn json(value: &Value) -> String {
    let mut out = String::new();
    write_json(value, &mut out);
    out
}

/// The name of a value's Go type (`%T`), as Weaviate holds values that came as JSON or as Struct.
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(_) => "json.Number",
        Value::Double(_) => "float64",
        Value::String(_) => "string",
        Value::List(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// Sign and shortest digits with the point after the first, and the decimal exponent; `None` for 0, NaN and infinities.
fn shortest(value: f64) -> Option<(String, i32)> {
    if value == 0.0 || !value.is_finite() {
        return None;
    }
    let mut text = format!("{value:e}");
    // Half way between two shortest forms Rust takes the upper, Go the even one, as rounding to that many digits does
    // (1125899906842624.25 → ….2). Rounding alone would not do: at powers of two it may miss the double.
    let decimals = text.find('e')?.saturating_sub(text.find('.').map_or(usize::MAX, |point| point + 1));
    let rounded = format!("{value:.decimals$e}");
    if rounded.parse() == Ok(value) {
        text = rounded;
    }
    let (digits, exponent) = text.split_once('e')?;
    Some((digits.to_owned(), exponent.parse().ok()?))
}

/// Plain while the decimal exponent is in the range, else with an exponent of at least that many digits.
fn typeset(value: f64, plain: Range<i32>, width: usize) -> String {
    match shortest(value) {
        None if value.is_infinite() => if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned(),
        None => value.to_string(), // 0, -0, NaN
        Some((number, exponent)) if plain.contains(&exponent) => without_exponent(&number, exponent),
        Some((number, exponent)) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{number}e{sign}{:0width$}", exponent.unsigned_abs())
        }
    }
}

/// `-1.25` with exponent 3 → `-1250`, with exponent -2 → `-0.0125`.
fn without_exponent(number: &str, exponent: i32) -> String {
    let sign = if number.starts_with('-') { "-" } else { "" };
    let digits = number.replace(['-', '.'], "");
    let places = exponent.unsigned_abs() as usize;
    if exponent < 0 {
        return format!("{sign}0.{}{digits}", "0".repeat(places - 1));
    }
    match digits.split_at_checked(places + 1) {
        None | Some((_, "")) => format!("{sign}{digits:0<width$}", width = places + 1),
        Some((whole, fraction)) => format!("{sign}{whole}.{fraction}"),
    }
}

fn write_verbose(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(text) | Value::String(text) => out.push_str(text),
        Value::Double(value) => out.push_str(&double(*value)),
        Value::List(values) => {
            out.push('[');
            for (i, value) in values.iter().enumerate() {
                if i > 0 {
                    out.push(' ');
                }
                write_verbose(value, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push_str("map[");
            for (i, (name, value)) in members.iter().enumerate() {
                if i > 0 {
                    out.push(' ');
                }
                out.push_str(name);
                out.push(':');
                write_verbose(value, out);
            }
            out.push(']');
        }
    }
}

fn write_json(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(written) => out.push_str(written),
        Value::Double(value) => out.push_str(&json_double(*value)),
        Value::String(text) => write_json_string(text, out),
        Value::List(values) => {
            out.push('[');
            for (i, value) in values.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_json(value, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push('{');
            for (i, (name, value)) in members.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_json_string(name, out);
                out.push(':');
                write_json(value, out);
            }
            out.push('}');
        }
    }
}

fn write_json_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\0'..='\u{1f}' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_turn_to_exponents_at_a_million_and_below_a_ten_thousandth() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (999_999.0, "999999"),
            (999_999.999_9, "999999.9999"),
            (1e6, "1e+06"),
            (1_000_000.5, "1.0000005e+06"),
            (-1_234_567.0, "-1.234567e+06"),
            (0.0001, "0.0001"),
            (0.000_099_9, "9.99e-05"),
            (1e100, "1e+100"),
            (5e-324, "5e-324"),
            (2_f64.powi(50) + 0.25, "1.1258999068426242e+15"), // half way, to even
            (2_f64.powi(50) + 0.75, "1.1258999068426248e+15"),
            (5.684_341_886_080_802e-14, "5.684341886080802e-14"), // 2^-44: 16 digits, not the nearest 16
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            assert_eq!(double(value), text);
        }
    }

    #[test]
    fn json_doubles_turn_to_exponents_at_1e21_and_below_a_millionth() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1e6, "1000000"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (999_999_999_999_999_900_000.0, "999999999999999900000"),
            (1e-6, "0.000001"),
            (9.9e-7, "9.9e-7"),
            (-1e-300, "-1e-300"),
        ] {
            assert_eq!(json_double(value), text);
        }
    }

    #[test]
    fn six_decimals_as_go_prints_them() {
        for (value, text) in [(1.5, "1.500000"), (1.0e-7, "0.000000"), (f32::INFINITY, "+Inf"), (f32::NAN, "NaN")] {
            assert_eq!(six_decimals(value), text);
        }
        assert_eq!(six_decimals(f32::MAX), "340282346638528859811704183484516925440.000000");
    }

    #[test]
    fn values_print_as_go_prints_them() {
        let value = Value::from_json(r#"{"k":"v","b":[1.50,"x",null,true,{}],"<":"\u0001\u007f/é\u2028"}"#).unwrap();
        assert_eq!(verbose(&value), "map[<:\u{1}\u{7f}/é\u{2028} b:[1.50 x <nil> true map[]] k:v]");
        assert_eq!(
            json(&value),
            "{\"\\u003c\":\"\\u0001\u{7f}/é\\u2028\",\"b\":[1.50,\"x\",null,true,{}],\"k\":\"v\"}"
        );
    }
}
