//! What an upstream is called, and what tells it from others.

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::backend::meta::theirs::{TheirBlock, TheirSide, Theirs};
use crate::hex::hex;

/// The name of a model whose upstream tells none, as the reference container.
pub const UNNAMED: &str = "upstream";

/// What the upstream calls its model: a sidecar says it of itself, or of the first that it serves; the others have it in their
/// own place, or we have it from their list.
pub fn name(meta: &Theirs) -> Option<String> {
    let said = &meta.said;
    let side = |side: &Option<TheirSide>| Some(side.as_ref()?.sidecar.as_ref()?.name()?.to_owned());
    let pair = || Some(format!("{} + {}", side(&said.passage)?, side(&said.query)?));
    let sidecar = said.sidecar.as_ref().and_then(TheirBlock::name).map(str::to_owned);
    let model = || said.model_id.as_deref().or_else(|| said.model_name()).map(str::to_owned);
    let found = sidecar.or_else(pair).or_else(model);
    found.filter(|name| !name.is_empty() && name.len() <= 256 && !name.contains(char::is_control))
}

/// Changes with the URL and with what the upstream says of its model, as far as it does.
pub fn fingerprint(place: &str, meta: &Theirs) -> String {
    let mut hash = Sha256::new();
    hash.update(place);
    hash.update([0]);
    match meta.said.sidecar.as_ref().and_then(|sidecar| sidecar.fingerprint.as_deref()) {
        Some(theirs) => hash.update(theirs),
        None => hash.update(Value::Object(meta.fields.clone()).to_string()),
    }
    hex(&hash.finalize()[..16])
}

/// The fingerprint of what a class names: changes with its whole text. With user-info and query: another password is
/// another upstream.
pub fn fingerprint_of_url(url: &str) -> String {
    hex(&Sha256::digest(url)[..16])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn meta(said: &Value) -> Theirs {
        said.as_object().expect("an object").clone().into()
    }

    #[test]
    fn a_model_is_called_what_its_upstream_says() {
        for (said, expected) in [
            (json!({"sidecar": {"model": "one", "models": ["two"]}, "model_id": "three"}), Some("one")),
            (json!({"sidecar": {"models": ["two", "one"]}, "model": "three"}), Some("two")),
            (json!({"passage": {"sidecar": {"model": "p"}}, "query": {"sidecar": {"models": ["q"]}}}), Some("p + q")),
            (json!({"passage": {"sidecar": {"model": "p"}}, "query": {}, "model_id": "three"}), Some("three")),
            (json!({"model_id": 3, "model": "four"}), Some("four")),
            (json!({"model": {"model_type": "bert"}, "model_path": "./models/model"}), None),
            (json!({"sidecar": {"model": ""}, "model_id": "three"}), None),
            (json!({"model": "two\nlines"}), None),
        ] {
            assert_eq!(name(&meta(&said)).as_deref(), expected, "{said}");
        }
    }

    #[test]
    fn fingerprints_follow_a_sidecar_s_own_or_all_that_is_said() {
        let of = |said| fingerprint("http://a", &meta(&said));
        let one = of(json!({"sidecar": {"fingerprint": "f", "truncated_texts": 1}}));
        assert_eq!(one, of(json!({"sidecar": {"fingerprint": "f", "truncated_texts": 2}, "model": {}})));
        assert_ne!(one, of(json!({"sidecar": {"fingerprint": "g"}})));
        assert_ne!(of(json!({"sidecar": {"fingerprint": 1}})), of(json!({"sidecar": {"fingerprint": 2}})));
        assert_ne!(of(json!({"model": "a"})), of(json!({"model": "b"})));
        assert_eq!(fingerprint("http://a", &Theirs::default()), "c895fd2bd1b8337664333e3d4d435629");
    }
}
