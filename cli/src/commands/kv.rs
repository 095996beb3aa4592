//! Keys: `get`, `put`, `del` and `compact`.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Read as _};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use folkmoot_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use folkmoot_proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest};

use super::{Context, lease_id};
use crate::failure::{Failure, Result};
use crate::interval::{Interval, Reach, argument_bytes};
use crate::output::plain::Show;
use crate::output::{json, plain};
use crate::wire;

/// Which keys a command is about.
#[derive(Args)]
pub struct IntervalArgs {
    /// The key; with --prefix what keys begin with, with --from-key the first key
    key: OsString,
    /// First key that no longer belongs to the range
    range_end: Option<OsString>,
    /// All keys that begin with KEY; with an empty KEY all keys
    #[arg(long, conflicts_with = "from_key")]
    prefix: bool,
    /// KEY and all keys after it, compared byte by byte
    #[arg(long)]
    from_key: bool,
}

impl IntervalArgs {
    /// The interval in the form of the API.
    pub fn interval(&self) -> Result<Interval> {
        let reach = match (self.prefix, self.from_key) {
            (true, _) => Reach::Prefix,
            (_, true) => Reach::FromKey,
            _ => Reach::Exact,
        };
        Interval::new(self.key.clone(), self.range_end.clone(), reach)
    }
}

/// How fresh an answer must be.
#[derive(Clone, Copy, ValueEnum)]
pub enum Consistency {
    // Linearizable: what the cluster agrees on now.
    L,
    // Serializable: what this member has, possibly a little old.
    S,
}

impl Consistency {
    /// The answer is what the cluster agrees on now.
    pub fn is_linearizable(self) -> bool {
        matches!(self, Self::L)
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Order {
    Ascend,
    Descend,
}

#[derive(Clone, Copy, ValueEnum)]
enum SortBy {
    Key,
    Version,
    Create,
    Modify,
    Value,
}

/// Read keys
#[derive(Args)]
#[command(after_help = "\
Examples:
  folkmoot get config/version                      key and value, a line each
  folkmoot get config/ --prefix                    all keys beginning with it
  folkmoot get config/version --print-value-only   the value alone, for scripts
  folkmoot get jobs/ --prefix --sort-by create --limit 1
                                                   the oldest job
  folkmoot get config/version --rev 41 -w json     as it was, as JSON (base64)")]
pub struct GetArgs {
    #[command(flatten)]
    interval: IntervalArgs,
    /// Show at most so many keys; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    limit: i64,
    /// Read as of this revision; 0 for now
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    rev: i64,
    /// Direction of the order
    #[arg(long, ignore_case = true)]
    order: Option<Order>,
    /// What decides the order
    #[arg(long, ignore_case = true)]
    sort_by: Option<SortBy>,
    /// Show the keys without their values
    #[arg(long)]
    keys_only: bool,
    /// Show how many keys there are, and no key
    #[arg(long)]
    count_only: bool,
    /// Show the values without their keys
    #[arg(long, conflicts_with = "keys_only")]
    print_value_only: bool,
    /// l: what the cluster agrees on now; s: what this member has, possibly a little old
    #[arg(long, default_value = "l")]
    consistency: Consistency,
}

impl GetArgs {
    /// The request that the flags describe.
    pub fn request(&self) -> Result<RangeRequest> {
        let interval = self.interval.interval()?;
        let target = match self.sort_by {
            None | Some(SortBy::Key) => SortTarget::Key,
            Some(SortBy::Version) => SortTarget::Version,
            Some(SortBy::Create) => SortTarget::Create,
            Some(SortBy::Modify) => SortTarget::Mod,
            Some(SortBy::Value) => SortTarget::Value,
        };
        let order = match self.order {
            Some(Order::Ascend) => SortOrder::Ascend,
            Some(Order::Descend) => SortOrder::Descend,
            // Without a direction a server cuts at the limit first and sorts what is left, which
            // is not what anybody means by "the first ten by age".
            None if target != SortTarget::Key => SortOrder::Ascend,
            None => SortOrder::None,
        };
        Ok(RangeRequest {
            key: interval.key,
            range_end: interval.range_end,
            limit: self.limit,
            revision: self.rev,
            sort_order: order.into(),
            sort_target: target.into(),
            serializable: !self.consistency.is_linearizable(),
            keys_only: self.keys_only,
            count_only: self.count_only,
            ..RangeRequest::default()
        })
    }

    pub(super) async fn run(self, context: &Context) -> Result<()> {
        if self.print_value_only && context.printer.is_json() {
            return Err(Failure::usage("--print-value-only is for --write-out=simple only"));
        }
        let request = self.request()?;
        let response = wire::range_response(context.store().await?.get(wire::get(request)).await?);
        let show = match (self.keys_only, self.print_value_only) {
            (true, _) => Show::Key,
            (_, true) => Show::Value,
            _ => Show::Both,
        };
        let text = || match self.count_only {
            true => plain::lines([response.count.to_string()]),
            false => plain::range(&response, show),
        };
        context.printer.print(text, || json::range(&response))
    }
}

/// Set the value of a key
#[derive(Args)]
#[command(after_help = "\
Examples:
  folkmoot put config/version 42
  folkmoot put config/text < text.txt              value from standard input
  folkmoot put -- config/flags --fast              after -- nothing is a flag
  folkmoot put workers/a up --lease 694d77aa9e38260f
                                                   gone when the lease ends
  folkmoot put config/version 43 --prev-kv         shows what it was before")]
pub struct PutArgs {
    /// The key
    key: OsString,
    /// The value; read from standard input when left out
    #[arg(conflicts_with = "ignore_value", allow_negative_numbers = true)]
    value: Option<OsString>,
    /// Attach the key to this lease, a hexadecimal number
    #[arg(long, value_parser = lease_id, default_value = "0", hide_default_value = true,
        allow_negative_numbers = true)]
    lease: i64,
    /// Show the key as it was before
    #[arg(long)]
    prev_kv: bool,
    /// Keep the value that the key has
    #[arg(long)]
    ignore_value: bool,
    /// Keep the lease that the key has
    #[arg(long)]
    ignore_lease: bool,
}

