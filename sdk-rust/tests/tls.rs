//! Encrypted connections to real servers: whom the client trusts, and who it is.

#![cfg(feature = "tls")]

#[path = "support/authority.rs"]
mod authority;
mod support;

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use authority::Authority;
use folkmoot_client::{Client, ErrorKind, Result, Tls};
use support::{Kind, PATIENCE, eventually, folkmoot, free_port, soon};

/// A server that speaks TLS only.
struct Server {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Listens with a certificate for these names; asks clients for theirs if `clients` is set.
    fn start(kind: Kind, authority: &Authority, names: &[&str], clients: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = authority.sign(names);
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let files = [write("ca.pem", &authority.pem), write("s.pem", &certificate), write("s.key", &key)];
        let (port, peer) = (free_port(), free_port());
        let (url, peer_url) = (format!("https://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
        let mut command = match kind {
            Kind::Etcd => Command::new("etcd"),
            Kind::Folkmoot => {
                let mut command = Command::new(folkmoot().expect("was found"));
                command.args(["serve", "--unsafe-no-fsync"]);
                command
            }
        };
        command
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("default={peer_url}")])
            .args([Path::new("--cert-file"), &files[1], Path::new("--key-file"), &files[2]])
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if clients {
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(&files[0]);
        }
        let server = Self { child: command.spawn().unwrap(), port, _folder: folder };
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "the server never listened");
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    fn client(&self, tls: Tls) -> Result<Client> {
        let endpoint = format!("https://127.0.0.1:{}", self.port);
        Client::builder()
            .endpoints([endpoint])
            .request_timeout(Duration::from_secs(3))
            .tls(tls)
            .connect_lazy()
    }

    async fn answers(&self, tls: Tls) {
        let client = self.client(tls).unwrap();
        eventually("an answer", async || client.get("k").await.ok()).await;
    }

    async fn refuses(&self, tls: Tls) {
        let error = self.client(tls).unwrap().put("k", "").await.expect_err("it is not trusted");
        let kinds = [ErrorKind::Unavailable, ErrorKind::AuthFailed, ErrorKind::DeadlineExceeded];
        assert!(kinds.contains(&error.kind()), "{error}");
    }
}

/// The servers that are there and can speak TLS.
fn kinds() -> Vec<Kind> {
    let says = |command: &mut Command, what: &str| {
        let output = command.output();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(what))
    };
    let mut kinds = Vec::new();
    if says(Command::new("etcd").arg("--version"), "etcd") {
        kinds.push(Kind::Etcd);
    }
    if folkmoot()
        .is_some_and(|binary| says(Command::new(binary).args(["serve", "--help"]), "--client-cert-auth"))
    {
        kinds.push(Kind::Folkmoot);
    }
    kinds
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_trusted_by_its_authority_and_its_name() {
    for kind in kinds() {
        let (authority, other) = (Authority::new(), Authority::new());
        let server = Server::start(kind, &authority, &["127.0.0.1"], false);
        server.answers(Tls::from_pem(authority.pem.clone())).await;
        server.refuses(Tls::from_pem(other.pem.clone())).await;
        server.refuses(Tls::from_pem(authority.pem.clone()).server_name("elsewhere.test")).await;
        let named = Server::start(kind, &authority, &["store.test"], false);
        named.answers(Tls::from_pem(authority.pem.clone()).server_name("store.test")).await;
        named.refuses(Tls::from_pem(authority.pem.clone())).await;
        named.answers(Tls::skip_verify()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_asks_who_the_client_is_takes_its_certificate_only() {
    for kind in kinds() {
        let (authority, other) = (Authority::new(), Authority::new());
        let server = Server::start(kind, &authority, &["127.0.0.1"], true);
        let trust = || Tls::from_pem(authority.pem.clone());
        let (certificate, key) = authority.sign(&["client"]);
        let known = trust().identity_pem(certificate, key);
        server.answers(known.clone()).await;
        let (certificate, key) = other.sign(&["client"]);
        for unknown in [trust(), trust().identity_pem(certificate, key)] {
            // The member refuses after the client takes the connection for made and has sent the write.
            let refused = server.client(unknown).unwrap();
            let error = soon("a refusal", refused.put("k", "")).await.expect_err("it is not known");
            assert_eq!(error.kind(), ErrorKind::AuthFailed, "{kind:?}: {error:?}");
            assert!(!error.maybe_applied());
            assert_eq!(server.client(known.clone()).unwrap().get("k").await.unwrap().count, 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_follows_its_files_from_one_server_to_the_next() {
    for kind in kinds() {
        let (old, new) = (Authority::new(), Authority::new());
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        let replace = |authority: &Authority| {
            let (certificate, key) = authority.sign(&["client"]);
            for (name, text) in [("ca.pem", &authority.pem), ("me.pem", &certificate), ("me.key", &key)] {
                std::fs::write(place("new"), text).unwrap();
                std::fs::rename(place("new"), place(name)).unwrap();
            }
        };
        replace(&old);
        let first = Server::start(kind, &old, &["127.0.0.1"], true);
        let tls = Tls::from_files(place("ca.pem")).identity(place("me.pem"), place("me.key"));
        first.answers(tls.clone()).await;
        let second = Server::start(kind, &new, &["127.0.0.1"], true);
        let endpoints = [&first, &second].map(|server| format!("https://127.0.0.1:{}", server.port));
        let client = Client::builder().endpoints(endpoints).tls(tls).connect_lazy().unwrap();
        drop(first);
        replace(&new);
        // The first is not there any more, and the second takes what the files hold now.
        eventually("an answer", async || client.get("k").await.ok()).await;
    }
}
