//! Holds a lock while it works: `cargo run --example lock -- http://127.0.0.1:2379`

#![allow(clippy::print_stdout)]

use std::time::Duration;

use folkmoot_client::{Client, Result};

#[tokio::main]
async fn main() -> Result<()> {
    let endpoint = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:2379".into());
    let client = Client::connect([endpoint]).await?;
    let session = client.session().ttl(Duration::from_secs(10)).open().await?;
    let guard = session.mutex("locks/example").owner(std::process::id().to_string()).lock().await?;
    println!("holding, token {}", guard.token().revision);
    let work = async {
        for step in 1..=3 {
            guard.txn().put("example/step", step.to_string()).commit().await?;
            println!("step {step}");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        Ok(())
    };
    tokio::select! {
        why = guard.lost() => return Err(why),
        done = work => done?,
    }
    guard.unlock().await?;
    session.close().await
}
