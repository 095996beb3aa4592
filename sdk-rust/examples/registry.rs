//! Registers an instance and picks it: `cargo run --example registry -- http://127.0.0.1:2379`

#![allow(clippy::print_stdout)]

use std::time::Duration;

use folkmoot_client::recipes::registry::{Health, Instance, Policy};
use folkmoot_client::{Client, Result};

#[tokio::main]
async fn main() -> Result<()> {
    let endpoint = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:2379".into());
    let client = Client::connect([endpoint]).await?;
    let registry = client.registry("example");
    let instance = Instance::new("gateway", "127.0.0.1:8080").zone("here").version("1.0");
    let registration = registry.register(instance).health(|| async { Health::Up }).await?;
    let balancer = registry.balancer("gateway", Policy::P2c).await?;
    for _ in 0..3 {
        let pick = balancer.pick()?;
        println!("calling {}", pick.addr());
        let answer: Result<(), ()> = Ok(());
        pick.done(&answer);
    }
    registration.drain(Duration::from_secs(1)).await?;
    registration.deregister().await
}
