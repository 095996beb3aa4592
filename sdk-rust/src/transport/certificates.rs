//! What [`Tls`] says as rustls wants it, made afresh when a file has changed.
//!
//! Certificates are replaced while clients run, and not all files in one moment: what cannot be used is
//! passed over, and the last good configuration stays until it can.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::task::{JoinError, JoinHandle};
use tokio_rustls::rustls;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{self, CryptoProvider};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::tls::{Pem, Tls, Trust};
use crate::error::{Error, Result};

/// The one protocol that is spoken inside.
pub(crate) const HTTP_2: &[u8] = b"h2";

#[derive(Debug)]
struct Current {
    config: Arc<ClientConfig>,
    /// Of the texts that it was made of.
    digest: [u8; 32],
    /// Why the files cannot be used at present, as it was logged last.
    complaint: Option<String>,
}

/// The configuration of encryption for all connections of a client.
#[derive(Debug)]
pub(crate) struct Certificates {
    tls: Tls,
    current: Mutex<Current>,
    /// Who looks at the files just now.
    looking: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

/// How long a connection waits for the files; it has others than these to wait for.
const LOOK: Duration = Duration::from_secs(1);

impl Certificates {
    /// # Errors
    /// Fails if a file is missing or holds something else.
    pub fn load(tls: Tls) -> Result<Self> {
        let texts = Texts::read(&tls)?;
        let current = Current { config: texts.config(&tls)?, digest: texts.digest(), complaint: None };
        Ok(Self { tls, current: Mutex::new(current), looking: tokio::sync::Mutex::default() })
    }

    /// The name to expect in certificates of a member at this host.
    ///
    /// # Errors
    /// Fails if no certificate can be for that.
    pub fn name(&self, host: &str) -> Result<ServerName<'static>> {
        // An address of IPv6 has brackets in a URL, and none in a certificate.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = self.tls.server_name.as_deref().unwrap_or(host);
        ServerName::try_from(name.to_owned()).map_err(|error| {
            Error::invalid(format!("no certificate can be for this name: {error} name={name:?}"))
                .caused_by(error)
        })
    }

    /// The configuration for a new connection.
    pub async fn config(self: &Arc<Self>) -> Arc<ClientConfig> {
        if self.tls.has_files() {
            match tokio::time::timeout(LOOK, self.look()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the TLS files were not looked at"),
                Err(_) => tracing::warn!("the TLS files cannot be read; the last good ones stay in use"),
            }
        }
        self.current.lock().config.clone()
    }

    /// Looks at the files once those are through who look at them already: reading from a disk that hangs
    /// keeps a thread, and each connect would keep another.
    async fn look(self: &Arc<Self>) -> Result<(), JoinError> {
        let mut looking = self.looking.lock().await;
        if let Some(earlier) = looking.as_mut() {
            // It may have read what was there before this connect. How it ended was told to whoever began it.
            let _ = earlier.await;
            *looking = None;
        }
        // Disks can be slow, and the threads of connections must not wait.
        let this = self.clone();
        let outcome = looking.insert(tokio::task::spawn_blocking(move || this.refresh())).await;
        *looking = None;
        outcome
    }

    fn refresh(&self) {
        let made = Texts::read(&self.tls).and_then(|texts| {
            let digest = texts.digest();
            let is_new = self.current.lock().digest != digest;
            Ok((digest, if is_new { Some(texts.config(&self.tls)?) } else { None }))
        });
        let mut current = self.current.lock();
        match made {
            Ok((digest, config)) => {
                current.complaint = None;
                if let Some(config) = config {
                    tracing::info!("the TLS files changed and are used from now on");
                    (current.config, current.digest) = (config, digest);
                }
            }
            // Said once, not at each attempt to connect.
            Err(error) if current.complaint.as_deref() != Some(error.message()) => {
                let reason = error.message();
                tracing::warn!(reason, "the TLS files cannot be used; the last good ones stay in use");
                current.complaint = Some(reason.to_owned());
            }
            Err(_) => {}
        }
    }
}

impl Tls {
    fn has_files(&self) -> bool {
        let authorities = matches!(&self.trust, Trust::Authorities(pem) if pem.is_file());
        let identity = self.identity.as_ref();
        authorities || identity.is_some_and(|(certificate, key)| certificate.is_file() || key.is_file())
    }
}

