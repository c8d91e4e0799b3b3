//! Cross-origin requests: whose pages a browser lets call this server and read its answers.

use std::time::Duration;

use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Method, Uri};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::error::{Error, Result};

/// How long a browser may remember what it was allowed.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// The origins of pages that may read answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origins {
    /// None of them: all.
    named: Vec<HeaderValue>,
}

impl Origins {
    /// Reads a comma-separated list of origins (`https://app.example.com`, `http://localhost:3000`), or `*` for all; an
    /// empty one allows nobody.
    ///
    /// # Errors
    /// `Config` for what is no origin as a browser sends it.
    pub fn parse(list: &str) -> Result<Option<Origins>> {
        let named: Vec<&str> = list.split(',').map(str::trim).filter(|origin| !origin.is_empty()).collect();
        match &named[..] {
            [] => Ok(None),
            ["*"] => Ok(Some(Origins { named: Vec::new() })),
            named if named.contains(&"*") => {
                let message = "'*' stands for all origins: give it alone, or the others without it";
                Err(Error::config(message).parameter("--cors-origins"))
            }
            named => {
                named.iter().map(|origin| origin_of(origin)).collect::<Result<_>>().map(|named| Some(Origins { named }))
            }
        }
    }

    /// Answers preflights, and says in answers who may read them. Credentials of the browser's own (cookies) are nobody's:
    /// tokens are put into headers by the page.
    pub(super) fn layer(&self) -> CorsLayer {
        let origins = match &self.named[..] {
            [] => AllowOrigin::any(),
            named => AllowOrigin::list(named.iter().cloned()),
        };
        CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::POST])
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers([RETRY_AFTER, WWW_AUTHENTICATE])
            .max_age(REMEMBERED)
    }
}

/// An origin exactly as browsers send it: scheme and host in lower case, perhaps a port, nothing behind.
fn origin_of(text: &str) -> Result<HeaderValue> {
    let bare = |uri: Uri| {
        let (scheme, host) = (uri.scheme_str()?, uri.authority()?);
        let is_bare =
            !host.as_str().contains('@') && format!("{scheme}://{host}") == text && text == text.to_lowercase();
        is_bare.then(|| HeaderValue::from_str(text).ok()).flatten()
    };
    text.parse().ok().and_then(bare).ok_or_else(|| {
        let shown = text.rsplit_once('@').map_or(text.to_owned(), |(_, host)| format!("…@{host}"));
        Error::config(format!(
            "'{shown}' is no origin: use '*', or origins as browsers send them, separated by \
             commas, such as https://app.example.com,http://localhost:3000"
        ))
        .parameter("--cors-origins")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_as_browsers_send_them() {
        assert_eq!(Origins::parse(" , "), Ok(None));
        assert_eq!(Origins::parse("*"), Ok(Some(Origins { named: Vec::new() })));
        let two = Origins::parse("https://app.example.com, http://localhost:3000").expect("origins").expect("some");
        assert_eq!(two.named, ["https://app.example.com", "http://localhost:3000"]);
        for odd in [
            "app.example.com",
            "https://a/",
            "https://a/b",
            "*,https://a",
            "https://u@a",
            "HTTPS://a",
            "null",
            "https://",
        ] {
            let error = Origins::parse(odd).expect_err(odd);
            assert_eq!(error.parameter_name(), Some("--cors-origins"), "{odd}: {error}");
        }
    }
}
