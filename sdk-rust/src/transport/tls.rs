//! Certificates: whom the client trusts, and who it is.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

#[derive(Clone, Debug)]
enum Pem {
    File(PathBuf),
    Bytes(Vec<u8>),
}

impl Pem {
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    fn read(&self) -> Result<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::File(path) => fs::read(path).map_err(|error| {
                Error::invalid(format!("cannot read a TLS file: {error} path={}", path.display()))
                    .caused_by(error)
            }),
        }
    }
}

/// How connections are encrypted.
///
/// Files are read when the client is built, so that a missing one is an error there and then.
#[derive(Clone, Debug, Default)]
#[cfg_attr(not(feature = "tls"), allow(dead_code))]
pub struct Tls {
    ca: Option<Pem>,
    identity: Option<(Pem, Pem)>,
    server_name: Option<String>,
}

impl Tls {
    /// Trusts what the system trusts.
    pub fn system() -> Self {
        Self::default()
    }

    /// Trusts the authorities in this PEM file, and no others.
    pub fn from_files(ca: impl AsRef<Path>) -> Self {
        Self { ca: Some(Pem::File(ca.as_ref().to_owned())), ..Self::default() }
    }

    /// Trusts the authorities in this PEM text, and no others.
    pub fn from_pem(ca: impl Into<Vec<u8>>) -> Self {
        Self { ca: Some(Pem::Bytes(ca.into())), ..Self::default() }
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

/// A text without a certificate would trust nobody, and each connection would fail for a reason that
/// does not say so.
#[cfg(feature = "tls")]
fn refuse_without_certificate(ca: &Pem, text: &[u8]) -> Result<()> {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    const END: &[u8] = b"-----END CERTIFICATE-----";
    let has = |mark: &[u8]| text.windows(mark.len()).any(|window| window == mark);
    if has(BEGIN) && has(END) {
        return Ok(());
    }
    let place = match ca {
        Pem::File(path) => format!("path={}", path.display()),
        Pem::Bytes(bytes) => format!("bytes={}", bytes.len()),
    };
    let text = format!(
        "the authorities to trust hold no certificate: PEM with \"-----BEGIN CERTIFICATE-----\" is expected {place}"
    );
    Err(Error::invalid(text))
}

#[cfg(feature = "tls")]
pub(crate) fn apply(
    endpoint: tonic::transport::Endpoint,
    tls: Option<&Tls>,
    invalid: impl Fn(tonic::transport::Error) -> Error,
) -> Result<tonic::transport::Endpoint> {
    use tonic::transport::{Certificate, ClientTlsConfig, Identity};

    let default = Tls::default();
    let tls = tls.unwrap_or(&default);
    let mut config = ClientTlsConfig::new();
    config = match &tls.ca {
        Some(ca) => {
            let text = ca.read()?;
            refuse_without_certificate(ca, &text)?;
            config.ca_certificate(Certificate::from_pem(text))
        }
        None => config.with_native_roots(),
    };
    if let Some((certificate, key)) = &tls.identity {
        config = config.identity(Identity::from_pem(certificate.read()?, key.read()?));
    }
    if let Some(name) = &tls.server_name {
        config = config.domain_name(name.clone());
    }
    endpoint.tls_config(config).map_err(invalid)
}

#[cfg(not(feature = "tls"))]
pub(crate) fn apply(
    _endpoint: tonic::transport::Endpoint,
    _tls: Option<&Tls>,
    _invalid: impl Fn(tonic::transport::Error) -> Error,
) -> Result<tonic::transport::Endpoint> {
    Err(Error::invalid("this build has no TLS: switch on the feature `tls` of folkmoot-client"))
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
