//! The plain HTTP side: health and version, as etcd's tools and orchestrators ask for them.

use bytes::Bytes;
use folkmoot_core::cluster::AlarmKind;
use http::{HeaderValue, Method, Response, StatusCode, Uri, header};
use serde_json::json;

use super::body::ResponseBody;
use crate::node::NodeHandle;
use crate::version::{ETCD_VERSION, storage_version};

/// Answers a request that is not gRPC.
pub async fn answer(node: &NodeHandle, method: &Method, uri: &Uri) -> Response<ResponseBody> {
    let path = uri.path();
    if *method == Method::OPTIONS {
        return text(StatusCode::OK, String::new());
    }
    let query = Query::read(uri.query().unwrap_or(""));
    let slash = path.char_indices().skip(1).find(|(_, c)| *c == '/').map_or(path.len(), |(at, _)| at);
    let (group, check) = match path.split_at(slash) {
        (group @ ("/livez" | "/readyz"), check) => (group, check.trim_start_matches('/')),
        ("/health" | "/version", "") => (path, ""),
        _ => return text(StatusCode::NOT_FOUND, "404 page not found\n".into()),
    };
    if *method != Method::GET {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n".into());
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    match group {
        "/version" => version(node),
        "/health" => health(node, &query).await,
        _ => probe(node, group, check, &query).await,
    }
}

fn version(node: &NodeHandle) -> Response<ResponseBody> {
    let cluster = node.status().cluster_version();
    let cluster = if cluster.is_empty() { "not_decided" } else { &cluster };
    // In etcd's order, whatever order other crates ask serde_json for.
    let body = format!(
        "{{\"etcdserver\":{},\"etcdcluster\":{},\"storage\":{}}}",
        json!(ETCD_VERSION),
        json!(cluster),
        json!(storage_version()),
    );
    let mut response = text(StatusCode::OK, body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

async fn health(node: &NodeHandle, query: &Query) -> Response<ResponseBody> {
    match unhealthy_reason(node, query).await {
        None => text(StatusCode::OK, "{\"health\":\"true\",\"reason\":\"\"}".into()),
        Some(reason) => {
            let body = json!({ "health": "false", "reason": reason });
            text(StatusCode::SERVICE_UNAVAILABLE, format!("{body}\n"))
        }
    }
}

async fn unhealthy_reason(node: &NodeHandle, query: &Query) -> Option<String> {
    for alarm in node.status().alarms().iter() {
        let name = match alarm.kind {
            AlarmKind::NoSpace => "NOSPACE",
            AlarmKind::Corrupt => "CORRUPT",
        };
        if !query.excluded(name) {
            return Some(format!("ALARM {name}"));
        }
    }
    if query.serializable {
        return None;
    }
    if node.status().leader().is_none() {
        return Some("RAFT NO LEADER".into());
    }
    read(node, true).await.err().map(|error| format!("RANGE ERROR:{error}"))
}

/// A read of nothing, which shows whether reads work at all.
async fn read(node: &NodeHandle, linearizable: bool) -> Result<(), String> {
    if linearizable {
        node.read_index().await.map_err(|error| crate::api::status(error).message().to_owned())?;
    }
    // The published state is in memory; nothing about it can fail.
    Ok(())
}

const LIVE_CHECKS: &[&str] = &["serializable_read"];
const READY_CHECKS: &[&str] = &["data_corruption", "serializable_read", "linearizable_read", "non_learner"];

async fn probe(node: &NodeHandle, group: &str, only: &str, query: &Query) -> Response<ResponseBody> {
    let checks = if group == "/livez" { LIVE_CHECKS } else { READY_CHECKS };
    if !only.is_empty() && !checks.contains(&only) {
        return text(StatusCode::NOT_FOUND, "404 page not found\n".into());
    }
    let mut lines = String::new();
    let mut all_good = true;
    for name in checks {
        if (!only.is_empty() && *name != only) || (only.is_empty() && query.excluded(name)) {
            continue;
        }
        match run_check(node, name).await {
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(error) => {
                all_good = false;
                lines.push_str(&format!("[-]{name} failed: {error}\n"));
            }
        }
    }
    match (all_good, query.verbose) {
        (true, true) => text(StatusCode::OK, format!("{lines}ok\n")),
        (true, false) => text(StatusCode::OK, "ok\n".into()),
        (false, _) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{lines}\n")),
    }
}

async fn run_check(node: &NodeHandle, name: &str) -> Result<(), String> {
    match name {
        "data_corruption" => {
            match node.status().alarms().iter().any(|alarm| alarm.kind == AlarmKind::Corrupt) {
                true => Err("alarm activated: CORRUPT".into()),
                false => Ok(()),
            }
        }
        "non_learner" if node.status().learner() => Err("not supported for learner".into()),
        "linearizable_read" => read(node, true).await,
        "serializable_read" => read(node, false).await,
        _ => Ok(()),
    }
}

fn text(status: StatusCode, body: String) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Plain(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if !status.is_success() {
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    response
}

/// The parameters that the endpoints know.
#[derive(Default)]
struct Query {
    serializable: bool,
    verbose: bool,
    exclude: Vec<String>,
}

impl Query {
    fn read(text: &str) -> Self {
        let mut query = Self::default();
        for part in text.split('&') {
            match part.split_once('=').unwrap_or((part, "")) {
                ("serializable", value) => query.serializable = value == "true",
                ("verbose", _) => query.verbose = true,
                ("exclude", value) => query.exclude.push(value.to_owned()),
                _ => {}
            }
        }
        query
    }

    fn excluded(&self, name: &str) -> bool {
        self.exclude.iter().any(|excluded| excluded == name)
    }
}
