//! UUIDs as Weaviate reads them (`github.com/google/uuid`, `Parse`).

/// The canonical form, 36 characters in lower case, or `None` if Weaviate would refuse the text.
///
/// Four forms are read: canonical in any case, with `urn:uuid:` in front, between one character on either side (meant
/// for braces, but any will do), and 32 digits without dashes.
pub fn canonical(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let dashed = match bytes.len() {
        32 => return digits(bytes),
        36 => bytes,
        38 => &bytes[1..37],
        45 if bytes[..9].eq_ignore_ascii_case(b"urn:uuid:") => &bytes[9..],
        _ => return None,
    };
    let groups = [&dashed[..8], &dashed[9..13], &dashed[14..18], &dashed[19..23], &dashed[24..]];
    let dashes = [8, 13, 18, 23].iter().all(|&at| dashed[at] == b'-');
    if dashes { digits(&groups.concat()) } else { None }
}

/// 32 hexadecimal digits → canonical form.
fn digits(bytes: &[u8]) -> Option<String> {
    let mut out = String::with_capacity(36);
    for (i, byte) in bytes.iter().enumerate() {
        if !byte.is_ascii_hexdigit() {
            return None;
        }
        if matches!(i, 8 | 12 | 16 | 20) {
            out.push('-');
        }
        out.push(byte.to_ascii_lowercase().into());
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn four_forms_are_read() {
        let expected = Some("aaaaaaaa-2222-3333-4444-55555555555f".to_owned());
        for text in [
            "AAAAAAAA-2222-3333-4444-55555555555F",
            "urn:UUID:aaaaaaaa-2222-3333-4444-55555555555f",
            "{aaaaaaaa-2222-3333-4444-55555555555f}",
            "aaaaaaaa22223333444455555555555f",
        ] {
            assert_eq!(canonical(text), expected, "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "xyz",
            "aaaaaaaa-2222-3333-4444-55555555555",
            "aaaaaaaa-2222-3333-4444-55555555555g",
            "aaaaaaaa_2222-3333-4444-555555555555",
            "urn:uuix:aaaaaaaa-2222-3333-4444-555555555555",
            "ääääääää-2222-3333-4444-555555",
        ] {
            assert_eq!(canonical(text), None, "{text}");
        }
    }
}
