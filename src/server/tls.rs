//! TLS on the port: certificate, key and the authorities of client certificates, all read again when they change.
//!
//! A client certificate is checked in the handshake, which a wrong one ends. Who shows none may ask the paths that are open
//! to all (see [`super::auth`]): an orchestrator's probes have no certificate.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

use super::followed::{Followed, at_fault};
use crate::error::Result;

/// What is told to who speaks plain HTTP/1.1, which a person can read.
const NOT_TLS: &str = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: 73\r\n\
     connection: close\r\n\r\n{\"error\":\"this port speaks TLS only: use https://, or grpcs:// for gRPC\"}";

/// The server's side of TLS.
pub struct Tls {
    config: Arc<Followed<Arc<ServerConfig>>>,
    client_certificates: bool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls {{ client_certificates: {} }}", self.client_certificates)
    }
}

impl Tls {
    /// Reads the server's certificate with its chain, its key and, if client certificates are asked for, their authorities;
    /// all PEM files.
    ///
    /// # Errors
    /// `Config` for a file that cannot be used, and for a key of another certificate.
    pub fn read(certificate: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Tls> {
        let files: Vec<PathBuf> =
            [Some(certificate), Some(key), client_ca].into_iter().flatten().map(Path::to_owned).collect();
        let names = files.clone();
        let config = Followed::new("TLS files", files, move |contents| config(&names, contents).map(Arc::new))?;
        Ok(Tls { config: Arc::new(config), client_certificates: client_ca.is_some() })
    }

    /// Whether clients are to show a certificate.
    pub fn asks_for_certificates(&self) -> bool {
        self.client_certificates
    }

    /// Has the files read again at once, if they changed.
    pub fn look_now(&self) {
        self.config.look_now();
    }

    /// Reads the files again when they change, for ever.
    pub(super) async fn follow(self: Arc<Self>) {
        self.config.clone().follow().await;
    }

    /// The handshake, by the files as they are now.
    pub(super) async fn accept(&self, mut stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first[0].is_ascii_uppercase() {
            stream.write_all(NOT_TLS.as_bytes()).await?;
            stream.shutdown().await?;
            // A connection closed with something unread in it loses the answer. Patience is the handshake's.
            while stream.read(&mut [0; 4096]).await? > 0 {}
            return Err(std::io::Error::other("it speaks HTTP without TLS"));
        }
        TlsAcceptor::from(self.config.current().as_ref().clone()).accept(stream).await
    }
}

/// The files are in the order of the contents: certificate, key, authorities.
fn config(files: &[PathBuf], contents: &[Vec<u8>]) -> Result<ServerConfig> {
    let file = |place: usize| files.get(place).map(PathBuf::as_path).unwrap_or(Path::new(""));
    let chain = certificates(file(0), &contents[0])?;
    let key = PrivateKeyDer::from_pem_slice(&contents[1]).map_err(|error| {
        at_fault(file(1), format_args!("holds no usable PEM key (PKCS#8, PKCS#1 or SEC1): {error}"))
    })?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let failed = |error: &dyn fmt::Display| {
        at_fault(file(0), format_args!("and {} do not go together: {error}", file(1).display()))
    };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?;
    let builder = match contents.get(2) {
        None => builder.with_no_client_auth(),
        Some(content) => {
            let unusable = |error: &dyn fmt::Display| at_fault(file(2), format_args!("cannot be used: {error}"));
            let mut roots = RootCertStore::empty();
            for authority in certificates(file(2), content)? {
                roots.add(authority).map_err(|error| unusable(&error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|error| unusable(&error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| failed(&error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| at_fault(file, format_args!("holds no usable PEM: {error}")))?;
    match found.is_empty() {
        true => Err(at_fault(file, format_args!("holds no certificate: a PEM file is wanted"))),
        false => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_answer_has_the_length_it_says() {
        let (head, body) = NOT_TLS.split_once("\r\n\r\n").expect("head and body");
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
    }
}
