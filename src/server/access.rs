//! What a request must show, and whether it does: a token, as `Bearer` or as the password of `Basic`, and over TLS with client
//! certificates also one of those.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::header::AUTHORIZATION;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::followed::{Followed, at_fault};
use crate::error::{Error, ErrorKind, Result};

/// Clients differ in whether they pad.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a request must show.
#[derive(Clone, Default)]
pub struct Access {
    tokens: Option<Arc<Followed<Tokens>>>,
    guard_metrics: bool,
    certificate: bool,
    page: bool,
}

/// Shown by a connection whose client certificate was checked.
#[derive(Clone, Copy)]
pub(super) struct Certified;

/// The tokens that open the server, as digests: of equal length, so that comparing them says nothing about theirs.
struct Tokens(Vec<[u8; 32]>);

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("tokens", &self.tokens()).field("guard_metrics", &self.guard_metrics).finish()
    }
}

impl Access {
    /// Tokens from a comma-separated list, as the reference container reads its `AUTHENTICATION_ALLOWED_TOKENS` (blanks
    /// count, except at both ends of the list), and from a file, one per line, that is read again when it changes. With
    /// neither (an empty list is none), no token is asked for. `guard_metrics` asks for one at `/metrics` too.
    ///
    /// # Errors
    /// `Config` for a file that cannot be read, and for a list or a file without a token.
    pub fn new(list: Option<&str>, file: Option<PathBuf>, guard_metrics: bool) -> Result<Access> {
        let listed: Vec<String> = match list {
            None | Some("") => Vec::new(),
            Some(list) => {
                // A token of blanks cannot be sent: a header's value loses those at its ends.
                let tokens = list.trim().split(',').filter(|token| !token.trim().is_empty());
                let listed: Vec<_> = tokens.map(str::to_owned).collect();
                if listed.is_empty() {
                    let message = "AUTHENTICATION_ALLOWED_TOKENS names no token: give tokens, or unset it";
                    return Err(Error::config(message));
                }
                listed
            }
        };
        if listed.is_empty() && file.is_none() {
            return Ok(Access { guard_metrics, ..Access::default() });
        }
        let files: Vec<PathBuf> = file.into_iter().collect();
        let path = files.first().cloned().unwrap_or_default();
        let tokens = Followed::new("tokens", files, move |contents| {
            let unusable = |problem| at_fault(&path, format_args!("{problem}"));
            let mut tokens = listed.clone();
            for content in contents {
                tokens.extend(lines(content).map_err(unusable)?);
            }
            Ok(Tokens(tokens.iter().map(|token| Sha256::digest(token).into()).collect()))
        })?;
        Ok(Access { tokens: Some(Arc::new(tokens)), guard_metrics, ..Access::default() })
    }

    /// How many tokens open the server at the moment; `None`: none is needed.
    pub fn tokens(&self) -> Option<usize> {
        self.tokens.as_ref().map(|tokens| tokens.current().0.len())
    }

    /// Has the tokens' file read again at once, if it changed.
    pub fn look_now(&self) {
        if let Some(tokens) = &self.tokens {
            tokens.look_now();
        }
    }

    /// The same, with a client certificate asked for as well.
    pub(super) fn with_certificates(self, certificate: bool) -> Access {
        Access { certificate, ..self }
    }

    /// The same, with the page for browsers open to all, if there is one.
    pub(super) fn with_page(self, page: bool) -> Access {
        Access { page, ..self }
    }

    /// Whether anything is asked for.
    pub(super) fn asks(&self) -> bool {
        self.tokens.is_some() || self.certificate
    }

    /// Reads the tokens' file again when it changes, for ever.
    pub(super) async fn follow(self) {
        if let Some(tokens) = self.tokens {
            tokens.follow().await;
        }
    }

    fn lacks_certificate(&self, request: &Request) -> bool {
        self.certificate && request.extensions().get::<Certified>().is_none()
    }

    /// Whether `/metrics` asks for what everything else does.
    pub(super) fn guards_metrics(&self) -> bool {
        self.guard_metrics
    }

    /// Whether there is a page for browsers.
    pub(super) fn has_page(&self) -> bool {
        self.page
    }

    /// Whether a token would have helped this request, if it was refused: without the certificate it does not.
    pub(super) fn wants_a_token(&self, request: &Request) -> bool {
        self.tokens.is_some() && !self.lacks_certificate(request)
    }

    /// Whether this request shows what is asked for.
    ///
    /// # Errors
    /// `Unauthenticated`, with what to show.
    pub(super) fn check(&self, request: &Request) -> Result<()> {
        let refused = |message: String| Err(Error::new(ErrorKind::Unauthenticated, message));
        if self.lacks_certificate(request) {
            return refused(
                "Unauthorized: this server asks for a client certificate: connect with one that its --tls-client-ca signed"
                    .into(),
            );
        }
        let Some(tokens) = &self.tokens else { return Ok(()) };
        let wrong = match request.headers().get(AUTHORIZATION).map(|value| secrets(value.as_bytes())) {
            None => "no token came with the request",
            Some(None) => "the Authorization header is neither Bearer nor Basic with a token",
            Some(Some(secret)) if tokens.current().hold(&secret) => return Ok(()),
            Some(Some(_)) => "the token is not one of this server's",
        };
        refused(format!(
            "Unauthorized: {wrong}: send 'Authorization: Bearer <token>', or the token as password of Basic, in a URL \
             http://any:<token>@host:port"
        ))
    }
}

