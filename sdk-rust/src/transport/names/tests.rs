//! Against a small DNS server and members that answer everything, both on the loopback.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

use super::*;
use crate::Client;

/// How long anything may take that has to come in the end.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn client(server: SocketAddr) -> TokioResolver {
    let mut udp = ConnectionConfig::udp();
    udp.port = server.port();
    let server = NameServerConfig::new(server.ip(), true, vec![udp]);
    let config = ResolverConfig::from_name_servers(vec![server]);
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build().unwrap()
}

#[derive(Clone, Debug)]
enum Record {
    A(Ipv4Addr),
    /// Priority, target and port.
    Srv(u16, &'static str, u16),
}

impl Record {
    fn kind(&self) -> u16 {
        match self {
            Self::A(_) => 1,
            Self::Srv(..) => 33,
        }
    }

    fn data(&self) -> Vec<u8> {
        match self {
            Self::A(ip) => ip.octets().into(),
            Self::Srv(priority, target, port) => {
                let mut data: Vec<u8> = [*priority, 0, *port].iter().flat_map(|n| n.to_be_bytes()).collect();
                for label in target.split('.').filter(|label| !label.is_empty()) {
                    data.push(label.len() as u8);
                    data.extend(label.as_bytes());
                }
                data.push(0);
                data
            }
        }
    }
}

/// Records by their names.
type Zone = BTreeMap<&'static str, Vec<Record>>;

/// A DNS server that tells what a test wants. Without a zone it fails.
#[derive(Clone, Debug)]
struct Dns {
    address: SocketAddr,
    zone: Arc<Mutex<Option<Zone>>>,
}

impl Dns {
    async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let dns =
            Self { address: socket.local_addr().unwrap(), zone: Arc::new(Mutex::new(Some(Zone::new()))) };
        let server = dns.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let _ = socket.send_to(&server.answer(&buffer[..length]), from).await;
            }
        });
        dns
    }

    fn set(&self, name: &'static str, records: Vec<Record>) {
        self.zone.lock().get_or_insert_default().insert(name, records);
    }

    fn set_addresses(&self, name: &'static str, last: &[u8]) {
        self.set(name, last.iter().map(|last| Record::A(Ipv4Addr::new(127, 0, 0, *last))).collect());
    }

    fn fail(&self) {
        *self.zone.lock() = None;
    }

    fn answer(&self, question: &[u8]) -> Vec<u8> {
        const HEADER: usize = 12;
        let (mut labels, mut at) = (Vec::new(), HEADER);
        while question[at] != 0 {
            let label = &question[at + 1..][..question[at].into()];
            labels.push(String::from_utf8_lossy(label).to_lowercase());
            at += 1 + label.len();
        }
        let kind = u16::from_be_bytes([question[at + 1], question[at + 2]]);
        let zone = self.zone.lock();
        let all = zone.as_ref().and_then(|zone| zone.get(&*labels.join(".")));
        let records: Vec<_> = all.into_iter().flatten().filter(|record| record.kind() == kind).collect();
        let code = match (&*zone, all) {
            (None, _) => 2,
            (_, None) => 3,
            _ => 0,
        };
        let mut answer = question[..2].to_vec();
        answer.extend([0x81, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
        answer.extend(&question[HEADER..at + 5]);
        for record in records {
            // Of the name that was asked for, for an hour.
            answer.extend([0xc0, HEADER as u8, 0, record.kind() as u8, 0, 1, 0, 0, 0x0e, 0x10]);
            let data = record.data();
            answer.extend((data.len() as u16).to_be_bytes());
            answer.extend(data);
        }
        answer
    }
}

/// Answers everything with an empty message, and notes by what authority it was asked.
async fn serve(io: impl AsyncRead + AsyncWrite + Unpin, asked: Arc<Mutex<Vec<String>>>) {
    let Ok(mut connection) = h2::server::handshake(io).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        asked.lock().push(request.uri().authority().map(ToString::to_string).unwrap_or_default());
        let response = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut body = respond.send_response(response, false).unwrap();
        body.send_data(Bytes::from_static(&[0; 5]), false).unwrap();
        body.send_trailers(
            [("grpc-status", "0")]
                .map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap()))
                .into_iter()
                .collect(),
        )
        .unwrap();
    }
}

/// A member of one that serves until it is dropped.
struct Member {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Member {
    async fn start() -> Self {
        Self::at(1, 0).await.unwrap()
    }

    /// At `127.0.0.last`.
    async fn at(last: u8, port: u16) -> std::io::Result<Self> {
        Self::with(last, port, async |tcp| Some(tcp)).await
    }

