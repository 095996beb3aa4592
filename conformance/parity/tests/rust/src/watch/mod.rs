pub mod deep;

use crate::client::Client;

/// Not the public one.
pub(crate) struct Record;

impl Record {
    pub fn of_the_other() {}
}

impl Client {
    pub fn watch() {}
}
