//! Certificates made for a test, as PEM files in a directory of its own.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};

/// An authority that signs.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM texts.
pub(crate) struct Issued {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Authority { issuer: CertifiedIssuer::self_signed(params, key).expect("an authority") }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for this machine, good for servers.
    pub(crate) fn server(&self) -> Issued {
        self.issue(ExtendedKeyUsagePurpose::ServerAuth, 4000)
    }

    /// The same, past its time.
    pub(crate) fn expired(&self) -> Issued {
        self.issue(ExtendedKeyUsagePurpose::ServerAuth, 2020)
    }

    /// A certificate for a client.
    pub(crate) fn client(&self) -> Issued {
        self.issue(ExtendedKeyUsagePurpose::ClientAuth, 4000)
    }

    fn issue(&self, usage: ExtendedKeyUsagePurpose, until: i32) -> Issued {
        let mut params = CertificateParams::new(["127.0.0.1".into(), "localhost".into()]).expect("names");
        params.extended_key_usages = vec![usage];
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Issued { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

/// A directory for a server's files.
pub(crate) struct Files(tempfile::TempDir);

impl Files {
    pub(crate) fn new() -> Files {
        Files(tempfile::tempdir().expect("a directory"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file whole, under its name at once.
    pub(crate) fn put(&self, name: &str, text: &str) -> PathBuf {
        let (path, next) = (self.path(name), self.path("next"));
        std::fs::write(&next, text).expect("write");
        std::fs::rename(&next, &path).expect("rename");
        path
    }

    /// Writes `cert.pem` and `key.pem`.
    pub(crate) fn put_pair(&self, issued: &Issued) -> (PathBuf, PathBuf) {
        (self.put("cert.pem", &issued.certificate), self.put("key.pem", &issued.key))
    }
}
