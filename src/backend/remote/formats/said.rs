//! What a server says when it refuses: every server has its own place for it.

use serde_json::Value;

/// What an error's body says, in a line: the places where servers put it, else its beginning.
pub fn said(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let detail = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(entries) => {
            let texts: Vec<_> = entries.iter().filter_map(|entry| entry.get("msg")?.as_str()).collect();
            (!texts.is_empty()).then(|| texts.join("; "))
        }
        Value::Object(object) => object.get("message")?.as_str().map(str::to_owned),
        _ => None,
    };
    let found = ["error", "detail", "message"].iter().find_map(|name| detail(value.get(name)?));
    let text = found.unwrap_or_else(|| match value {
        Value::Null => String::from_utf8_lossy(&body[..body.len().min(1200)]).into_owned(),
        _ => String::new(),
    });
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_say_is_found_and_kept_short() {
        for (body, expected) in [
            (r#"{"error":"plain"}"#, "plain"),
            (r#"{"error":{"message":"nested","type":"x"}}"#, "nested"),
            (r#"{"detail":[{"msg":"Field required"},{"msg":"two"}]}"#, "Field required; two"),
            (r#"{"detail":"Not Found"}"#, "Not Found"),
            ("<html>\n</html>", "<html> </html>"),
            ("", ""),
            ("{}", ""),
        ] {
            assert_eq!(said(body.as_bytes()), expected);
        }
        assert_eq!(said(&[b'x'; 5000]).len(), 300);
    }
}
