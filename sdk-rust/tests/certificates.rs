//! Certificates that change, are refused, or are not looked at: against a small store whose TLS the test
//! decides.

#![cfg(feature = "tls")]

#[path = "support/authority.rs"]
mod authority;
mod support;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use authority::Authority;
use folkmoot_client::{Client, ErrorKind, Tls};
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::etcdserverpb::kv_server::{Kv, KvServer};
use support::{PATIENCE, Proxy, eventually, soon};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tonic::{Request, Response, Status};

const H2: &[u8] = b"h2";

/// What a member's side of encryption is.
struct Side<'a> {
    /// Certificate and key.
    shows: (String, String),
    /// Who must have signed the clients' certificates, if clients are asked for theirs.
    asks: Option<&'a Authority>,
    version: &'static SupportedProtocolVersion,
    protocol: &'a [u8],
}

impl<'a> Side<'a> {
    fn new(authority: &Authority, name: &str) -> Self {
        Self { shows: authority.sign(&[name]), asks: None, version: &TLS13, protocol: H2 }
    }

    fn asks(mut self, authority: &'a Authority) -> Self {
        self.asks = Some(authority);
        self
    }

    fn build(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[self.version])
            .unwrap();
        let builder = match self.asks {
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
            None => builder.with_no_client_auth(),
        };
        let chain = vec![CertificateDer::from_pem_slice(self.shows.0.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(self.shows.1.as_bytes()).unwrap();
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![self.protocol.to_vec()];
        Arc::new(config)
    }
}

/// Counts, and answers as an empty store would.
#[derive(Clone, Debug, Default)]
struct Store {
    put_count: Arc<AtomicU64>,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Kv for Store {
    type RangeStreamStream = futures_util::stream::Empty<Result<pb::RangeStreamResponse, Status>>;

    async fn range(&self, _: Request<pb::RangeRequest>) -> Answer<pb::RangeResponse> {
        Ok(Response::new(Default::default()))
    }

    async fn put(&self, _: Request<pb::PutRequest>) -> Answer<pb::PutResponse> {
        self.put_count.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(Default::default()))
    }

    async fn range_stream(&self, _: Request<pb::RangeRequest>) -> Answer<Self::RangeStreamStream> {
        Err(Status::unimplemented(""))
    }

    async fn delete_range(&self, _: Request<pb::DeleteRangeRequest>) -> Answer<pb::DeleteRangeResponse> {
        Err(Status::unimplemented(""))
    }

    async fn txn(&self, _: Request<pb::TxnRequest>) -> Answer<pb::TxnResponse> {
        Err(Status::unimplemented(""))
    }

    async fn compact(&self, _: Request<pb::CompactionRequest>) -> Answer<pb::CompactionResponse> {
        Err(Status::unimplemented(""))
    }
}

/// A member of one that serves until the test ends.
struct Member {
    address: SocketAddr,
    side: watch::Sender<Arc<ServerConfig>>,
    store: Store,
    connection_count: Arc<AtomicU64>,
}

impl Member {
    async fn start(side: Side<'_>) -> Self {
        Self::at("127.0.0.1", side).await.unwrap()
    }

    async fn at(host: &str, side: Side<'_>) -> io::Result<Self> {
        let listener = TcpListener::bind((host, 0)).await?;
        let address = listener.local_addr()?;
        let (side, now) = watch::channel(side.build());
        let (store, connection_count) = (Store::default(), Arc::<AtomicU64>::default());
        let (accepted, connections) = mpsc::channel::<io::Result<_>>(16);
        let count = connection_count.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (acceptor, accepted) = (TlsAcceptor::from(now.borrow().clone()), accepted.clone());
                tokio::spawn(async move {
                    // Who is refused has been told why.
                    if let Ok(tls) = acceptor.accept(tcp).await {
                        let _ = accepted.send(Ok(tls)).await;
                    }
                });
            }
        });
        let incoming = futures_util::stream::unfold(connections, |mut connections| async {
            connections.recv().await.map(|connection| (connection, connections))
        });
        let server = tonic::transport::Server::builder().add_service(KvServer::new(store.clone()));
        tokio::spawn(server.serve_with_incoming(incoming));
        Ok(Self { address, side, store, connection_count })
    }

    /// Is another one for whoever connects from now on.
    fn turn(&self, side: Side<'_>) {
        self.side.send_replace(side.build());
    }

    fn client(&self, tls: Tls) -> Client {
        client(self.address, tls)
    }

    fn put_count(&self) -> u64 {
        self.store.put_count.load(Ordering::SeqCst)
    }

    fn connection_count(&self) -> u64 {
        self.connection_count.load(Ordering::SeqCst)
    }
}

