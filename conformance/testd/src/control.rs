//! The control endpoint: JSON over HTTP, one path an operation.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::Refusal;
use crate::store::Kind;
use crate::world::{Op, World};

/// What all requests share.
pub struct Control {
    kind: Kind,
    worlds: Mutex<HashMap<String, Arc<World>>>,
    next: AtomicU64,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Wrong(_) => StatusCode::BAD_REQUEST,
            Self::Failed(_) | Self::Io(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(json!({ "error": self.to_string() }))).into_response()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default = "one")]
    members: usize,
}

fn one() -> usize {
    1
}

impl Control {
    /// A control of worlds of this kind.
    pub fn new(kind: Kind) -> Arc<Self> {
        Arc::new(Self { kind, worlds: Mutex::default(), next: AtomicU64::new(1) })
    }

    /// The paths.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/", get(about))
            .route("/worlds", post(create))
            .route("/worlds/{world}", axum::routing::delete(end))
            .route("/worlds/{world}/{op}", post(run))
            .with_state(self.clone())
    }

    /// Ends all worlds.
    pub async fn end(&self) {
        let worlds: Vec<_> = self.worlds.lock().drain().map(|(_, world)| world).collect();
        for world in worlds {
            world.end().await;
        }
    }

    fn world(&self, name: &str) -> Result<Arc<World>, Refusal> {
        let world = self.worlds.lock().get(name).cloned();
        world.ok_or_else(|| Refusal::wrong(format!("there is no such world world={name:?}")))
    }

    /// What scenarios may require, beside the faults that every store has.
    fn abilities(&self) -> Vec<&'static str> {
        let mut can = vec!["members", "faults"];
        if self.kind.is_etcd() {
            can.push("auth");
        }
        can
    }
}

async fn about(State(control): State<Arc<Control>>) -> Json<Value> {
    Json(json!({
        "name": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "store": control.kind.name(),
        "can": control.abilities(),
    }))
}

async fn create(State(control): State<Arc<Control>>, body: String) -> Result<Json<Value>, Refusal> {
    let body = if body.trim().is_empty() { "{}" } else { &body };
    let wanted: Wanted = serde_json::from_str(body).map_err(|error| Refusal::wrong(error.to_string()))?;
    let world = World::start(control.kind.clone(), wanted.members).await?;
    let name = format!("w{}", control.next.fetch_add(1, Ordering::Relaxed));
    control.worlds.lock().insert(name.clone(), Arc::new(world));
    Ok(Json(json!({ "world": name, "members": wanted.members })))
}

async fn end(State(control): State<Arc<Control>>, Path(world): Path<String>) -> Result<Json<Value>, Refusal> {
    let gone = control.world(&world)?;
    control.worlds.lock().remove(&world);
    gone.end().await;
    Ok(Json(json!({})))
}

async fn run(
    State(control): State<Arc<Control>>,
    Path((world, op)): Path<(String, String)>,
    body: String,
) -> Result<Json<Value>, Refusal> {
    let world = control.world(&world)?;
    let body = if body.trim().is_empty() { "{}" } else { &body };
    let args: Map<String, Value> = serde_json::from_str(body)
        .map_err(|error| Refusal::wrong(format!("arguments are one JSON object: {error}")))?;
    let wanted = json!({ op.clone(): args });
    let parsed: Op =
        serde_json::from_value(wanted).map_err(|error| Refusal::wrong(format!("{error} op={op:?}")))?;
    world.run(parsed).await.map(Json)
}