impl Tokens {
    /// Compares with all of them, whichever fits.
    fn hold(&self, secret: &[u8]) -> bool {
        let digest: [u8; 32] = Sha256::digest(secret).into();
        self.0.iter().fold(Choice::from(0), |found, token| found | token.ct_eq(&digest)).into()
    }
}

/// The tokens of a file: one per line, blanks around it and lines that begin with `#` left out.
fn lines(content: &[u8]) -> Result<Vec<String>, &'static str> {
    let text = std::str::from_utf8(content).map_err(|_| "is not UTF-8 text: write one token per line")?;
    let tokens: Vec<_> =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    match tokens.is_empty() {
        true => Err("holds no token: write one per line"),
        false => Ok(tokens.into_iter().map(str::to_owned).collect()),
    }
}

/// What an `Authorization` header shows: everything behind `Bearer` and one blank, or the password of `Basic`.
/// `Basic` without a colon is the password alone, which RFC 7617 does not know and some clients send.
fn secrets(header: &[u8]) -> Option<Vec<u8>> {
    let blank = header.iter().position(|&byte| byte == b' ')?;
    let (scheme, credentials) = (&header[..blank], &header[blank + 1..]);
    let secret = if scheme.eq_ignore_ascii_case(b"bearer") {
        credentials.to_vec()
    } else if scheme.eq_ignore_ascii_case(b"basic") {
        let pair = BASE64.decode(credentials.trim_ascii()).ok()?;
        match pair.iter().position(|&byte| byte == b':') {
            Some(colon) => pair[colon + 1..].to_vec(),
            None => pair,
        }
    } else {
        return None;
    };
    (!secret.is_empty()).then_some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_the_reference_reads_them() {
        let opens = |list: &str, token: &str| {
            let access = Access::new(Some(list), None, false).expect("tokens");
            access.tokens.is_some_and(|tokens| tokens.current().hold(token.as_bytes()))
        };
        let list = "token1,token2, token3 ";
        for (token, expected) in [
            ("token1", true),
            ("token2", true),
            (" token3", true),
            ("token3", false),
            ("token3 ", false),
            ("token", false),
            ("token11", false),
            ("", false),
        ] {
            assert_eq!(opens(list, token), expected, "{token}");
        }
        assert!(opens("a,,b", "b") && !opens("a,,b", ""));
        for unset in [None, Some("")] {
            assert_eq!(Access::new(unset, None, false).expect("nothing is asked for").tokens(), None);
        }
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "secret\n").expect("write");
        for list in [" ", "   ", "\t\n", ",", " , ,", ", ,\u{a0}"] {
            assert!(Access::new(Some(list), None, false).is_err(), "{list:?} must not leave the server open");
            assert!(Access::new(Some(list), Some(file.path().to_owned()), false).is_err(), "{list:?}");
        }
        assert!(Access::new(Some("a, "), None, false).is_ok_and(|access| access.tokens() == Some(1)));
    }

    #[test]
    fn files_hold_a_token_per_line() {
        assert_eq!(lines(b"# ours\n a b \r\n\nc").as_deref(), Ok(&["a b".to_owned(), "c".to_owned()][..]));
        for content in [&b"\n# only this\n"[..], b"", b"\xff"] {
            assert!(lines(content).is_err());
        }
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "secret\n").expect("write");
        let access = Access::new(Some("one,two"), Some(file.path().to_owned()), false).expect("tokens");
        assert_eq!(access.tokens(), Some(3));
        assert!(!format!("{access:?}").contains("secret"));
        std::fs::write(file.path(), "").expect("write");
        let error = Access::new(Some("one"), Some(file.path().to_owned()), false).expect_err("no token in it");
        assert!(error.message().contains("holds no token"), "{error}");
    }

    #[test]
    fn headers_show_their_secret() {
        for (header, secret) in [
            ("Bearer a", Some("a")),
            ("bEARER a b", Some("a b")),
            ("Bearer  a", Some(" a")),
            ("Bearer", None),
            ("Bearer ", None),
            ("a", None),
            ("Digest a", None),
            ("Basic dXNlcjpwOnc=", Some("p:w")), // user:p:w
            ("basic dXNlcjpwOnc", Some("p:w")),
            ("Basic OmE=", Some("a")), // :a
            ("Basic YTo=", None),      // a:
            ("Basic YQ==", Some("a")), // a
            ("Basic !", None),
            ("Basic ", None),
        ] {
            assert_eq!(secrets(header.as_bytes()).as_deref(), secret.map(str::as_bytes), "{header}");
        }
    }
}
