//! Records as tuples, and tuples as records. The dataclasses are made of them in Python.

use std::time::Duration;

use folkmoot_bridge as bridge;
use folkmoot_bridge::Bytes;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::error::exception;
use crate::stream::Stream;

/// What a call answers, for Python.
pub(crate) trait ToPy {
    fn to_py(self, py: Python<'_>) -> PyResult<Py<PyAny>>;
}

/// For types that Python knows.
macro_rules! plain {
    ($($type:ty)*) => {
        $(impl ToPy for $type {
            fn to_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
                Ok(self.into_pyobject(py)?.to_owned().into_any().unbind())
            }
        })*
    };
}
plain! { bool i64 u64 u32 u16 f64 String }

impl ToPy for () {
    fn to_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(py.None())
    }
}

impl ToPy for Bytes {
    fn to_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(PyBytes::new(py, &self).into_any().unbind())
    }
}

impl ToPy for Duration {
    fn to_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.as_secs_f64().to_py(py)
    }
}

impl<T: ToPy> ToPy for Option<T> {
    fn to_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.map_or_else(|| Ok(py.None()), |value| value.to_py(py))
    }
}

impl<T: ToPy> ToPy for Vec<T> {
    fn to_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let items = self.into_iter().map(|item| item.to_py(py)).collect::<PyResult<Vec<_>>>()?;
        Ok(PyTuple::new(py, items)?.into_any().unbind())
    }
}

impl<A: ToPy, B: ToPy> ToPy for (A, B) {
    fn to_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        tuple(py, [self.0.to_py(py)?, self.1.to_py(py)?])
    }
}

impl ToPy for bridge::BridgeError {
    fn to_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(exception(py, self)?.unbind())
    }
}

fn tuple<const N: usize>(py: Python<'_>, items: [Py<PyAny>; N]) -> PyResult<Py<PyAny>> {
    Ok(PyTuple::new(py, items)?.into_any().unbind())
}

/// A record as the tuple of these fields.
macro_rules! record {
    ($($type:ident { $($field:ident),* })*) => {
        $(impl ToPy for bridge::$type {
            fn to_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
                tuple(py, [$(self.$field.to_py(py)?),*])
            }
        })*
    };
}

record! {
    HeaderRecord { cluster_id, member_id, revision, raft_term }
    KeyValueRecord { key, value, create_revision, mod_revision, version, lease }
    GetResult { header, kvs, more, count }
    PutResult { header, prev }
    DeleteResult { header, deleted, prev }
    TxnResult { header, succeeded, responses }
    TokenRecord { cluster_id, revision, key }
    EventRecord { is_delete, kv, prev }
    WatchBatchRecord { revision, events }
    LeaseRecord { id, ttl }
    LeaseTtlRecord { granted, remaining, keys }
    MemberRecord { id, name, peer_urls, client_urls, is_learner }
    StatusRecord {
        header, version, db_size_bytes, db_size_in_use_bytes, leader, raft_index, raft_term,
        raft_applied_index, errors, is_learner
    }
    AlarmRecord { member_id, is_corrupt }
    HashRecord { header, hash, compact_revision }
    PermissionRecord { read, write, key, range_end }
    ContenderRecord { key, owner, lease, revision }
    LeaderRecord { key, value, token, revision }
    ConfigItem { path, value }
}

/// By the name of its kind, then its content.
impl ToPy for bridge::OpResult {
    fn to_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let (kind, content) = match self {
            Self::Get(get) => ("get", get.to_py(py)?),
            Self::Put(put) => ("put", put.to_py(py)?),
            Self::Delete(delete) => ("delete", delete.to_py(py)?),
            Self::Txn(txn) => ("txn", txn.to_py(py)?),
        };
        tuple(py, [kind.to_owned().to_py(py)?, content])
    }
}

impl ToPy for bridge::SessionStateRecord {
    fn to_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let text = match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Expired => "expired",
            Self::LeaseGone => "lease_gone",
            Self::ClusterReset => "cluster_reset",
            Self::Closed => "closed",
        };
        text.to_owned().to_py(py)
    }
}

impl ToPy for bridge::LeaderEventRecord {
    fn to_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let (kind, content) = match self {
            Self::Elected(leader) => ("elected", leader.to_py(py)?),
            Self::Updated(leader) => ("updated", leader.to_py(py)?),
            Self::Vacant(revision) => ("vacant", revision.to_py(py)?),
        };
        tuple(py, [kind.to_owned().to_py(py)?, content])
    }
}

const HEALTHS: [(&str, bridge::HealthRecord); 6] = [
    ("STARTING", bridge::HealthRecord::Starting),
    ("UP", bridge::HealthRecord::Up),
    ("DEGRADED", bridge::HealthRecord::Degraded),
    ("DRAINING", bridge::HealthRecord::Draining),
    ("DOWN", bridge::HealthRecord::Down),
    ("MAINTENANCE", bridge::HealthRecord::Maintenance),
];

