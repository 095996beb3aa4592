//! A store with faults on demand, for the conformance scenarios that every SDK runs.
//!
//! `folkmoot-testd --store embedded` prints `{"control":"http://127.0.0.1:…"}` and serves until its
//! standard input ends, so that it never outlives whoever started it.
//!
//! Rooms: [`store`] has the members, [`link`] the ways to them, [`admin`] what an operator sees
//! and does, [`world`] joins these and knows the operations, [`control`] serves them over HTTP.
//! `conformance/README.md` describes the operations. Refuses: knowing anything of an SDK.

mod admin;
mod control;
mod link;
mod store;
mod world;

use std::io::Write as _;

use crate::control::Control;
use crate::store::Kind;
use clap::Parser;

/// Why an operation was not done.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It was asked wrongly.
    #[error("{0}")]
    Wrong(String),
    /// It did not work out.
    #[error("{0}")]
    Failed(String),
    /// The system refused something.
    #[error("the system refuses: {0}")]
    Io(#[from] std::io::Error),
}

impl Refusal {
    fn wrong(text: impl Into<String>) -> Self {
        Self::Wrong(text.into())
    }

    fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }
}

#[derive(Parser)]
#[command(version, about = "A store with faults on demand, for the conformance scenarios of the SDKs")]
struct Flags {
    /// embedded (Folkmoot in this process), or a program: etcd, folkmoot, etcd=PATH, folkmoot=PATH.
    #[arg(long, default_value = "embedded", value_parser = Kind::parse)]
    store: Kind,
    /// Where the control endpoint listens.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: std::net::SocketAddr,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let flags = Flags::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("FOLKMOOT_TESTD_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let listener = tokio::net::TcpListener::bind(flags.listen).await?;
    let hello = serde_json::json!({ "control": format!("http://{}", listener.local_addr()?) });
    let mut out = std::io::stdout();
    writeln!(out, "{hello}")?;
    out.flush()?;
    let control = Control::new(flags.store);
    let serving = axum::serve(listener, control.router());
    let (end, ended) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Ends with an error or with the input; both mean that nobody is there any more.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = end.send(());
    });
    tokio::select! {
        served = serving => served?,
        _ = ended => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    control.end().await;
    Ok(())
}