    async fn with<S, F>(
        last: u8,
        port: u16,
        accept: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> std::io::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = Option<S>> + Send,
    {
        let listener = TcpListener::bind((IpAddr::from([127, 0, 0, last]), port)).await?;
        let port = listener.local_addr()?.port();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let (mut tasks, log) = (JoinSet::new(), asked.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                if let Some(stream) = accept(tcp).await {
                    connections.spawn(serve(stream, log.clone()));
                }
            }
        });
        Ok(Self { port, asked, _tasks: tasks })
    }

    /// By what authorities it was asked since the last time.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock())
    }
}

/// Members at the same port of 127.0.0.1, 127.0.0.2 and so on.
#[cfg(target_os = "linux")]
async fn members(count: u8) -> Vec<Member> {
    loop {
        let mut members = vec![Member::start().await];
        for last in 2..=count {
            // Somebody else may have the port there.
            let Ok(member) = Member::at(last, members[0].port).await else { break };
            members.push(member);
        }
        if members.len() == usize::from(count) {
            return members;
        }
    }
}

async fn connect(dns: &Dns, endpoints: &[&str]) -> Result<Client> {
    let builder = Client::builder().endpoints(endpoints.iter().copied()).name_server(dns.address);
    builder.request_timeout(PATIENCE).connect().await
}

/// So many calls, after which it can be seen who was asked.
async fn call(client: &Client, count: usize, members: &[&Member]) -> Vec<usize> {
    members.iter().for_each(|member| drop(member.asked()));
    for _ in 0..count {
        client.get("k").await.unwrap();
    }
    members.iter().map(|member| member.asked().len()).collect()
}

