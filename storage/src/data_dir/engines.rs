//! Which directory the engine is in, and how another takes its place.
//!
//! ```text
//! engine   names the current directory, with a checksum; while it is absent, that is `db`
//! db       the first engine      db.<n>   engines that came as snapshots, numbered upwards
//! ```
//!
//! Invariants: the current engine is the one that the pointer names, and is complete and durable
//! before the pointer names it; every other engine is waste, whatever it holds, and no number is
//! given to a new one while waste still has it. So a crash leaves the old engine or the new one.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::text::{self, Fields};
use crate::error::{IoContext, StorageError};
use crate::files;

/// Names the current engine.
pub(super) const POINTER: &str = "engine";
/// The next pointer while it is written.
pub(super) const POINTER_BESIDE: &str = "engine.new";
const TITLE: &str = "folkmoot engine";
const FIRST: &str = "db";

/// Number of an engine's directory: 0 is `db`, n is `db.<n>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct EngineNumber(u64);

impl EngineNumber {
    /// The engine that is made with the data directory.
    pub const FIRST: Self = Self(0);

    /// The number of a directory's name; `None` for any other name, also for another spelling of
    /// a number.
    pub fn from_name(name: &str) -> Option<Self> {
        if name == FIRST {
            return Some(Self::FIRST);
        }
        let digits = name.strip_prefix(FIRST)?.strip_prefix('.')?;
        let number = Self(digits.parse().ok().filter(|number| *number > 0)?);
        (number.to_string() == name).then_some(number)
    }
}

impl fmt::Display for EngineNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str(FIRST),
            number => write!(f, "{FIRST}.{number}"),
        }
    }
}

/// The current engine, without touching anything.
pub(super) fn current(dir: &Path) -> Result<EngineNumber, StorageError> {
    let path = dir.join(POINTER);
    if !path.exists() {
        return Ok(EngineNumber::FIRST);
    }
    let bytes = text::read(&path)?;
    let mut fields = Fields::new(&path, &bytes, TITLE)?;
    let name = fields.next("directory")?;
    let number = EngineNumber::from_name(name)
        .ok_or_else(|| fields.damaged("it names something that is no engine"))?;
    let missing = || fields.damaged(&format!("the engine it names is not there; directory={name}"));
    if !dir.join(name).is_dir() {
        return Err(missing());
    }
    fields.check()?;
    Ok(number)
}

/// Removes all engines but this one, and a pointer that was not finished.
pub(super) fn remove_others(dir: &Path, current: EngineNumber) -> Result<(), StorageError> {
    files::remove(&dir.join(POINTER_BESIDE))?;
    let mut removed = false;
    for number in numbers(dir)? {
        if number != current {
            files::remove(&dir.join(number.to_string()))?;
            removed = true;
        }
    }
    if removed { files::sync_dir(dir) } else { Ok(()) }
}

fn numbers(dir: &Path) -> Result<Vec<EngineNumber>, StorageError> {
    let list = || -> io::Result<Vec<_>> {
        let names = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.filter_map(|name| name.map(|name| EngineNumber::from_name(&name)).transpose()).collect()
    };
    list().context("list the data directory", dir)
}

/// The steps of an installation. A crash may come before or after each of them; none is more than
/// one change of the file system that lasts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// The staged files and their directory become durable.
    SyncStaged,
    /// The staged directory becomes `db.<n>`, waste so far.
    Move,
    /// The move becomes durable.
    SyncMove,
    /// The new pointer is written beside the old one, and becomes durable there.
    WritePointer,
    /// The new pointer takes the old one's place.
    ReplacePointer,
    /// The new pointer's place becomes durable.
    SyncPointer,
}

impl Step {
    /// All of them in their order.
    #[cfg(test)]
    pub const ALL: [Self; 6] = [
        Self::SyncStaged,
        Self::Move,
        Self::SyncMove,
        Self::WritePointer,
        Self::ReplacePointer,
        Self::SyncPointer,
    ];
}

/// A number that no engine has, larger than all that have one.
pub(super) fn next_number(dir: &Path) -> Result<EngineNumber, StorageError> {
    let newest = numbers(dir)?.into_iter().max().unwrap_or_default();
    Ok(EngineNumber(newest.0 + 1))
}

/// Makes a staged directory the current engine, as this number. `before` is asked before each
/// step, and ends the installation there when it refuses; what was done so far stays as it is.
///
/// `NoSpace` means that the pointer was not replaced. After any other error it may have been.
pub(super) fn install(
    dir: &Path,
    staged: &Path,
    number: EngineNumber,
    before: &mut dyn FnMut(Step) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    before(Step::SyncStaged)?;
    sync_all(staged)?;
    before(Step::Move)?;
    fs::rename(staged, dir.join(number.to_string())).context("rename a directory", staged)?;
    before(Step::SyncMove)?;
    files::sync_dir(dir)?;
    files::sync_parent(staged)?;
    before(Step::WritePointer)?;
    let (pointer, beside) = (dir.join(POINTER), dir.join(POINTER_BESIDE));
    files::write(&beside, &text::encode(TITLE, &[("directory", number.to_string())]))?;
    before(Step::ReplacePointer)?;
    fs::rename(&beside, &pointer).context("rename a file", &pointer)?;
    before(Step::SyncPointer)?;
    // From here on nobody can tell which engine the next start finds, so that this is never
    // reported as a full disk, after which the old engine would go on.
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(|source| StorageError::Io {
        action: "sync a directory",
        path: dir.to_owned(),
        source: Arc::new(source),
    })
}

/// Every file of a directory, then the directory. Engines have no directories below.
fn sync_all(dir: &Path) -> Result<(), StorageError> {
    for entry in fs::read_dir(dir).context("list a directory", dir)? {
        let path = entry.context("list a directory", dir)?.path();
        fs::File::open(&path).and_then(|file| file.sync_all()).context("sync a file", &path)?;
    }
    files::sync_dir(dir)
}

/// Takes back what [`install`] left when it failed before the pointer was replaced, to give back
/// the space. What cannot be removed goes at the next start.
pub(super) fn discard(dir: &Path, staged: &Path, number: EngineNumber) {
    for path in [staged, &dir.join(number.to_string()), &dir.join(POINTER_BESIDE)] {
        // What matters is why the installation failed.
        let _ = files::remove(path);
    }
}
