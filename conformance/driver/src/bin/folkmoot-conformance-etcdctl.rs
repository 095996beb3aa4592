//! etcd's own client as an actor of the conformance scenarios: `etcdctl lock` and `etcdctl elect`, so
//! that it is shown that they stand in the same lines as our recipes. It knows no other operation.

use std::collections::HashMap;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{Mutex, mpsc};

/// One running `etcdctl`.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    async fn line(&mut self) -> Result<String, String> {
        match self.lines.next_line().await {
            Ok(Some(line)) => Ok(line),
            Ok(None) => Err(format!("etcdctl ended: {:?}", self.child.wait().await)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// With a signal that it knows it gives back what it has; with the other it cannot.
    async fn end(mut self, signal: Signal) -> Result<Value, String> {
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id as i32)) {
            kill_process(pid, signal).map_err(|error| error.to_string())?;
        }
        self.child.wait().await.map_err(|error| error.to_string())?;
        Ok(json!({ "held": true }))
    }
}

#[derive(Default)]
struct Actor {
    endpoints: Mutex<String>,
    open: Mutex<HashMap<String, Arc<Mutex<Option<Running>>>>>,
}

impl Actor {
    async fn start(&self, arguments: &[&str]) -> Result<Running, String> {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(&*self.endpoints.lock().await).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| format!("etcdctl does not start: {error}"))?;
        let lines = BufReader::new(child.stdout.take().ok_or("etcdctl has no output")?).lines();
        Ok(Running { child, lines })
    }

    async fn take(&self, args: &Value) -> Result<Running, String> {
        let open = self.open.lock().await.remove(args["handle"].as_str().unwrap_or_default());
        let running = open.ok_or_else(|| format!("nothing is open handle={}", args["handle"]))?;
        let running = running.lock().await.take();
        running.ok_or_else(|| "it has ended".into())
    }

    async fn run(&self, op: &str, args: &Value, save: &Value) -> Result<Value, String> {
        let text = |name: &str| args[name].as_str().unwrap_or_default();
        let ttl = "--ttl=5";
        let (running, result) = match op {
            "hello" => {
                let endpoints: Vec<_> =
                    args["endpoints"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                *self.endpoints.lock().await = endpoints.join(",");
                return Ok(json!({ "language": "etcdctl", "version": "" }));
            }
            "mutex.lock" => {
                let mut running = self.start(&["lock", ttl, text("name")]).await?;
                let key = running.line().await?;
                (running, json!({ "key": key }))
            }
            "election.campaign" => {
                let mut running = self.start(&["elect", text("name"), text("value")]).await?;
                let (key, value) = (running.line().await?, running.line().await?);
                (running, json!({ "key": key, "value": value }))
            }
            "election.observe" => (self.start(&["elect", "--listen", text("name")]).await?, json!({})),
            "stream.next" => {
                let open = self.open.lock().await.get(text("handle")).cloned();
                let open = open.ok_or("nothing is open")?;
                let mut running = open.lock().await;
                let running = running.as_mut().ok_or("it has ended")?;
                let (key, value) = (running.line().await?, running.line().await?);
                return Ok(json!({ "event": "elected", "leader": { "key": key, "value": value } }));
            }
            "mutex.unlock" | "election.resign" => return self.take(args).await?.end(Signal::INT).await,
            "guard.drop" | "stream.close" => return self.take(args).await?.end(Signal::KILL).await,
            "bye" => {
                let open: Vec<_> = self.open.lock().await.drain().map(|(_, open)| open).collect();
                for open in open {
                    if let Some(running) = open.lock().await.take() {
                        running.end(Signal::INT).await?;
                    }
                }
                return Ok(json!({}));
            }
            _ => return Err(format!("etcdctl does not do {op}")),
        };
        let save = save.as_str().ok_or_else(|| format!("{op} needs a name to save"))?;
        self.open.lock().await.insert(save.to_owned(), Arc::new(Mutex::new(Some(running))));
        Ok(result)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let (answers, mut ready) = mpsc::unbounded_channel::<Value>();
    tokio::spawn(async move {
        let mut out = tokio::io::stdout();
        while let Some(answer) = ready.recv().await {
            // Whoever does not read any more needs no answer.
            let _ = out.write_all(format!("{answer}\n").as_bytes()).await;
            let _ = out.flush().await;
        }
    });
    let actor = Arc::new(Actor::default());
    let mut calls = tokio::task::JoinSet::new();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let line: Value = serde_json::from_str(&line).unwrap_or_default();
        let (actor, answers) = (actor.clone(), answers.clone());
        calls.spawn(async move {
            let done = actor.run(line["op"].as_str().unwrap_or_default(), &line["args"], &line["save"]).await;
            let answer = match done {
                Ok(result) => json!({ "id": line["id"], "result": result }),
                Err(text) => json!({ "id": line["id"], "fault": text }),
            };
            let _ = answers.send(answer);
        });
    }
    // What still runs is killed where it is dropped.
    calls.shutdown().await;
    actor.open.lock().await.clear();
    ExitCode::SUCCESS
}