impl ToPy for bridge::HealthRecord {
    fn to_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let (text, _) = HEALTHS.iter().find(|(_, health)| *health == self).expect("all are in the list");
        (*text).to_owned().to_py(py)
    }
}

/// One of a list of names.
pub(crate) fn named<T: Copy>(what: &str, text: &str, names: &[(&str, T)]) -> PyResult<T> {
    let known = names.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    known.ok_or_else(|| {
        let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        PyValueError::new_err(format!("{what} is one of {}, not {text:?}", names.join(", ")))
    })
}

pub(crate) fn health(text: &str) -> PyResult<bridge::HealthRecord> {
    named("health", text, &HEALTHS)
}

impl ToPy for bridge::InstanceRecord {
    fn to_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let ports = self.ports.into_pyobject(py)?.into_any().unbind();
        let attrs = self.attrs.into_pyobject(py)?.into_any().unbind();
        tuple(
            py,
            [
                self.id.to_py(py)?,
                self.service.to_py(py)?,
                self.namespace.to_py(py)?,
                self.host.to_py(py)?,
                self.port.to_py(py)?,
                ports,
                self.weight.to_py(py)?,
                self.health.to_py(py)?,
                self.version.to_py(py)?,
                self.zone.to_py(py)?,
                attrs,
                self.incarnation.to_py(py)?,
                self.ttl.to_py(py)?,
                self.addr.to_py(py)?,
            ],
        )
    }
}

impl ToPy for bridge::RegistrationEventRecord {
    fn to_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self {
            Self::Reregistered(epoch) => ("reregistered".to_owned(), epoch).to_py(py),
            Self::Conflict => ("conflict".to_owned(), 0_u64).to_py(py),
        }
    }
}

impl ToPy for bridge::ServiceEventRecord {
    fn to_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let kind = |kind: &str| kind.to_owned().to_py(py);
        match self {
            Self::Snapshot { instances, revision } => {
                tuple(py, [kind("snapshot")?, instances.to_py(py)?, revision.to_py(py)?])
            }
            Self::Delta { added, updated, removed, revision, resync } => tuple(
                py,
                [
                    kind("delta")?,
                    added.to_py(py)?,
                    updated.to_py(py)?,
                    removed.to_py(py)?,
                    revision.to_py(py)?,
                    resync.to_py(py)?,
                ],
            ),
            Self::Stale => tuple(py, [kind("stale")?]),
            Self::Fresh => tuple(py, [kind("fresh")?]),
        }
    }
}

impl ToPy for bridge::ConfigSource {
    fn to_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let text = match self {
            Self::Live => "live",
            Self::DiskCache => "disk_cache",
        };
        text.to_owned().to_py(py)
    }
}

/// What the language made of it.
impl ToPy for bridge::ConfigDocument {
    fn to_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let object = self.attachment.as_ref().and_then(|object| object.downcast_ref::<Py<PyAny>>());
        Ok(object.map_or_else(|| py.None(), |object| object.clone_ref(py)))
    }
}

impl ToPy for bridge::ConfigState {
    fn to_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        tuple(py, [self.document.to_py(py)?, self.revision.to_py(py)?, self.source.to_py(py)?])
    }
}

impl ToPy for bridge::ConfigEventRecord {
    fn to_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self {
            Self::Changed { old, new, changed_paths, revision, source } => tuple(
                py,
                [
                    "changed".to_owned().to_py(py)?,
                    old.to_py(py)?,
                    new.to_py(py)?,
                    changed_paths.to_py(py)?,
                    revision.to_py(py)?,
                    source.to_py(py)?,
                ],
            ),
            Self::Rejected { revision, error } => {
                tuple(py, ["rejected".to_owned().to_py(py)?, revision.to_py(py)?, error.to_py(py)?])
            }
        }
    }
}

/// Handles.
macro_rules! handles {
    ($($type:path => $class:ty),* $(,)?) => {
        $(impl ToPy for $type {
            fn to_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
                Ok(Bound::new(py, <$class>::from(self))?.into_any().unbind())
            }
        })*
    };
}
handles! {
    bridge::WatchStream => Stream,
    bridge::LeaderStream => Stream,
    bridge::ServiceStream => Stream,
    bridge::SnapshotStream => Stream,
    bridge::Session => crate::recipes::Session,
    bridge::Guard => crate::recipes::Guard,
    bridge::Leadership => crate::recipes::Leadership,
    bridge::Registration => crate::registry::Registration,
    bridge::Balancer => crate::registry::Balancer,
    bridge::ConfigReader => crate::config::ConfigReader,
}

pub(crate) fn bytes(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// Seconds, which Python has checked to be a finite number that is not negative.
pub(crate) fn duration(seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|error| PyValueError::new_err(format!("not a time in seconds: {error} seconds={seconds}")))
}

pub(crate) fn durations(seconds: Option<f64>) -> PyResult<Option<Duration>> {
    seconds.map(duration).transpose()
}

