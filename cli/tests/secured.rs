//! Encryption and logins of the commands, against an etcd: Folkmoot has neither for clients yet.
//! Without etcd, etcdctl and openssl there is nothing to test against.

#[allow(dead_code)]
mod support;

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use support::{Process, eventually, failure, folkmoot, run, text};
use tempfile::TempDir;

/// An etcd in a process and a directory of its own.
struct Etcd {
    folder: TempDir,
    url: String,
    _process: Process,
}

fn is_there() -> bool {
    let runs = |program: &str, argument: &str| Command::new(program).arg(argument).output().is_ok();
    runs("etcd", "--version") && runs("etcdctl", "version") && runs("openssl", "version")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    listener.local_addr().expect("is bound").port()
}

/// Authorities `ca` and `other`, and certificates of `server` and `client` by `ca`.
fn make_certificates(folder: &Path) {
    let openssl = |line: &str| {
        let made =
            Command::new("openssl").current_dir(folder).args(line.split(' ')).output().expect("is there");
        assert!(made.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&made.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for name in ["ca", "other"] {
        openssl(&format!("req -x509 {key} -days 2 -subj /CN={name} -keyout {name}.key -out {name}.pem"));
    }
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1\n").expect("there is room");
    for name in ["server", "client"] {
        openssl(&format!("req {key} -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out {name}.pem"
        ));
    }
}

impl Etcd {
    fn start(is_encrypted: bool) -> Self {
        let folder = tempfile::tempdir().expect("there is room for a folder");
        let scheme = if is_encrypted { "https" } else { "http" };
        let (url, peer) = (format!("{scheme}://127.0.0.1:{}", free_port()), free_port());
        let peer = format!("http://127.0.0.1:{peer}");
        let mut command = Command::new("etcd");
        command
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--name", "default", "--initial-cluster", &format!("default={peer}")])
            .arg("--data-dir")
            .arg(folder.path().join("data"));
        if is_encrypted {
            make_certificates(folder.path());
            for (flag, file) in
                [("--cert-file", "server.pem"), ("--key-file", "server.key"), ("--trusted-ca-file", "ca.pem")]
            {
                command.arg(flag).arg(folder.path().join(file));
            }
            command.arg("--client-cert-auth");
        }
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("etcd starts");
        Self { folder, url, _process: Process::new(child) }
    }

    /// A command of ours with these flags behind it.
    fn ours(&self, line: &str, flags: &[&str]) -> std::process::Output {
        let mut command = folkmoot(line.split(' '));
        run(command.args(["--endpoints", &self.url]).args(flags), "")
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("is text").to_owned()
    }
}

#[test]
fn commands_are_encrypted_and_show_a_certificate() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start(true);
    let (ca, cert, key) = (etcd.file("ca.pem"), etcd.file("client.pem"), etcd.file("client.key"));
    let known = ["--cacert", &ca, "--cert", &cert, "--key", &key];
    eventually("etcd", || etcd.ours("endpoint health", &known).status.success());
    // One by the library, one by a connection of its own.
    assert_eq!(text(&etcd.ours("put a 1", &known)), "OK\n");
    assert!(text(&etcd.ours("member list", &known)).contains("started"));
    assert_eq!(text(&etcd.ours("get a", &known)), "a\n1\n");

    // The same by variables, and without a scheme.
    let address = etcd.url.trim_start_matches("https://");
    let mut command = folkmoot(["get", "a", "--endpoints", address]);
    command.env("ETCDCTL_CACERT", &ca).env("ETCDCTL_CERT", &cert).env("FOLKMOOT_KEY", &key);
    assert_eq!(text(&run(&mut command, "")), "a\n1\n");

    let other = etcd.file("other.pem");
    for line in ["get a --command-timeout 1s", "member list"] {
        let stranger = ["--cacert", &other, "--cert", &cert, "--key", &key];
        failure(&etcd.ours(line, &stranger), 1);
        assert!(failure(&etcd.ours(line, &["--cacert", "/no/such.pem"]), 2).contains("/no/such.pem"));
        assert!(failure(&etcd.ours(line, &["--cert", &cert]), 2).contains("--key"));
        failure(&etcd.ours(line, &["--insecure-frob"]), 2);
        let skipping = ["--insecure-skip-tls-verify", "--cacert", &other, "--cert", &cert, "--key", &key];
        text(&etcd.ours(line, &skipping));
        // That the members are not checked does not mean that they do not check.
        let nobody = failure(&etcd.ours(line, &["--insecure-skip-tls-verify"]), 1);
        assert!(line == "member list" || nobody.contains("certificate"), "{nobody}");
    }
}

#[test]
fn commands_log_in_with_a_name_and_a_password() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start(false);
    eventually("etcd", || etcd.ours("endpoint health", &[]).status.success());
    // A store without users does not mind a name.
    assert_eq!(text(&etcd.ours("put a 1", &["--user", "root:secret"])), "OK\n");
    assert!(text(&etcd.ours("lease list", &["--user", "root:secret"])).starts_with("found 0 leases"));
    for line in ["user add root:secret", "user grant-role root root", "auth enable"] {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &etcd.url]).args(line.split(' '));
        text(&run(&mut command, ""));
    }
    let root = ["--user", "root", "--password", "secret"];
    assert_eq!(text(&etcd.ours("get a", &root)), "a\n1\n");
    text(&etcd.ours("endpoint hashkv", &root));
    for line in ["get a", "endpoint hashkv"] {
        let wrong = failure(&etcd.ours(line, &["--user", "root:wrong"]), 1);
        assert!(wrong.contains("authentication failed"), "{wrong}");
        failure(&etcd.ours(line, &[]), 1);
        assert!(failure(&etcd.ours(line, &["--user", "root"]), 2).contains("needs a password"));
    }
    let mut held = folkmoot(["--endpoints", &etcd.url, "--user", "root:secret", "lock", "l", "true"]);
    assert_eq!(text(&run(&mut held, "")), "");
}
