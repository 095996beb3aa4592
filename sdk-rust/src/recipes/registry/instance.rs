//! What an instance says about itself, and how that lies in the store.
//!
//! The value is the one of etcd's naming package — `Op`, `Addr`, `Metadata` — with our record as
//! metadata, so that its resolvers find our instances and we find theirs.

use std::collections::BTreeMap;

use rand::RngExt as _;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How an instance is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Health {
    /// Not ready yet.
    Starting,
    /// Ready.
    #[default]
    Up,
    /// Works, but is used only if nothing better is there.
    Degraded,
    /// Finishes what it has and takes nothing new.
    Draining,
    /// Does not work.
    Down,
    /// Taken out by an operator.
    Maintenance,
}

/// An instance of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Instance {
    v: u32,
    /// Its id within the service; made up if empty.
    pub id: String,
    /// The service.
    pub service: String,
    /// The namespace of the registry.
    pub namespace: String,
    /// Host or address.
    #[serde(rename = "addr")]
    pub host: String,
    /// Port.
    pub port: u16,
    /// More ports by name.
    pub ports: BTreeMap<String, u16>,
    /// Its share of the work; 0 takes none.
    pub weight: u32,
    /// How it is.
    pub health: Health,
    /// The version of its program.
    pub version: String,
    /// Where it runs; the same zone is preferred.
    pub zone: String,
    /// Anything else.
    pub attrs: BTreeMap<String, String>,
    /// Tells one start of an instance from the next.
    pub incarnation: String,
    /// The time of its session, in seconds.
    pub ttl: u64,
}

impl Default for Instance {
    fn default() -> Self {
        Self {
            v: 1,
            id: String::new(),
            service: String::new(),
            namespace: String::new(),
            host: String::new(),
            port: 0,
            ports: BTreeMap::new(),
            weight: 100,
            health: Health::Up,
            version: String::new(),
            zone: String::new(),
            attrs: BTreeMap::new(),
            incarnation: String::new(),
            ttl: 0,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Value {
    #[serde(rename = "Op", default)]
    op: u8,
    #[serde(rename = "Addr", default)]
    addr: String,
    #[serde(rename = "Metadata", default)]
    metadata: serde_json::Value,
}

impl Instance {
    /// An instance of this service at `host:port`.
    pub fn new(service: impl Into<String>, address: impl AsRef<str>) -> Self {
        let (host, port) = split(address.as_ref());
        Self { service: service.into(), host, port, ..Self::default() }
    }

    /// Its id within the service. Made up if not said.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }

    /// Its share of the work; 100 if not said.
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// Where it runs.
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = zone.into();
        self
    }

    /// The version of its program.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// How it is at first; up if not said.
    pub fn health(mut self, health: Health) -> Self {
        self.health = health;
        self
    }

    /// One more port.
    pub fn port_named(mut self, name: impl Into<String>, port: u16) -> Self {
        self.ports.insert(name.into(), port);
        self
    }

    /// Something else worth knowing.
    pub fn attr(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attrs.insert(name.into(), value.into());
        self
    }

    /// `host:port`.
    pub fn addr(&self) -> String {
        match (self.host.contains(':'), self.port) {
            (_, 0) => self.host.clone(),
            (true, port) => format!("[{}]:{port}", self.host),
            (false, port) => format!("{}:{port}", self.host),
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        for (what, text) in [("service", &self.service), ("id", &self.id)] {
            if text.is_empty() || text.contains('/') {
                return Err(Error::invalid(format!(
                    "the {what} of an instance is a text without slashes {what}={text:?}"
                )));
            }
        }
        if self.host.is_empty() {
            return Err(Error::invalid("an instance has an address, host:port"));
        }
        Ok(())
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let metadata = serde_json::to_value(self).expect("texts and numbers are JSON");
        serde_json::to_vec(&Value { op: 0, addr: self.addr(), metadata }).expect("texts and numbers are JSON")
    }

    /// The same record with another health and everything else as it is, also what this version does
    /// not know. `None` if it is a record that cannot have one.
    pub(crate) fn with_health(bytes: &[u8], health: Health) -> Option<Vec<u8>> {
        let mut value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
        let metadata = value.as_object_mut()?.entry("Metadata").or_insert(serde_json::Value::Null);
        if metadata.is_null() {
            *metadata = serde_json::Value::Object(serde_json::Map::new());
        }
        let health = serde_json::to_value(health).expect("a name is JSON");
        metadata.as_object_mut()?.insert("health".into(), health);
        serde_json::to_vec(&value).ok()
    }

    /// Reads what is under a key. `None` if it is no address of anything.
    pub(crate) fn decode(namespace: &str, service: &str, id: &str, bytes: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        // What others write has metadata of its own kind, or none.
        let mut instance: Self = serde_json::from_value(value.metadata).unwrap_or_default();
        if instance.host.is_empty() {
            if value.addr.is_empty() {
                return None;
            }
            (instance.host, instance.port) = split(&value.addr);
        }
        id.clone_into(&mut instance.id);
        service.clone_into(&mut instance.service);
        namespace.clone_into(&mut instance.namespace);
        Some(instance)
    }
}

fn split(address: &str) -> (String, u16) {
    match address.rsplit_once(':') {
        Some((host, port)) if let Ok(port) = port.parse() => {
            (host.trim_start_matches('[').trim_end_matches(']').to_owned(), port)
        }
        _ => (address.to_owned(), 0),
    }
}

/// A name that sorts by time and that nobody else makes: 48 bits of milliseconds and 80 of chance.
pub(crate) fn unique() -> String {
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let chance: u128 = rand::rng().random::<u128>() >> 48;
    let number = (since.as_millis() << 80) | chance;
    (0..26).rev().map(|digit| DIGITS[(number >> (digit * 5)) as usize & 31] as char).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_its_bytes() {
        let instance =
            Instance::new("gateway", "10.0.3.7:8080").id("gw").weight(7).zone("a").attr("p", "http");
        let text = instance.encode();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(json["Op"], 0);
        assert_eq!(json["Addr"], "10.0.3.7:8080");
        assert_eq!(json["Metadata"]["health"], "UP");
        assert_eq!(json["Metadata"]["addr"], "10.0.3.7");
        let read = Instance::decode("", "gateway", "gw", &text).unwrap();
        assert_eq!(read, instance);
    }

    #[test]
    fn what_others_write_gets_defaults() {
        for text in [
            r#"{"Op":0,"Addr":"h:1"}"#,
            r#"{"Op":0,"Addr":"h:1","Metadata":null}"#,
            r#"{"Op":0,"Addr":"h:1","Metadata":"blue"}"#,
            r#"{"Addr":"h:1","Metadata":{"colour":"blue"}}"#,
        ] {
            let read = Instance::decode("n", "s", "i", text.as_bytes()).unwrap();
            assert_eq!(
                (read.addr(), read.weight, read.health, read.zone.as_str()),
                ("h:1".into(), 100, Health::Up, "")
            );
        }
        assert!(Instance::decode("n", "s", "i", b"nonsense").is_none());
        assert!(Instance::decode("n", "s", "i", br#"{"Op":0,"Addr":""}"#).is_none());
    }

    #[test]
    fn addresses_have_two_parts() {
        assert_eq!(Instance::new("s", "[::1]:80").addr(), "[::1]:80");
        assert_eq!(Instance::new("s", "host").addr(), "host");
    }

    #[test]
    fn unique_names_grow_with_time() {
        let first = unique();
        assert_eq!(first.len(), 26);
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(first < unique());
    }
}
