//! A key of ours in a line, and what a line is made of.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;

use super::contest::{is_passing, persist, read_key};
use super::fence::FencingToken;
use super::sweep::sweep;
use crate::backoff::Backoff;
use crate::error::{Error, ErrorKind, Result};
use crate::kv::{Compare, Delete, EventKind, Get, Is, KeyValue, Keys, Order, Put, SortBy, Txn};
use crate::session::Session;
use crate::watch::Watcher;

/// Whose turn it is, as one transaction saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Ours.
    Mine,
    /// We wait for this key.
    After { key: Bytes, lease: i64 },
    /// Our key is gone.
    Gone,
}

/// Reads the turn from whether our key stands and who came to be last before us.
pub(crate) fn turn(stands: bool, predecessor: Option<&KeyValue>) -> Turn {
    match (stands, predecessor) {
        (false, _) => Turn::Gone,
        (true, None) => Turn::Mine,
        (true, Some(kv)) => Turn::After { key: kv.key.clone(), lease: kv.lease },
    }
}

/// A key of ours in the line.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub session: Session,
    pub name: String,
    pub key: Bytes,
    /// When the key came to be: our place, and later the fencing token.
    pub created: i64,
    /// Up to where the store was read.
    pub seen: i64,
    /// Whether an attempt to put the key may still be on its way.
    pub doubtful: bool,
}

/// All keys of the line.
pub(crate) fn prefix(name: &str) -> String {
    format!("{name}/")
}

/// The key of a session in the line.
pub(crate) fn key_of(name: &str, lease: i64) -> Bytes {
    format!("{name}/{lease:x}").into()
}

/// The first in the line.
pub(crate) fn first(name: &str) -> Get {
    Get::prefix(prefix(name)).sort(SortBy::Create, Order::Ascending).limit(1)
}

pub(crate) fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.ends_with('/') {
        return Err(Error::invalid(format!(
            "a name is not empty and does not end with a slash name={name:?}"
        )));
    }
    Ok(())
}

impl Place {
    pub fn stands(&self) -> Compare {
        Compare::create_revision(self.key.clone(), Is::Equal, self.created)
    }

    /// Deletes the key, if it is still this one. Answers whether it was.
    pub async fn leave(&self) -> Result<bool> {
        let txn = Txn::new().when(self.stands()).and_then(Delete::new(self.key.clone()));
        let answer = persist(&self.session, &txn).await?;
        if self.doubtful {
            sweep(&self.session, &self.name, answer.header.revision);
        }
        Ok(answer.succeeded)
    }

    /// Who is before us. With none, this is also the proof that it is our turn: both were read at
    /// one revision.
    async fn look(&mut self) -> Result<Turn> {
        let predecessor = Get::prefix(prefix(&self.name))
            .max_create_revision(self.created - 1)
            .sort(SortBy::Create, Order::Descending)
            .limit(1);
        let txn = Txn::new().when(self.stands()).and_then(predecessor.clone()).or_else(predecessor);
        let answer = persist(&self.session, &txn).await?;
        self.seen = answer.header.revision;
        Ok(turn(answer.succeeded, answer.get(0).and_then(|get| get.first())))
    }

    /// Replaces what an earlier contest of this session says in the key that this one has found. If the key
    /// is gone or says something newer, whoever waits for the turn sees that.
    pub async fn say(&mut self, modified: i64, value: &Bytes) -> Result<()> {
        let same = Compare::mod_revision(self.key.clone(), Is::Equal, modified);
        let put = Put::new(&self.key, value).lease(self.session.lease());
        let txn = Txn::new().when(self.stands()).when(same).and_then(put);
        persist(&self.session, &txn).await.map(drop)
    }

    fn gone(&self) -> Error {
        let key = String::from_utf8_lossy(&self.key).into_owned();
        Error::new(
            ErrorKind::NotHeld,
            format!("the key in the line was deleted by somebody else key={key:?}"),
        )
    }

    /// Waits until the key is deleted, and for nothing else.
    pub async fn deleted(&self) -> Result<()> {
        let mut place = self.clone();
        loop {
            let mut watcher = place.watch(&place.key)?;
            match until_deleted(&mut watcher).await {
                Err(error) if matches!(error.kind(), ErrorKind::Compacted { .. }) => {}
                end => return end,
            }
            let answer = read_key(&place.session, &place.key).await?;
            if answer.first().is_none_or(|kv| kv.create_revision != place.created) {
                return Ok(());
            }
            // It stands; what was compacted away is of no interest.
            place.seen = answer.header.revision;
        }
    }

