//! One leader among all copies that run: `cargo run --example elect -- http://127.0.0.1:2379 name`

#![allow(clippy::print_stdout)]

use std::time::Duration;

use folkmoot_client::{Client, Result};

#[tokio::main]
async fn main() -> Result<()> {
    let endpoint = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:2379".into());
    let name = std::env::args().nth(2).unwrap_or_else(|| std::process::id().to_string());
    let client = Client::connect([endpoint]).await?;
    let session = client.session().ttl(Duration::from_secs(10)).open().await?;
    let mut observer = client.observe("jobs/example").await?;
    let watching = async {
        loop {
            println!("{:?}", observer.next().await?);
        }
    };
    let election = session.election("jobs/example");
    let leading = election.run(name, |tenure| async move {
        println!("leading, token {}", tenure.token().revision);
        tokio::time::sleep(Duration::from_secs(2)).await;
    });
    tokio::select! {
        failed = watching => return failed,
        done = leading => done?,
    }
    session.close().await
}
