//! The crash loop: a server is killed again and again under load, always on the same data
//! directory, and after each restart everything it ever acknowledged is looked for.
//!
//! `load` writes and keeps a record of what was asked and answered; `ledger` knows what the server
//! must hold because of it; `inspect` reads what it does hold. A SIGKILL does not lose what the
//! operating system has taken over, so this finds wrong order and forgotten state, not a missing
//! fsync; that needs a power cut.

mod inspect;
mod ledger;
mod load;

use std::path::PathBuf;
use std::time::Duration;

use folkmoot_proto::etcdserverpb as pb;
use pb::kv_client::KvClient;
use rand::RngExt;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::client;
use crate::servers::{Program, Server};
use ledger::Ledger;
use load::Writer;

/// What to kill and how often.
#[derive(Clone, Debug)]
pub struct CrashConfig {
    /// The program to kill.
    pub program: Program,
    /// Number of kills under load.
    pub rounds: u32,
    /// Seed of the load and of the moments of death.
    pub seed: u64,
    /// Clients that write at the same time.
    pub clients: usize,
    /// Parent of the data directory.
    pub data_root: PathBuf,
    /// Pretends that one acknowledged revision is missing, as a positive control.
    pub forget: bool,
}

/// Counts for the report.
#[derive(Debug, Default)]
struct Totals {
    acked: u64,
    open_present: u64,
    open_absent: u64,
    early_kills: u32,
    compactions: u32,
    start_longest: Duration,
}

/// Runs all rounds; false if anything was lost.
pub fn run(config: &CrashConfig) -> Result<bool, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| format!("cannot start runtime: {e}"))?.block_on(rounds(config))
}

async fn rounds(config: &CrashConfig) -> Result<bool, String> {
    let directory = tempfile::Builder::new().prefix("folkmoot-crash-").tempdir_in(&config.data_root);
    let directory = directory.map_err(|e| format!("cannot create data directory: {e}"))?;
    let data_dir = directory.path().join("data");
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
    let mut ledger = Ledger::default();
    let mut totals = Totals::default();
    let mut writers: Vec<Writer> = (0..config.clients).map(|i| Writer::new(i, rng.random())).collect();

    for round in 0..=config.rounds {
        // Death may come while a server is still reading what the last one left behind.
        if round > 0 && rng.random_bool(0.25) {
            let mut server = Server::start(&config.program, &data_dir)?;
            tokio::time::sleep(Duration::from_millis(rng.random_range(1..250))).await;
            server.kill();
            totals.early_kills += 1;
        }
        let began = std::time::Instant::now();
        let mut server = Server::start_ready(&config.program, &data_dir).await?;
        totals.start_longest = totals.start_longest.max(began.elapsed());

        let problem = match inspect::read(&server.url, ledger.known()).await {
            Ok(mut found) => {
                if config.forget && round > 0 {
                    found.forget_one();
                }
                let checked = ledger.settle(&found);
                match checked {
                    Ok(counts) => {
                        totals.open_present += counts.0;
                        totals.open_absent += counts.1;
                        inspect::spot_check(&server.url, &found, &mut rng).await.err()
                    }
                    Err(problem) => Some(problem),
                }
            }
            Err(problem) => Some(problem),
        };
        if let Some(problem) = problem {
            let kept = directory.keep();
            crate::say(&format!(
                "round {round}: {problem}\nserver pid={} data kept in {}\nlast lines of its log:\n{}",
                server.id(),
                kept.display(),
                server.log_tail()
            ));
            return Ok(false);
        }
        if round == config.rounds {
            break;
        }
        if rng.random_bool(0.3) {
            totals.compactions += u32::from(compact_quietly(&server.url, &mut ledger, &mut rng).await?);
        }

        let lifetime = Duration::from_millis(rng.random_range(10..900));
        let url = server.url.clone();
        let load = load::run(&url, &mut writers, round, ledger.compactable());
        let death = async {
            tokio::time::sleep(lifetime).await;
            server.kill();
        };
        let (records, ()) = tokio::join!(load, death);
        totals.acked += records.iter().filter(|record| record.is_acked()).count() as u64;
        ledger.add(records);
    }
    crate::say(&format!(
        "{} kills under load and {} during start: {} acknowledged requests all found; of {} unanswered ones {} had taken effect; \
         {} quiet compactions, revision {}, slowest start {} ms",
        config.rounds,
        totals.early_kills,
        totals.acked,
        totals.open_present + totals.open_absent,
        totals.open_present,
        totals.compactions,
        ledger.known(),
        totals.start_longest.as_millis(),
    ));
    Ok(true)
}

/// Compacts anywhere in the known history, while nobody writes.
async fn compact_quietly(url: &str, ledger: &mut Ledger, rng: &mut ChaCha8Rng) -> Result<bool, String> {
    let Some(range) = ledger.compactable() else { return Ok(false) };
    let revision = rng.random_range(range);
    let physical = rng.random();
    let mut kv = KvClient::new(client::connect(url).await?);
    kv.compact(pb::CompactionRequest { revision, physical }).await.map_err(|status| {
        format!("compaction of known history was refused revision={revision}: {}", status.message())
    })?;
    ledger.compacted(revision);
    Ok(true)
}