    fn watch(&self, key: &Bytes) -> Result<Watcher> {
        let keys = Keys::from(key.clone());
        self.session.client().watch(keys).no_puts().open_at(self.seen + 1)
    }

    /// Waits for our turn. `ahead` is the lease of who held the place when we got in line: that one, too,
    /// may be gone before we look for the first time.
    pub async fn wait(&mut self, lock_delay: Duration, mut ahead: Option<i64>) -> Result<()> {
        let mut own: Option<Watcher> = None;
        let session = self.session.clone();
        loop {
            let key = match (self.look().await?, ahead) {
                (Turn::Gone, _) => return Err(self.gone()),
                (Turn::Mine, Some(lease)) if !lock_delay.is_zero() => {
                    self.honour(lock_delay, lease).await?;
                    ahead = None;
                    continue;
                }
                (Turn::Mine, _) => return session.check(),
                (Turn::After { key, lease }, _) => {
                    ahead = Some(lease);
                    key
                }
            };
            let mut predecessor = self.watch(&key)?;
            let own_key = match &mut own {
                Some(own_key) => own_key,
                None => own.insert(self.watch(&self.key)?),
            };
            tokio::select! {
                biased;
                why = session.lost() => return Err(why),
                end = until_deleted(own_key) => match end {
                    Ok(()) => return Err(self.gone()),
                    Err(error) if matches!(error.kind(), ErrorKind::Compacted { .. }) => own = None,
                    Err(error) => return Err(error),
                },
                end = until_deleted(&mut predecessor) => match end {
                    Ok(()) => {}
                    Err(error) if matches!(error.kind(), ErrorKind::Compacted { .. }) => {}
                    Err(error) => return Err(error),
                },
            }
        }
    }

    /// Gives a predecessor that was lost, rather than left, some time to notice it.
    async fn honour(&self, lock_delay: Duration, lease: i64) -> Result<()> {
        let mut backoff = Backoff::default();
        loop {
            self.session.check()?;
            match self.session.client().lease_ttl(lease, false).await {
                Ok(Some(_)) => return Ok(()),
                Ok(None) => break,
                Err(error) if is_passing(&error) => backoff.wait().await,
                Err(error) => return Err(error),
            }
        }
        tokio::time::sleep(lock_delay).await;
        Ok(())
    }

    pub fn token(&self) -> FencingToken {
        FencingToken {
            cluster_id: self.session.client().cluster_id(),
            revision: self.created,
            key: self.key.clone(),
        }
    }

    /// A condition that holds only while this is ours.
    pub fn fence(&self) -> Compare {
        self.stands()
    }

    /// Waits until it is ours no more, and tells why.
    pub async fn lost(&self) -> Error {
        tokio::select! {
            biased;
            why = self.session.lost() => why,
            end = self.deleted() => match end {
                Ok(()) => self.gone(),
                Err(error) => error,
            },
        }
    }

    /// Refuses without asking the store if the session is over.
    pub fn check(&self) -> Result<()> {
        self.session.check()
    }
}

/// Waits for a deletion.
async fn until_deleted(watcher: &mut Watcher) -> Result<()> {
    while let Some(batch) = watcher.next().await {
        if batch?.events.iter().any(|event| event.kind == EventKind::Delete) {
            return Ok(());
        }
    }
    Err(Error::closed("the watch"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m_5_a_turn_needs_our_key_and_nobody_before_it() {
        let other = KeyValue { key: "n/a".into(), lease: 3, ..KeyValue::default() };
        assert_eq!(turn(true, None), Turn::Mine);
        assert_eq!(turn(true, Some(&other)), Turn::After { key: "n/a".into(), lease: 3 });
        assert_eq!(turn(false, None), Turn::Gone, "being first with a key that is gone is nothing");
        assert_eq!(turn(false, Some(&other)), Turn::Gone);
    }

    #[test]
    fn keys_are_those_of_other_clients() {
        assert_eq!(key_of("my/lock", 0x2040_a202_0154_e105), "my/lock/2040a2020154e105");
        assert_eq!(key_of("my/lock", 0xab), "my/lock/ab");
    }

    #[test]
    fn a_name_that_would_make_an_odd_key_is_refused() {
        assert!(check_name("a").is_ok());
        assert_eq!(check_name("").unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(check_name("a/").unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}
