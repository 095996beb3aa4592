//! Certificates: whom the client trusts, and who it is.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A text in PEM, or the file that holds it.
#[derive(Clone, Debug)]
pub(super) enum Pem {
    File(PathBuf),
    Bytes(Vec<u8>),
}

#[cfg_attr(not(feature = "tls"), allow(dead_code))]
impl Pem {
    pub fn read(&self) -> Result<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::File(path) => fs::read(path).map_err(|error| {
                Error::invalid(format!("cannot read a TLS file: {error} path={}", path.display()))
                    .caused_by(error)
            }),
        }
    }

    pub fn is_file(&self) -> bool {
        matches!(self, Self::File(_))
    }

    /// Where it is, for errors.
    pub fn place(&self) -> String {
        match self {
            Self::File(path) => format!("path={}", path.display()),
            Self::Bytes(bytes) => format!("bytes={}", bytes.len()),
        }
    }
}

/// Whose word counts that a member is what it claims to be.
#[derive(Clone, Debug, Default)]
#[cfg_attr(not(feature = "tls"), allow(dead_code))]
pub(super) enum Trust {
    #[default]
    System,
    Authorities(Pem),
    /// Nobody is asked.
    Anybody,
}

/// How connections are encrypted.
///
/// Files are read when the client is built, so that a missing one is an error there and then, and looked at
/// again whenever a connection is made: certificates that were replaced count from the next connection on.
/// While files cannot be used, because one is missing or a certificate does not fit its key, the last good
/// ones stay in use, and a warning is logged. What the system trusts is read once.
#[derive(Clone, Debug, Default)]
#[cfg_attr(not(feature = "tls"), allow(dead_code))]
pub struct Tls {
    pub(super) trust: Trust,
    /// Certificate and key.
    pub(super) identity: Option<(Pem, Pem)>,
    pub(super) server_name: Option<String>,
}

impl Tls {
    /// Trusts what the system trusts.
    pub fn system() -> Self {
        Self::default()
    }

    /// Trusts the authorities in this PEM file, and no others.
    pub fn from_files(ca: impl AsRef<Path>) -> Self {
        Self { trust: Trust::Authorities(Pem::File(ca.as_ref().to_owned())), ..Self::default() }
    }

    /// Trusts the authorities in this PEM text, and no others.
    pub fn from_pem(ca: impl Into<Vec<u8>>) -> Self {
        Self { trust: Trust::Authorities(Pem::Bytes(ca.into())), ..Self::default() }
    }

    /// Trusts anybody, whatever the certificate says, and checks no name.
    ///
    /// **Dangerous.** The connection is encrypted, but anybody can be in the middle of it, read everything,
    /// passwords included, and change it. For tests.
    pub fn skip_verify() -> Self {
        Self { trust: Trust::Anybody, ..Self::default() }
    }

    /// Shows this certificate to the members; both are PEM files.
    pub fn identity(mut self, certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        let files = (Pem::File(certificate.as_ref().to_owned()), Pem::File(key.as_ref().to_owned()));
        self.identity = Some(files);
        self
    }

    /// Shows this certificate to the members; both are PEM texts.
    pub fn identity_pem(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((Pem::Bytes(certificate.into()), Pem::Bytes(key.into())));
        self
    }

    /// Expects this name in the members' certificates instead of the endpoint's host.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }
}

#[cfg(all(test, feature = "tls"))]
mod tests {
    use super::*;
    use crate::Client;

    #[test]
    fn authorities_without_a_certificate_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        for text in ["", "no certificate", key, "-----BEGIN CERTIFICATE-----\nAAAA"] {
            fs::write(&file, text).unwrap();
            for (tls, place) in [
                (Tls::from_pem(text), format!("bytes={}", text.len())),
                (Tls::from_files(&file), format!("path={}", file.display())),
            ] {
                let client = Client::builder().endpoints(["https://127.0.0.1:1"]).tls(tls).connect_lazy();
                let error = client.expect_err("trusts nobody");
                assert_eq!(error.code(), "INVALID_ARGUMENT");
                assert!(error.to_string().contains("hold no certificate"), "{error}");
                assert!(error.to_string().contains(&place), "{error}");
            }
        }
    }
}
