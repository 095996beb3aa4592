//! The fault-injecting server, from its user's side: a process, and JSON over HTTP.

use std::process::Stdio;

use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// The server's process. It ends when this is dropped, because its input ends.
pub struct Testd {
    _child: Child,
    address: String,
}

impl Testd {
    pub async fn start(program: &str, store: &str) -> Result<Self, String> {
        let mut command = Command::new(program);
        command.args(["--store", store]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("{error} program={program}"))?;
        let mut hello = String::new();
        let mut output = BufReader::new(child.stdout.take().expect("is piped"));
        output.read_line(&mut hello).await.map_err(|error| error.to_string())?;
        let hello: Value = serde_json::from_str(&hello).map_err(|_| format!("{program} does not start"))?;
        let url = hello["control"].as_str().unwrap_or_default();
        let address =
            url.strip_prefix("http://").ok_or_else(|| format!("no address of {program}: {hello}"))?;
        Ok(Self { address: address.to_owned(), _child: child })
    }

    /// One request. A refusal is an error with the server's words.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        body: &Map<String, Value>,
    ) -> Result<Value, String> {
        let exchange = async {
            let body = Value::Object(body.clone()).to_string();
            let mut stream = TcpStream::connect(&self.address).await?;
            let head = format!(
                "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                self.address,
                body.len()
            );
            stream.write_all((head + &body).as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = exchange.await.map_err(|error| format!("folkmoot-testd does not answer: {error}"))?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("folkmoot-testd answers no HTTP")?;
        let body: Value = serde_json::from_str(body).map_err(|error| format!("{error} answer={answer:?}"))?;
        if head.starts_with("HTTP/1.1 200") {
            return Ok(body);
        }
        Err(body["error"].as_str().unwrap_or(head).to_owned())
    }
}
