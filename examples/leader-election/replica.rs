//! A replica of the job, in Rust: `example-replica ENDPOINTS NAME`.
//!
//! Of all replicas one leads and does the job: once in a while it numbers a report. Each write goes
//! through the transaction of the leadership, so that the store refuses it once somebody else leads.

#![allow(clippy::print_stdout)]

use std::time::Duration;

use folkmoot_client::{Client, ErrorKind, Leadership, Result};

const ELECTION: &str = "example/report/leader";
const LAST: &str = "example/report/last";

/// Numbers reports, one after the other, until the leadership is lost.
async fn job(client: &Client, name: &str, leadership: &Leadership) -> Result<()> {
    let token = leadership.token().revision;
    loop {
        let last = client.get(LAST).await?;
        let text = last.first().map(|kv| String::from_utf8_lossy(&kv.value));
        let number = text.and_then(|text| text.split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) + 1;
        leadership.txn().put(LAST, format!("{number} {name} {token}")).commit().await?;
        println!("report {number} token={token}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let endpoints = words.next().unwrap_or_else(|| "127.0.0.1:2379".into());
    let name = words.next().unwrap_or_else(|| "rust".into());
    let client = Client::connect(endpoints.split(',')).await?;
    loop {
        let session = client.session().ttl(Duration::from_secs(5)).open().await?;
        println!("waiting {name}");
        let leadership = session.election(ELECTION).campaign(&name).await?;
        println!("leading token={}", leadership.token().revision);
        let Err(error) = job(&client, &name, &leadership).await else { return Ok(()) };
        match error.kind() {
            // Somebody else may lead by now. What was held is gone; it begins again as a candidate.
            ErrorKind::SessionLost | ErrorKind::NotLeader => {
                println!("refused token={} {error}", leadership.token().revision);
            }
            _ => return Err(error),
        }
    }
}
