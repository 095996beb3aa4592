//! An actor: a process in some language that does what it is told, a JSON object a line.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::oneshot;

use crate::scenario::Happening;

const END_MAX: Duration = Duration::from_secs(10);
const ABANDON_MAX: Duration = Duration::from_secs(2);

/// How actors of a language are started.
#[derive(Clone, Debug)]
pub struct Language {
    pub name: String,
    pub command: Vec<String>,
}

impl Language {
    /// Reads `name=command with arguments`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, command) = text.split_once('=').ok_or("an adapter is NAME=COMMAND")?;
        let command: Vec<_> = command.split_whitespace().map(str::to_owned).collect();
        if name.is_empty() || command.is_empty() {
            return Err("an adapter is NAME=COMMAND".into());
        }
        Ok(Self { name: name.to_owned(), command })
    }
}

type Pending = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Value>>>>>;

/// A running actor.
pub struct Adapter {
    child: tokio::sync::Mutex<Child>,
    pid: Pid,
    input: tokio::sync::Mutex<Option<ChildStdin>>,
    /// Calls without an answer; nothing when the process has ended.
    pending: Pending,
    next: AtomicU64,
}

impl Adapter {
    pub fn start(language: &Language) -> Result<Self, String> {
        let mut command = Command::new(&language.command[0]);
        command.args(&language.command[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let started = command.spawn();
        let mut child = started.map_err(|error| format!("{error} command={:?}", language.command))?;
        let pid =
            child.id().and_then(|id| Pid::from_raw(id as i32)).ok_or("the actor's process has no id")?;
        let input = child.stdin.take();
        let mut lines = BufReader::new(child.stdout.take().expect("is piped")).lines();
        let pending: Pending = Arc::new(Mutex::new(Some(HashMap::new())));
        let waiting = pending.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let answer: Value = serde_json::from_str(&line).unwrap_or_default();
                let id = answer["id"].as_u64();
                let call = waiting.lock().as_mut().zip(id).and_then(|(calls, id)| calls.remove(&id));
                // An answer after a cancel; or a line that is none, which the missing answer will show.
                call.map(|call| call.send(answer));
            }
            waiting.lock().take();
        });
        let (child, input) = (tokio::sync::Mutex::new(child), tokio::sync::Mutex::new(input));
        Ok(Self { child, pid, input, pending, next: AtomicU64::new(1) })
    }

    async fn send(&self, line: &Value) -> Result<(), String> {
        let mut input = self.input.lock().await;
        let Some(input) = input.as_mut() else { return Err("the actor's process has ended".into()) };
        let line = format!("{line}\n");
        input.write_all(line.as_bytes()).await.map_err(|error| format!("the actor does not listen: {error}"))
    }

    /// Sends a call. Its number, and where the answer comes.
    pub async fn begin(
        &self,
        op: &str,
        args: &Map<String, Value>,
        save: Option<&str>,
    ) -> Result<(u64, oneshot::Receiver<Value>), String> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        match &mut *self.pending.lock() {
            Some(calls) => calls.insert(id, answer),
            None => return Err("the actor's process has ended".into()),
        };
        self.send(&json!({ "id": id, "op": op, "args": args, "save": save })).await?;
        Ok((id, answered))
    }

    pub async fn call(
        &self,
        op: &str,
        args: &Map<String, Value>,
        save: Option<&str>,
    ) -> Result<Value, String> {
        let (_, answered) = self.begin(op, args, save).await?;
        answered.await.map_err(|_| format!("the actor's process ended before it answered {op}"))
    }

    pub async fn cancel(&self, id: u64) -> Result<(), String> {
        self.send(&json!({ "cancel": id })).await
    }

    pub fn happen(&self, what: Happening) -> Result<(), String> {
        let signal = match what {
            Happening::Pause => Signal::STOP,
            Happening::Resume => Signal::CONT,
            Happening::Kill => Signal::KILL,
        };
        kill_process(self.pid, signal)
            .map_err(|error| format!("the actor's process cannot be signalled: {error}"))
    }

    /// Ends it in any case: with a good-bye of its own if it is able to, so that it can end whatever
    /// it started.
    pub async fn abandon(&self) {
        self.input.lock().await.take();
        let mut child = self.child.lock().await;
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        // It may have been stopped.
        let _ = kill_process(self.pid, Signal::CONT);
        if tokio::time::timeout(ABANDON_MAX, child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
    }

    /// Closes its input, upon which it has to end by itself.
    pub async fn end(&self) -> Result<(), String> {
        self.input.lock().await.take();
        let mut child = self.child.lock().await;
        match tokio::time::timeout(END_MAX, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("the actor's process ended badly: {status}")),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the actor's process is still there {END_MAX:?} after its last call")),
        }
    }
}