impl PutArgs {
    /// The request that the flags describe; `missing_value` is asked when there is none.
    pub fn request(&self, missing_value: impl FnOnce() -> Result<Bytes>) -> Result<PutRequest> {
        let value = match &self.value {
            Some(value) => argument_bytes(value.clone()),
            None if self.ignore_value => Bytes::new(),
            None => missing_value()?,
        };
        Ok(PutRequest {
            key: argument_bytes(self.key.clone()),
            value,
            lease: self.lease,
            prev_kv: self.prev_kv,
            ignore_value: self.ignore_value,
            ignore_lease: self.ignore_lease,
        })
    }

    pub(super) async fn run(self, context: &Context) -> Result<()> {
        let request = self.request(|| {
            if stdin_is_null()? {
                return Err(Failure::usage(
                    "a value is needed: as the second argument, or on standard input",
                ));
            }
            let mut value = Vec::new();
            io::stdin().lock().read_to_end(&mut value)?;
            Ok(value.into())
        })?;
        let response = wire::put_response(context.store().await?.put_with(wire::put(&request)).await?);
        context.printer.print(|| plain::put(&response), || json::put(&response))
    }
}

/// Whether standard input is a device such as /dev/null, which programs in the background are
/// given: an empty value was hardly meant. A terminal is fine: somebody types.
pub fn stdin_is_null() -> Result<bool> {
    let kind =
        rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(io::stdin()).map_err(io::Error::from)?.st_mode);
    Ok(kind == rustix::fs::FileType::CharacterDevice && !io::stdin().is_terminal())
}

/// Delete keys and show how many there were
#[derive(Args)]
#[command(after_help = "\
Examples:
  folkmoot del config/text
  folkmoot del jobs/ --prefix                      all keys beginning with it
  folkmoot del jobs/100 jobs/200                   from 100 to before 200
  folkmoot del config/text --prev-kv               shows what was deleted")]
pub struct DelArgs {
    #[command(flatten)]
    interval: IntervalArgs,
    /// Show the keys as they were before
    #[arg(long)]
    prev_kv: bool,
}

impl DelArgs {
    /// The request that the flags describe.
    pub fn request(&self) -> Result<DeleteRangeRequest> {
        let interval = self.interval.interval()?;
        Ok(DeleteRangeRequest { key: interval.key, range_end: interval.range_end, prev_kv: self.prev_kv })
    }

    pub(super) async fn run(self, context: &Context) -> Result<()> {
        let request = self.request()?;
        let response = wire::delete_response(context.store().await?.delete(wire::delete(request)).await?);
        context.printer.print(|| plain::delete(&response), || json::delete(&response))
    }
}

/// Forget the history before a revision
///
/// Current values stay. What was before the revision can no longer be read or watched.
#[derive(Args)]
#[command(
    visible_alias = "compaction",
    after_help = "\
Examples:
  folkmoot compact 1200                            1200 and later stay readable
  folkmoot compact 1200 --physical                 waits until it is all done"
)]
pub struct CompactArgs {
    /// First revision that stays readable
    #[arg(allow_negative_numbers = true)]
    revision: i64,
    /// Return only after the space has been given back to the store
    #[arg(long)]
    physical: bool,
}

impl CompactArgs {
    pub(super) async fn run(self, context: &Context) -> Result<()> {
        let header = context.store().await?.compact(self.revision, self.physical).await?;
        context.printer.print(
            || plain::lines([format!("compacted revision {}", self.revision)]),
            || json::header_only(wire::header(header).as_ref()),
        )
    }
}
