//! The client for Rust as an actor of the conformance scenarios: one JSON object a line comes in, is
//! done, and is answered. `conformance/README.md` describes the protocol and every operation.

mod ops;
mod show;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::sync::mpsc;

use crate::ops::{Actor, Failure};

#[tokio::main]
async fn main() {
    let (answers, mut ready) = mpsc::unbounded_channel::<Value>();
    let writing = tokio::spawn(async move {
        let mut out = tokio::io::stdout();
        while let Some(answer) = ready.recv().await {
            // Whoever does not read any more needs no answer.
            let _ = out.write_all(format!("{answer}\n").as_bytes()).await;
            let _ = out.flush().await;
        }
    });
    let actor = Arc::new(Actor::default());
    let calls = Arc::new(Mutex::new(HashMap::new()));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let line: Value = serde_json::from_str(&line).unwrap_or_default();
        if let Some(id) = line["cancel"].as_u64() {
            let task: Option<tokio::task::JoinHandle<()>> = calls.lock().remove(&id);
            if let Some(task) = task {
                // To drop the future is how a call is cancelled in Rust.
                task.abort();
                if task.await.is_err() {
                    let _ = answers.send(json!({ "id": id, "cancelled": true }));
                }
            }
            continue;
        }
        let (actor, answers, running) = (actor.clone(), answers.clone(), calls.clone());
        let id = line["id"].as_u64().unwrap_or_default();
        let mut calls = calls.lock();
        let task = tokio::spawn(async move {
            let done =
                ops::run(&actor, line["op"].as_str().unwrap_or_default(), &line["args"], &line["save"]);
            let answer = match done.await {
                Ok(result) => json!({ "id": id, "result": result }),
                Err(Failure::Error(error)) => json!({ "id": id, "error": error }),
                Err(Failure::Fault(text)) => json!({ "id": id, "fault": text }),
            };
            running.lock().remove(&id);
            let _ = answers.send(answer);
        });
        calls.insert(id, task);
    }
    // Nobody is there any more, as after a crash: what is open ends with the process.
    drop(answers);
    calls.lock().drain().for_each(|(_, task)| task.abort());
    let _ = writing.await;
}
