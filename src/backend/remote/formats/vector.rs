//! Vectors as upstreams write them in JSON, and what is made of them.

use crate::backend::Embedding;
use crate::contract::call::EmbedSettings;

/// The numbers of a JSON list, each rounded once, from its digits to float32; `None` for null. A null within it is no
/// number: many writers of JSON put it where they had a NaN.
///
/// # Errors
/// What is wrong with it, in words: no list, an element that is no number, a number beyond float32.
pub fn floats(json: &str) -> Result<Option<Vec<f32>>, String> {
    if json == "null" {
        return Ok(None);
    }
    let inner = json.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).ok_or("vector is not a list")?.trim();
    if inner.is_empty() {
        return Ok(Some(Vec::new()));
    }
    // The text is JSON already: what begins like a number is one.
    let number = |element: &str| {
        let element = element.trim_ascii();
        let number = element.starts_with(|c: char| c == '-' || c.is_ascii_digit()).then(|| element.parse::<f32>().ok());
        match number.flatten() {
            Some(number) if number.is_finite() => Ok(number),
            Some(_) => Err(format!("the vector has {element}, which is no float32")),
            None => Err("the vector has an element that is not a number".to_owned()),
        }
    };
    inner.split(',').map(number).collect::<Result<_, _>>().map(Some)
}

/// A vector as an upstream without token counts gives it.
pub fn embedding(vector: Vec<f32>, settings: &EmbedSettings) -> Embedding {
    // A length that was asked for and not given: the setting had no effect.
    let asked =
        settings.dimensions.and_then(|dimensions| usize::try_from(dimensions).ok()).filter(|&length| length > 0);
    let ignored = if asked.is_some_and(|length| length != vector.len()) { vec!["dimensions"] } else { Vec::new() };
    Embedding { vector: vector.into(), tokens: 0, truncated: false, ignored }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_once() {
        // Half way between two float32 plus a little that float64 cannot hold: through a double it would round to even.
        let halfway = "1.00000005960464477539062500000000000000001";
        assert_eq!(floats(&format!("[{halfway}]")), Ok(Some(vec![1.000_000_1])));
        assert_eq!(floats("[ 1 , -2.5e3,1e-50 ]"), Ok(Some(vec![1.0, -2500.0, 0.0])));
        assert_eq!(floats("null"), Ok(None));
        assert_eq!(floats("[]"), Ok(Some(vec![])));
        for wrong in ["[1e39]", "[null]", "[\"1\"]", "[[1]]", "{}", "\"x\"", "[true]"] {
            assert!(floats(wrong).is_err(), "{wrong}");
        }
    }
}
