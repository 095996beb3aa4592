//! Answers on standard output: plain for people, JSON for scripts.
//!
//! Both forms follow etcdctl, so that people and scripts that know it need not change.

use std::io::{self, Write as _};

use serde_json::Value;

use crate::failure::Result;

pub mod json;
pub mod plain;

/// The form of the answers, `--write-out`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Format {
    // For people.
    #[default]
    Simple,
    // For scripts: one JSON document per answer.
    Json,
}

/// Writes answers in the chosen form.
#[derive(Clone, Copy, Debug)]
pub struct Printer {
    format: Format,
}

impl Printer {
    /// A printer of this form.
    pub fn new(format: Format) -> Self {
        Self { format }
    }

    /// Whether answers are for scripts.
    pub fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Writes one answer at once; only the form that is asked for is made. Whoever reads from a
    /// pipe gets it now, not when a buffer is full.
    pub fn print(self, plain: impl FnOnce() -> Vec<u8>, json: impl FnOnce() -> Value) -> Result<()> {
        let mut text = match self.format {
            Format::Simple => plain(),
            Format::Json => json().to_string().into_bytes(),
        };
        if self.is_json() {
            text.push(b'\n');
        }
        let mut out = io::stdout().lock();
        out.write_all(&text)?;
        Ok(out.flush()?)
    }
}
