//! A backend of the gateway, in Rust: `example-backend ENDPOINTS ID`.
//!
//! It registers itself as an instance of the service `greeter`. On `SIGTERM` it drains: it says in the
//! registry that it takes nothing new, and ends when what it has is answered.

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::future::IntoFuture as _;
use std::time::Duration;

use axum::{Router, routing::get};
use folkmoot_client::Client;
use folkmoot_client::recipes::registry::{Instance, OnConflict};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let (Some(endpoints), Some(id)) = (words.next(), words.next()) else {
        return Err("usage: example-backend ENDPOINTS ID".into());
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let greeting = format!("hello from {id}, in Rust\n");
    let app = Router::new().fallback(get(async move || greeting));
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async { stopped.await.unwrap_or_default() };
    let serving = tokio::spawn(axum::serve(listener, app).with_graceful_shutdown(stopped).into_future());
    let mut terminate = signal(SignalKind::terminate())?;

    let client = Client::connect(endpoints.split(',')).await?;
    let registry = client.registry("example");
    // An id that stays the same over restarts; the new process takes the place of one that died.
    let instance = Instance::new("greeter", address.to_string()).id(&id);
    let registration = registry.register(instance).on_conflict(OnConflict::Takeover).open().await?;
    println!("registered {id} at {address}");

    terminate.recv().await;
    println!("draining {id}");
    registration.drain(Duration::from_secs(2)).await?;
    drop(stop);
    serving.await??;
    registration.deregister().await?;
    println!("stopped {id}");
    Ok(())
}