/// What the files said at one time; empty where there is none.
struct Texts {
    authorities: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Texts {
    fn read(tls: &Tls) -> Result<Self> {
        let authorities = match &tls.trust {
            Trust::Authorities(pem) => pem.read()?,
            Trust::System | Trust::Anybody => Vec::new(),
        };
        let (certificate, key) = match &tls.identity {
            Some((certificate, key)) => (certificate.read()?, key.read()?),
            None => Default::default(),
        };
        Ok(Self { authorities, certificate, key })
    }

    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for text in [&self.authorities, &self.certificate, &self.key] {
            digest.update((text.len() as u64).to_be_bytes());
            digest.update(text);
        }
        digest.finalize().into()
    }

    fn config(&self, tls: &Tls) -> Result<Arc<ClientConfig>> {
        // A program may have chosen for all of its TLS; otherwise it is ring.
        let provider = CryptoProvider::get_default().cloned();
        let provider = provider.unwrap_or_else(|| Arc::new(crypto::ring::default_provider()));
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| {
                Error::invalid(format!("the chosen cryptography cannot do TLS: {error}")).caused_by(error)
            })?;
        let builder = match &tls.trust {
            Trust::Anybody => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyMember(provider)))
            }
            Trust::Authorities(pem) => builder.with_root_certificates(authorities(pem, &self.authorities)?),
            Trust::System => builder.with_root_certificates(of_the_system()?),
        };
        let mut config = match &tls.identity {
            Some((certificate, key)) => {
                let chain = certificates(certificate, &self.certificate)?;
                let secret = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| {
                    let place = key.place();
                    Error::invalid(format!(
                        "the key of the client's certificate cannot be read: {error} {place}"
                    ))
                    .caused_by(error)
                })?;
                builder.with_client_auth_cert(chain, secret).map_err(|error| {
                    let (certificate, key) = (certificate.place(), key.place());
                    let text = "the client's certificate and its key cannot be used together";
                    Error::invalid(format!("{text}: {error} certificate: {certificate} key: {key}"))
                        .caused_by(error)
                })?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![HTTP_2.to_vec()];
        Ok(Arc::new(config))
    }
}

fn certificates(pem: &Pem, text: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>().map_err(|error| {
        Error::invalid(format!("a certificate cannot be read: {error} {}", pem.place())).caused_by(error)
    })?;
    if all.is_empty() {
        return Err(Error::invalid(format!("there is no certificate in the text: {}", pem.place())));
    }
    Ok(all)
}

fn authorities(pem: &Pem, text: &[u8]) -> Result<RootCertStore> {
    refuse_without_certificate(pem, text)?;
    let mut roots = RootCertStore::empty();
    // Some bundles hold old certificates that no rule of today accepts beside good ones.
    let (taken, _) = roots.add_parsable_certificates(certificates(pem, text)?);
    if taken == 0 {
        let text = format!("none of the authorities to trust can be used {}", pem.place());
        return Err(Error::invalid(text));
    }
    Ok(roots)
}

/// A text without a certificate would trust nobody, and each connection would fail for a reason that
/// does not say so.
fn refuse_without_certificate(ca: &Pem, text: &[u8]) -> Result<()> {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    const END: &[u8] = b"-----END CERTIFICATE-----";
    let has = |mark: &[u8]| text.windows(mark.len()).any(|window| window == mark);
    if has(BEGIN) && has(END) {
        return Ok(());
    }
    let text = format!(
        "the authorities to trust hold no certificate: PEM with \"-----BEGIN CERTIFICATE-----\" is expected {}",
        ca.place()
    );
    Err(Error::invalid(text))
}

fn of_the_system() -> Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (taken, _) = roots.add_parsable_certificates(found.certs);
    if taken == 0 {
        let text = format!("the system trusts no authorities errors={:?}", found.errors);
        return Err(Error::invalid(text));
    }
    Ok(roots)
}

