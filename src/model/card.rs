//! What a model's card (`README.md`) says about its licence.

use std::path::Path;

/// The licence by its short name, such as `apache-2.0`: from the front matter of the card, else, for a Hub id whose
/// licence forbids commercial use and whose files do not say so, from its page. `None` if neither is known.
pub fn license(dir: &Path, id: Option<&str>) -> Option<String> {
    let card = std::fs::read_to_string(dir.join("README.md")).ok();
    let written = card.as_deref().and_then(front_matter).and_then(|lines| {
        let license = value(lines, "license")?;
        // `other` has its name beside it.
        Some(if license == "other" { value(lines, "license_name").unwrap_or(license) } else { license })
    });
    written.or_else(|| id.filter(|id| is_facebook_dpr(id)).map(|_| "cc-by-nc-4.0".to_owned()))
}

/// Whether a licence, by its short name, forbids commercial use.
pub fn is_non_commercial(license: &str) -> bool {
    license.to_lowercase().split(['-', '_', ' ']).any(|part| part == "nc" || part.starts_with("noncommercial"))
}

fn is_facebook_dpr(id: &str) -> bool {
    id.strip_prefix("facebook/dpr-").is_some_and(|name| name.ends_with("-base"))
}

/// The text between the first two lines of dashes.
fn front_matter(card: &str) -> Option<&str> {
    let rest = card.strip_prefix("---")?.trim_start_matches('\r').strip_prefix('\n')?;
    rest.find("\n---").map(|end| &rest[..end])
}

/// A value at the top level of simple YAML: on the key's line, or as the first item of a list below.
fn value(lines: &str, key: &str) -> Option<String> {
    let mut lines = lines.lines();
    let inline = lines.by_ref().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?.trim();
    let text = if inline.is_empty() { lines.next()?.trim().strip_prefix('-')?.trim() } else { inline };
    let text = text.trim_matches(['"', '\'']);
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_card_s_front_matter_names_the_licence() {
        let dir = tempfile::tempdir().expect("a directory");
        for (card, expected) in [
            ("---\nlanguage: en\nlicense: apache-2.0\n---\n# Model", Some("apache-2.0")),
            ("---\r\nlicense: 'mit'\r\n---\r\n", Some("mit")),
            ("---\nlicense:\n- cc-by-nc-4.0\ntags: []\n---\n", Some("cc-by-nc-4.0")),
            ("---\nlicense: other\nlicense_name: gemma\n---\n", Some("gemma")),
            ("---\ntags: []\n---\nlicense: mit", None),
            ("# Model\nlicense: mit", None),
        ] {
            std::fs::write(dir.path().join("README.md"), card).expect("write");
            assert_eq!(license(dir.path(), Some("me/mine")).as_deref(), expected, "{card:?}");
        }
        let dpr = "facebook/dpr-question_encoder-single-nq-base";
        assert_eq!(license(dir.path(), Some(dpr)).as_deref(), Some("cc-by-nc-4.0"));
        assert_eq!(license(dir.path(), None), None);
    }

    #[test]
    fn non_commercial_licences_are_known_by_their_names() {
        assert!(["cc-by-nc-4.0", "CC-BY-NC-SA-4.0"].into_iter().all(is_non_commercial));
        assert!(["apache-2.0", "mit", "gemma", "ncsa"].into_iter().all(|license| !is_non_commercial(license)));
    }
}