/// `(kind, first, end)`.
pub(crate) struct Keys(pub bridge::KeySet);

impl<'a, 'py> FromPyObject<'a, 'py> for Keys {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let object = object.to_owned();
        let (kind, first, end): (String, Vec<u8>, Vec<u8>) = object.extract()?;
        let (first, end) = (Bytes::from(first), Bytes::from(end));
        Ok(Self(match kind.as_str() {
            "one" => bridge::KeySet::One(first),
            "prefix" => bridge::KeySet::Prefix(first),
            "range" => bridge::KeySet::Range(first, end),
            "from" => bridge::KeySet::From(first),
            "all" => bridge::KeySet::All,
            other => return Err(PyValueError::new_err(format!("no kind of keys: {other}"))),
        }))
    }
}

const SORTS: [(&str, bridge::SortTarget); 5] = [
    ("key", bridge::SortTarget::Key),
    ("version", bridge::SortTarget::Version),
    ("create", bridge::SortTarget::Create),
    ("mod", bridge::SortTarget::Mod),
    ("value", bridge::SortTarget::Value),
];

type GetTuple = (Keys, i64, i64, Option<String>, bool, bool, bool, bool, (i64, i64, i64, i64));

/// A read as a tuple.
pub(crate) struct Get(pub bridge::GetRecord);

impl<'a, 'py> FromPyObject<'a, 'py> for Get {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let object = object.to_owned();
        let (keys, limit, revision, sort, descending, serializable, keys_only, count_only, bounds): GetTuple =
            object.extract()?;
        let sort = sort.map(|sort| named("sort_by", &sort, &SORTS)).transpose()?;
        let (min_mod_revision, max_mod_revision, min_create_revision, max_create_revision) = bounds;
        Ok(Self(bridge::GetRecord {
            keys: keys.0,
            limit,
            revision,
            sort,
            descending,
            serializable,
            keys_only,
            count_only,
            min_mod_revision,
            max_mod_revision,
            min_create_revision,
            max_create_revision,
        }))
    }
}

type PutTuple = (Vec<u8>, Vec<u8>, i64, bool, bool, bool);

fn put(tuple: PutTuple) -> bridge::PutRecord {
    let (key, value, lease, prev, keep_value, keep_lease) = tuple;
    bridge::PutRecord { key: key.into(), value: value.into(), lease, prev, keep_value, keep_lease }
}

struct Op(bridge::OpRecord);

impl<'a, 'py> FromPyObject<'a, 'py> for Op {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let (kind, content): (String, Bound<'py, PyAny>) = object.to_owned().extract()?;
        Ok(Self(match kind.as_str() {
            "get" => bridge::OpRecord::Get(content.extract::<Get>()?.0),
            "put" => bridge::OpRecord::Put(put(content.extract()?)),
            "delete" => {
                let (keys, prev): (Keys, bool) = content.extract()?;
                bridge::OpRecord::Delete(bridge::DeleteRecord { keys: keys.0, prev })
            }
            "txn" => bridge::OpRecord::Txn(content.extract::<Txn>()?.0),
            other => return Err(PyValueError::new_err(format!("no kind of operation: {other}"))),
        }))
    }
}

const WITH: [(&str, bridge::CompareWith); 4] = [
    ("==", bridge::CompareWith::Equal),
    ("!=", bridge::CompareWith::NotEqual),
    (">", bridge::CompareWith::Greater),
    ("<", bridge::CompareWith::Less),
];

struct Compare(bridge::CompareRecord);

impl<'a, 'py> FromPyObject<'a, 'py> for Compare {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let object = object.to_owned();
        let (keys, target, with, operand): (Keys, String, String, Bound<'py, PyAny>) = object.extract()?;
        let target = match target.as_str() {
            "create" => bridge::CompareTarget::Create(operand.extract()?),
            "mod" => bridge::CompareTarget::Mod(operand.extract()?),
            "version" => bridge::CompareTarget::Version(operand.extract()?),
            "lease" => bridge::CompareTarget::Lease(operand.extract()?),
            "value" => bridge::CompareTarget::Value(Bytes::from(operand.extract::<Vec<u8>>()?)),
            other => return Err(PyTypeError::new_err(format!("nothing to compare: {other}"))),
        };
        let with = named("the comparison", &with, &WITH)?;
        Ok(Self(bridge::CompareRecord { keys: keys.0, with, target }))
    }
}

/// A transaction as a tuple of three lists.
pub(crate) struct Txn(pub bridge::TxnRecord);

impl<'a, 'py> FromPyObject<'a, 'py> for Txn {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let (compares, success, failure): (Vec<Compare>, Vec<Op>, Vec<Op>) = object.to_owned().extract()?;
        Ok(Self(bridge::TxnRecord {
            compares: compares.into_iter().map(|compare| compare.0).collect(),
            success: success.into_iter().map(|op| op.0).collect(),
            failure: failure.into_iter().map(|op| op.0).collect(),
        }))
    }
}
