//! Transactions: `txn`.

use std::io::{self, IsTerminal as _, Read as _, Write as _};

use clap::Args;

use super::Context;
use crate::failure::Result;
use crate::output::{json, plain};
use crate::{txn_text, wire};

const PROMPTS: [&str; 3] =
    ["compares:\n", "success requests (get, put, del):\n", "failure requests (get, put, del):\n"];

/// Run one of two lists of operations as one step
///
/// Reads three lists from standard input, each ended by an empty line: conditions, operations for
/// when all of them hold, operations for when one does not.
#[derive(Args)]
#[command(after_help = "\
A condition compares version, create, mod, value or lease of a key by = != < >.
Operations are get, put and del with the flags of the commands.

Examples:
  Take a name if nobody has it (a key that is not there has create revision 0),
  else show who has it:
    printf '%s\\n' 'create(\"names/kim\") = \"0\"' '' \\
      'put names/kim mine' '' 'get names/kim' '' | folkmoot txn

  Change a value only if nobody changed it since revision 41:
    folkmoot txn <<'END'
    mod(\"config/version\") = \"41\"

    put config/version 42

    get config/version

    END")]
pub struct TxnArgs {
    /// Ask for the lists, as happens on a terminal anyway
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    interactive: Option<bool>,
}

impl TxnArgs {
    pub(super) async fn run(self, context: &Context) -> Result<()> {
        let text = match self.interactive.unwrap_or_else(|| io::stdin().is_terminal()) {
            true => ask()?,
            false => {
                let mut text = Vec::new();
                io::stdin().lock().read_to_end(&mut text)?;
                text
            }
        };
        let request = txn_text::parse(&text)?;
        let response = wire::txn_response(context.store().await?.commit(wire::txn(request)).await?);
        context.printer.print(|| plain::txn(&response), || json::txn(&response))
    }
}

/// Asks for each list and reads until its empty line. The questions go to standard error, where
/// they do not mix with the answer.
fn ask() -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for prompt in PROMPTS {
        io::stderr().write_all(prompt.as_bytes())?;
        loop {
            let mut line = String::new();
            let at_end = io::stdin().read_line(&mut line)? == 0;
            text.extend_from_slice(line.as_bytes());
            if at_end || line.trim().is_empty() {
                break;
            }
        }
    }
    Ok(text)
}
