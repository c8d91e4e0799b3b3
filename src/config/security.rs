//! Who may ask, from which pages, and how connections are encrypted.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use clap::builder::BoolishValueParser;

use crate::error::{Error, Place, Result};
use crate::server::{Access, Tls};

/// Tokens and certificates of the server.
#[derive(Debug, Clone, Args)]
pub struct SecurityArgs {
    /// File with the tokens that open the server, one per line, beside AUTHENTICATION_ALLOWED_TOKENS; read again as it
    /// changes
    #[arg(long, env = "T2V_AUTH_TOKENS_FILE", value_name = "FILE")]
    pub auth_tokens_file: Option<PathBuf>,
    /// Ask for a token at /metrics too
    #[arg(long, env = "T2V_AUTH_METRICS", num_args = 0..=1, default_value = "false", default_missing_value = "true",
          value_name = "BOOL", action = clap::ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub auth_metrics: bool,
    /// PEM file with the server's certificate and its chain: the port speaks TLS only; read again as it changes
    #[arg(long, env = "T2V_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the key of --tls-cert; read again as it changes
    #[arg(long, env = "T2V_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// PEM file with the authorities of client certificates, one of which is then asked for; read again as it changes
    #[arg(long, env = "T2V_TLS_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
    /// Origins whose pages a browser lets call this server (https://app.example.com), separated by commas, or * for all
    #[arg(long, env = "T2V_CORS_ORIGINS", value_name = "ORIGINS", default_value = "", hide_default_value = true)]
    pub cors_origins: String,
}

impl SecurityArgs {
    /// What a request must show: one of these tokens, or of the tokens' file, which is read.
    ///
    /// # Errors
    /// `Config` for a file or a list without a token.
    pub(super) fn access(&self, allowed_tokens: Option<&Secret>) -> Result<Access> {
        Access::new(allowed_tokens.map(|tokens| tokens.0.as_str()), self.auth_tokens_file.clone(), self.auth_metrics)
            .map_err(|error| flag_of_file(error, &[("--auth-tokens-file", self.auth_tokens_file.as_deref())]))
    }

    /// How connections are encrypted; reads the files.
    ///
    /// # Errors
    /// `Config` for files that cannot be used.
    pub(super) fn tls(&self) -> Result<Option<Arc<Tls>>> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => {
                let authorities = self.tls_client_ca.as_deref();
                let files =
                    [("--tls-cert", Some(&**certificate)), ("--tls-key", Some(key)), ("--tls-client-ca", authorities)];
                let tls = Tls::read(certificate, key, authorities);
                tls.map(|tls| Some(Arc::new(tls))).map_err(|error| flag_of_file(error, &files))
            }
            // The flags require each other.
            _ => Ok(None),
        }
    }
}

/// Notes in an error about a file which of these flags names it.
pub(super) fn flag_of_file(error: Error, files: &[(&'static str, Option<&Path>)]) -> Error {
    let Some(Place::File(at)) = error.place() else { return error };
    match files.iter().find(|(_, path)| *path == Some(&**at)) {
        Some(&(flag, _)) => error.parameter(flag),
        None => error,
    }
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}
