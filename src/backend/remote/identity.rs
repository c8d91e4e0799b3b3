//! What an upstream is called, and what tells it from others.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// The name of a model whose upstream tells none, as the reference container.
pub const UNNAMED: &str = "upstream";

/// What the upstream calls its model: a sidecar says it of itself, or of the first that it serves; the others have it in their
/// own place, or we have it from their list.
pub fn name(meta: &Map<String, Value>) -> Option<String> {
    let sidecar = |side: Option<&Value>| {
        let block = side?.get("sidecar")?;
        block.get("model").or_else(|| block.pointer("/models/0"))?.as_str().map(str::to_owned)
    };
    let whole = Value::Object(meta.clone());
    let pair = || Some(format!("{} + {}", sidecar(meta.get("passage"))?, sidecar(meta.get("query"))?));
    let named = |key: &str| meta.get(key).and_then(Value::as_str).map(str::to_owned);
    let found = sidecar(Some(&whole)).or_else(pair).or_else(|| named("model_id")).or_else(|| named("model"));
    found.filter(|name| !name.is_empty() && name.len() <= 256 && !name.contains(char::is_control))
}

/// Changes with the URL and with what the upstream says of its model, as far as it does.
pub fn fingerprint(place: &str, meta: &Map<String, Value>) -> String {
    let mut hash = Sha256::new();
    hash.update(place);
    hash.update([0]);
    match meta.get("sidecar").and_then(|sidecar| sidecar.get("fingerprint")?.as_str()) {
        Some(theirs) => hash.update(theirs),
        None => hash.update(Value::Object(meta.clone()).to_string()),
    }
    hex(&hash.finalize()[..16])
}

/// The fingerprint of what a class names: changes with its whole text. With user-info and query: another password is
/// another upstream.
pub fn fingerprint_of_url(url: &str) -> String {
    hex(&Sha256::digest(url)[..16])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
