//! The auth token: fetched with name and password, renewed when a member refuses it.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tonic::metadata::{Ascii, MetadataValue};

/// A token and the lock that keeps renewals to one at a time.
#[derive(Debug, Default)]
pub(crate) struct TokenStore {
    current: ArcSwapOption<MetadataValue<Ascii>>,
    /// Held while a new one is fetched.
    pub renewing: tokio::sync::Mutex<()>,
}

/// A token as it was when a call used it.
pub(crate) type Used = Option<Arc<MetadataValue<Ascii>>>;

impl TokenStore {
    pub fn current(&self) -> Used {
        self.current.load_full()
    }

    /// Whether somebody has replaced the token since it was used.
    pub fn is_still(&self, used: &Used) -> bool {
        match (&*self.current.load(), used) {
            (None, None) => true,
            (Some(current), Some(used)) => Arc::ptr_eq(current, used),
            _ => false,
        }
    }

    pub fn set(&self, token: Option<MetadataValue<Ascii>>) {
        self.current.store(token.map(Arc::new));
    }
}
