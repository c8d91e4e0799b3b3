//! What may be shown of settings that hold secrets.

/// URLs without user-info and query, which may hold passwords and keys; in what cannot be told for sure, rather too much is
/// left out. Several stand with commas between them, and a password may have any character.
pub fn without_secrets(value: &str) -> String {
    let behind_user_info = |text: &str| match text.rfind('@') {
        Some(at) => format!("…{}", &text[at..]),
        None => text.to_owned(),
    };
    let mut pieces = value.split("://").peekable();
    let mut shown = pieces.next().unwrap_or_default().to_owned();
    if pieces.peek().is_none() {
        return behind_user_info(&shown);
    }
    while let Some(piece) = pieces.next() {
        // The scheme of the next one follows the last comma.
        let end = if pieces.peek().is_some() { piece.rfind(',').unwrap_or(piece.len()) } else { piece.len() };
        let url = behind_user_info(&piece[..end]);
        shown += "://";
        match url.find(['?', '#']) {
            Some(query) => shown += &format!("{}?…", &url[..query]),
            None => shown += &url,
        }
        shown += &piece[end..];
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lose_what_may_be_secret() {
        for (given, expected) in [
            ("http://a:1", "http://a:1"),
            ("http://user:p@ss@a:1/x,grpcs://b", "http://…@a:1/x,grpcs://b"),
            ("http://any:to/k@t2v", "http://…@t2v"),
            ("http://any:to,k@t2v,a=grpc://u:p?@b?k=v,c://d", "http://…@t2v,a=grpc://…@b?…,c://d"),
            ("any:token@t2v", "…@t2v"),
            ("openai+https://a/v1?key=secret#secret", "openai+https://a/v1?…"),
            ("example.com,10.0.0.0/8", "example.com,10.0.0.0/8"),
        ] {
            assert_eq!(without_secrets(given), expected);
        }
    }
}