fn client(address: SocketAddr, tls: Tls) -> Client {
    let endpoint = format!("https://{address}");
    // What is not to be tried again must end long before.
    Client::builder().endpoints([endpoint]).request_timeout(2 * PATIENCE).tls(tls).connect_lazy().unwrap()
}

fn impatient(address: SocketAddr, tls: Tls) -> Client {
    let builder = Client::builder().endpoints([format!("https://{address}")]).tls(tls);
    let builder = builder.connect_timeout(Duration::from_millis(200));
    builder.request_timeout(Duration::from_secs(1)).connect_lazy().unwrap()
}

/// Replaces a file as those do who rotate certificates: never half of it is there.
fn replace(folder: &Path, name: &str, text: &str) {
    let new = folder.join("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, folder.join(name)).unwrap();
}

fn replace_identity(folder: &Path, authority: &Authority) {
    let (certificate, key) = authority.sign(&["client"]);
    replace(folder, "me.pem", &certificate);
    replace(folder, "me.key", &key);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_goes_on_with_the_authorities_that_its_file_holds_now() {
    let (old, new) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    replace(folder.path(), "ca.pem", &old.pem);
    let member = Member::start(Side::new(&old, "127.0.0.1")).await;
    let proxy = Proxy::to(member.address.port()).await;
    let through = SocketAddr::from(([127, 0, 0, 1], proxy.port));
    let client = client(through, Tls::from_files(folder.path().join("ca.pem")));
    soon("an answer", client.get("k")).await.unwrap();

    // A file that is no certificate for a while does no harm.
    replace(folder.path(), "ca.pem", "to be replaced");
    let before = member.connection_count();
    proxy.drop_connections().await;
    soon("an answer", client.get("k")).await.unwrap();
    assert!(member.connection_count() > before);

    member.turn(Side::new(&new, "127.0.0.1"));
    replace(folder.path(), "ca.pem", &new.pem);
    let before = member.connection_count();
    proxy.drop_connections().await;
    soon("an answer", client.get("k")).await.unwrap();
    assert!(member.connection_count() > before);

    // Nor is the old one trusted any more.
    member.turn(Side::new(&old, "127.0.0.1"));
    proxy.drop_connections().await;
    let error = impatient(through, Tls::from_files(folder.path().join("ca.pem"))).get("k").await;
    assert_eq!(error.expect_err("it is not trusted").kind(), ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_shows_the_certificate_that_its_file_holds_now() {
    let (old, new) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    replace_identity(folder.path(), &old);
    let member = Member::start(Side::new(&old, "127.0.0.1").asks(&old)).await;
    let proxy = Proxy::to(member.address.port()).await;
    let tls = Tls::from_pem(old.pem.clone());
    let tls = tls.identity(folder.path().join("me.pem"), folder.path().join("me.key"));
    let client = client(SocketAddr::from(([127, 0, 0, 1], proxy.port)), tls);
    soon("an answer", client.put("k", "1")).await.unwrap();

    member.turn(Side::new(&old, "127.0.0.1").asks(&new));
    proxy.drop_connections().await;
    // The first put may meet the end of the connection.
    let refused = eventually("a refusal", async || {
        client.put("k", "2").await.err().filter(|error| error.kind() == ErrorKind::AuthFailed)
    });
    assert!(!refused.await.maybe_applied());
    replace_identity(folder.path(), &new);
    eventually("an answer", async || client.put("k", "3").await.ok()).await;
    assert_eq!(member.put_count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_refused_is_said_and_nothing_is_applied() {
    let (ours, other) = (Authority::new(), Authority::new());
    let trust = || Tls::from_pem(ours.pem.clone());
    let shows = |(certificate, key): (String, String)| trust().identity_pem(certificate, key);
    for version in [&TLS12, &TLS13] {
        let side = Side { version, ..Side::new(&ours, "127.0.0.1") };
        let member = Member::start(side.asks(&ours)).await;
        soon("an answer", member.client(shows(ours.sign(&["client"]))).put("k", "")).await.unwrap();
        for tls in [trust(), shows(other.sign(&["client"])), shows(ours.sign_expired(&["client"]))] {
            for _ in 0..20 {
                let client = member.client(tls.clone());
                let error = soon("a refusal", client.put("k", "")).await.expect_err("it is not known");
                assert_eq!(error.kind(), ErrorKind::AuthFailed, "{version:?}: {error:?}");
                assert!(!error.maybe_applied() && !error.is_retryable());
                assert!(error.to_string().contains("certificate"), "{error}");
                assert!(error.endpoint().is_some());
                let error = soon("a refusal", client.get("k")).await.expect_err("it is not known");
                assert_eq!(error.kind(), ErrorKind::AuthFailed, "{version:?}: {error:?}");
            }
        }
        assert_eq!(member.put_count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_skips_verification_takes_any_certificate() {
    let (ours, other) = (Authority::new(), Authority::new());
    for version in [&TLS12, &TLS13] {
        let member = Member::start(Side { version, ..Side::new(&other, "elsewhere.test") }).await;
        let strict = impatient(member.address, Tls::from_pem(ours.pem.clone()));
        assert_eq!(strict.get("k").await.expect_err("is strict").kind(), ErrorKind::Unavailable);
        soon("an answer", member.client(Tls::skip_verify()).put("k", "")).await.unwrap();
        // It can show who it is all the same.
        member.turn(Side { version, ..Side::new(&other, "elsewhere.test") }.asks(&ours));
        let (certificate, key) = ours.sign(&["client"]);
        let known = Tls::skip_verify().identity_pem(certificate, key);
        soon("an answer", member.client(known).put("k", "")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_reached_by_an_address_of_ipv6() {
    let authority = Authority::new();
    let Ok(member) = Member::at("::1", Side::new(&authority, "::1")).await else { return };
    soon("an answer", member.client(Tls::from_pem(authority.pem.clone())).get("k")).await.unwrap();
    let named = Tls::from_pem(authority.pem.clone()).server_name("elsewhere.test");
    let error = impatient(member.address, named).get("k").await.expect_err("has another name");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    member.turn(Side::new(&authority, "store.test"));
    let named = Tls::from_pem(authority.pem.clone()).server_name("store.test");
    soon("an answer", member.client(named).get("k")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_must_speak_http_2() {
    let authority = Authority::new();
    let side = Side { protocol: b"", ..Side::new(&authority, "127.0.0.1") };
    let mut config = (*side.build()).clone();
    config.alpn_protocols.clear();
    let member = Member::start(side).await;
    member.side.send_replace(Arc::new(config));
    let error = impatient(member.address, Tls::from_pem(authority.pem.clone())).put("k", "").await;
    let error = error.expect_err("it may speak anything");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("does not offer HTTP/2"), "{error}");
    assert_eq!(member.put_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_never_ends_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (certificate, _) = Authority::new().sign(&["127.0.0.1"]);
    let (endpoint, tls) = (format!("https://{address}"), Tls::from_pem(certificate));
    let dialing = folkmoot_client::dial(&endpoint, Some(&tls), Duration::from_millis(200));
    let error = soon("an end", dialing).await.expect_err("is silent");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("connect_timeout=200ms"), "{error}");
    // A call tries it again and again. No attempt is one that may have been applied.
    let client = impatient(address, tls);
    let error = soon("an end", client.put("k", "")).await.expect_err("is silent");
    assert_ne!(error.kind(), ErrorKind::Ambiguous, "{error}");
}