async fn look_again(client: &Client) {
    look_up(&client.core().unwrap()).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn c_1_the_addresses_of_a_host_are_members_that_come_and_go() {
    let (dns, members) = (Dns::start().await, members(3).await);
    let members: Vec<_> = members.iter().collect();
    let port = members[0].port;
    dns.set_addresses("store.test", &[1, 2]);
    let client = connect(&dns, &[&format!("dns:///store.test:{port}")]).await.unwrap();
    assert_eq!(call(&client, 4, &members).await, [2, 2, 0]);
    client.get("k").await.unwrap();
    let asked: Vec<_> = members.iter().flat_map(|member| member.asked()).collect();
    assert_eq!(asked, [format!("store.test:{port}")], "the host is the authority");
    assert_eq!(client.endpoints().unwrap(), [1, 2].map(|last| format!("http://127.0.0.{last}:{port}")));
    for endpoint in client.endpoints().unwrap() {
        client.status(&endpoint).await.unwrap();
    }

    dns.set_addresses("store.test", &[2, 3]);
    look_again(&client).await;
    assert_eq!(call(&client, 4, &members).await, [0, 2, 2]);
    dns.set_addresses("store.test", &[]);
    look_again(&client).await;
    assert_eq!(call(&client, 4, &members).await, [0, 2, 2], "nothing leaves what was known");
    dns.fail();
    look_again(&client).await;
    assert_eq!(call(&client, 4, &members).await, [0, 2, 2], "a failure leaves what was known");
    dns.set_addresses("store.test", &[1]);
    look_again(&client).await;
    assert_eq!(call(&client, 4, &members).await, [4, 0, 0], "one that was gone is back");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn c_1_a_member_that_fails_has_its_name_looked_up_again() {
    let (dns, mut members) = (Dns::start().await, members(2).await);
    dns.set_addresses("store.test", &[1]);
    let endpoint = format!("dns:///store.test:{}", members[0].port);
    let client = connect(&dns, &[&endpoint]).await.unwrap();
    dns.set_addresses("store.test", &[2]);
    drop(members.remove(0));
    let until_the_second_is_asked = async {
        while members[0].asked().is_empty() {
            client.get("k").await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, until_the_second_is_asked).await.expect("it is asked in the end");
}

#[tokio::test]
async fn c_1_the_targets_of_srv_records_are_members_that_come_and_go() {
    let dns = Dns::start().await;
    let members = [Member::start().await, Member::start().await, Member::start().await];
    let [one, two, three] = members.each_ref().map(|member| member.port);
    let members: Vec<_> = members.iter().collect();
    for (endpoint, records) in [
        ("dns+srv://store.test", "_etcd-client._tcp.store.test"),
        ("dns+srv:///_client._tcp.pods.test", "_client._tcp.pods.test"),
    ] {
        let target = |priority, port| Record::Srv(priority, "localhost", port);
        dns.set(records, vec![target(7, one), target(7, two), target(8, three)]);
        let client = connect(&dns, &[endpoint]).await.unwrap();
        assert_eq!(call(&client, 4, &members).await, [2, 2, 0], "the first priority alone is asked");
        dns.set(records, vec![target(7, three), target(9, one)]);
        look_again(&client).await;
        assert_eq!(call(&client, 4, &members).await, [0, 0, 4]);
        assert_eq!(client.endpoints().unwrap(), [format!("http://localhost:{three}")]);
        dns.set(records, vec![Record::Srv(0, ".", 0)]);
        look_again(&client).await;
        assert_eq!(call(&client, 4, &members).await, [0, 0, 4], "nothing leaves what was known");
    }
}

#[tokio::test]
async fn c_1_a_name_that_is_not_found_at_first_is_an_error_that_names_the_endpoint() {
    let dns = Dns::start().await;
    for (endpoint, advice) in [
        ("dns:///nowhere.test:2379", "check it and its records"),
        ("dns+srv://nowhere.test", "check the domain records=_etcd-client._tcp.nowhere.test"),
    ] {
        let error = connect(&dns, &[endpoint]).await.expect_err("there is no such name");
        assert_eq!((error.code(), error.endpoint()), ("UNAVAILABLE", Some(endpoint)));
        assert!(error.message().contains(advice), "{error}");
    }
}

#[tokio::test]
async fn c_1_a_client_that_does_not_wait_begins_once_its_name_is_found() {
    let (dns, member) = (Dns::start().await, Member::start().await);
    let builder = Client::builder().endpoints(["dns+srv://store.test"]).name_server(dns.address);
    let client = builder.request_timeout(PATIENCE).connect_lazy().unwrap();
    assert_eq!(client.endpoints().unwrap(), ["dns+srv://store.test"]);
    dns.set("_etcd-client._tcp.store.test", vec![Record::Srv(0, "localhost", member.port)]);
    client.get("k").await.unwrap();
    assert_eq!(member.asked().len(), 1);
}

#[tokio::test]
async fn c_1_names_and_urls_may_be_mixed() {
    let dns = Dns::start().await;
    let members = [Member::start().await, Member::start().await, Member::start().await];
    let [one, two, three] = members.each_ref().map(|member| member.port);
    dns.set_addresses("store.test", &[1]);
    dns.set("_etcd-client._tcp.store.test", vec![Record::Srv(0, "localhost", two)]);
    let (host, plain) = (format!("dns:///store.test:{one}"), format!("127.0.0.1:{three}"));
    let client = connect(&dns, &[&host, "dns+srv://store.test", &plain]).await.unwrap();
    assert_eq!(call(&client, 6, &members.iter().collect::<Vec<_>>()).await, [2, 2, 2]);
    // A name that is not found is no reason to stop while there is another endpoint.
    let client = connect(&dns, &["dns+srv://nowhere.test", &plain]).await.unwrap();
    client.get("k").await.unwrap();
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn c_1_a_certificate_must_be_for_the_name_that_was_given() {
    use rcgen::{CertificateParams, KeyPair};
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;

    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["store.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let accept = move |tcp| {
        let accepting = acceptor.accept(tcp);
        async { accepting.await.ok() }
    };
    let (dns, member) = (Dns::start().await, Member::with(1, 0, accept).await.unwrap());
    let port = member.port;
    for name in ["store.test", "other.test"] {
        dns.set_addresses(name, &[1]);
    }
    for records in ["_etcd-client-ssl._tcp.store.test", "_etcd-client-ssl._tcp.other.test"] {
        dns.set(records, vec![Record::Srv(0, "localhost", port)]);
    }
    let connect = |endpoint: &str, timeout| {
        let builder = Client::builder().endpoints([endpoint]).name_server(dns.address);
        builder.tls(crate::Tls::from_pem(certificate.pem())).request_timeout(timeout).connect_lazy().unwrap()
    };
    for endpoint in [format!("dns:///store.test:{port}"), "dns+srv://store.test".to_owned()] {
        let client = connect(&endpoint, PATIENCE);
        client.core().unwrap().names_looked_up().await.unwrap();
        client.get("k").await.unwrap();
        assert_eq!(member.asked(), [format!("store.test:{port}")]);
    }
    for endpoint in [format!("dns:///other.test:{port}"), "dns+srv://other.test".to_owned()] {
        let client = connect(&endpoint, Duration::from_secs(1));
        client.core().unwrap().names_looked_up().await.unwrap();
        let refused = client.get("k").await.expect_err("the name is another");
        assert!(refused.to_string().contains("not valid for"), "{refused}");
        assert!(member.asked().is_empty());
    }
}
