//! Follows typed configuration: `cargo run --example config -- http://127.0.0.1:2379`, then
//! `etcdctl put config/example/items/timeout_ms 250`

#![allow(clippy::print_stdout)]

use folkmoot_client::recipes::config::ConfigEvent;
use folkmoot_client::{Client, Result};
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Settings {
    timeout_ms: u64,
    upstreams: Vec<String>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let endpoint = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:2379".into());
    let client = Client::connect([endpoint]).await?;
    let check = |_: Option<&Settings>, new: &Settings| {
        if new.timeout_ms > 60_000 { Err("a timeout is at most a minute") } else { Ok(()) }
    };
    let mut settings = client.config("example").typed::<Settings>().validate(check).open().await?;
    loop {
        match settings.next().await? {
            ConfigEvent::Changed(change) => println!("{:?} {:?}", change.changed_paths, change.new),
            ConfigEvent::Rejected(rejection) => println!("refused: {}", rejection.error),
        }
    }
}