/// Takes every certificate. That the other side has the key of what it shows is still checked; it is no
/// protection, as it may show what it likes.
#[derive(Debug)]
struct AnyMember(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyMember {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// A certificate that signs itself, and its key.
    fn issue() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["client".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn issue_into(folder: &Path) {
        let (certificate, key) = issue();
        fs::write(folder.join("me.pem"), &certificate).unwrap();
        fs::write(folder.join("me.key"), key).unwrap();
        fs::write(folder.join("ca.pem"), certificate).unwrap();
    }

    fn files(folder: &Path) -> Tls {
        Tls::from_files(folder.join("ca.pem")).identity(folder.join("me.pem"), folder.join("me.key"))
    }

    #[tokio::test]
    async fn a_configuration_is_made_afresh_when_a_file_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        issue_into(folder.path());
        let certificates = Arc::new(Certificates::load(files(folder.path())).unwrap());
        let first = certificates.config().await;
        assert!(Arc::ptr_eq(&first, &certificates.config().await));
        assert_eq!(first.alpn_protocols, [HTTP_2]);
        issue_into(folder.path());
        let second = certificates.config().await;
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(Arc::ptr_eq(&second, &certificates.config().await));
    }

    #[tokio::test]
    async fn files_that_cannot_be_used_leave_the_last_good_ones() {
        let folder = tempfile::tempdir().unwrap();
        issue_into(folder.path());
        let certificates = Arc::new(Certificates::load(files(folder.path())).unwrap());
        let good = certificates.config().await;
        let complaint = || certificates.current.lock().complaint.clone().expect("it was said");
        for name in ["ca.pem", "me.pem", "me.key"] {
            let path = folder.path().join(name);
            let text = fs::read(&path).unwrap();
            let (_, another_key) = issue();
            let broken = [None, Some(""), Some("no certificate"), Some(another_key.as_str())];
            for broken in broken {
                match broken {
                    Some(text) => fs::write(&path, text).unwrap(),
                    None => fs::remove_file(&path).unwrap(),
                }
                assert!(Arc::ptr_eq(&good, &certificates.config().await));
                let complaint = complaint();
                assert!(complaint.contains(&format!("path={}", path.display())), "{complaint}");
            }
            fs::write(&path, text).unwrap();
            assert!(Arc::ptr_eq(&good, &certificates.config().await));
            assert!(certificates.current.lock().complaint.is_none());
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn files_that_hang_keep_one_thread_and_the_last_good_ones_serve() {
        let folder = tempfile::tempdir().unwrap();
        issue_into(folder.path());
        let certificates = Arc::new(Certificates::load(files(folder.path())).unwrap());
        let good = certificates.config().await;
        let path = folder.path().join("ca.pem");
        let text = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        // Whoever opens it for reading waits for somebody who writes.
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
            .unwrap();
        let mut looks = Vec::new();
        for _ in 0..2 {
            assert!(Arc::ptr_eq(&good, &certificates.config().await));
            let look = certificates.looking.try_lock().unwrap();
            looks.push(look.as_ref().expect("it hangs").id());
        }
        assert_eq!(looks[0], looks[1]);
        // What was hung up ends, and the next one looks itself.
        let pipe = path.clone();
        let writing = std::thread::spawn(move || fs::write(pipe, text).unwrap());
        let look = certificates.looking.lock().await.take().unwrap();
        look.await.unwrap();
        writing.join().unwrap();
        fs::remove_file(&path).unwrap();
        issue_into(folder.path());
        assert!(!Arc::ptr_eq(&good, &certificates.config().await));
    }

    #[test]
    fn what_cannot_be_used_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["ca.pem", "me.pem", "me.key"] {
            issue_into(folder.path());
            let path = folder.path().join(name);
            let (_, another_key) = issue();
            for text in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &another_key] {
                fs::write(&path, text).unwrap();
                let error = Certificates::load(files(folder.path())).expect_err("it cannot be used");
                assert_eq!(error.code(), "INVALID_ARGUMENT");
                assert!(error.to_string().contains(&format!("path={}", path.display())), "{error}");
            }
        }
    }

    #[test]
    fn a_name_is_the_hosts_or_the_one_that_was_asked_for() {
        let of = |tls: Tls, host: &str| Certificates::load(tls).unwrap().name(host);
        assert_eq!(of(Tls::skip_verify(), "[::1]").unwrap(), ServerName::try_from("::1").unwrap());
        assert_eq!(of(Tls::skip_verify(), "n1").unwrap(), ServerName::try_from("n1").unwrap());
        let named = Tls::skip_verify().server_name("store.test");
        assert_eq!(of(named, "n1").unwrap(), ServerName::try_from("store.test").unwrap());
        let error = of(Tls::skip_verify().server_name("no name"), "n1").expect_err("has a blank");
        assert!(error.to_string().contains("name=\"no name\""), "{error}");
    }
}
