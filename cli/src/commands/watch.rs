//! Watching: `watch`.

use clap::Args;
use folkmoot_client::{Client, ErrorKind, WatchBatch};
use folkmoot_proto::etcdserverpb::{ResponseHeader, WatchResponse};
use tokio_stream::StreamExt as _;

use super::Context;
use super::kv::IntervalArgs;
use crate::failure::{Failure, Result};
use crate::interval::Interval;
use crate::output::{json, plain};
use crate::signals::StopRequests;
use crate::wire;

/// Show what happens to keys until Ctrl-C
///
/// When the member that is watched goes away, the watch goes on at another one, or when it is back:
/// every event is shown once.
#[derive(Args)]
#[command(after_help = "\
Each event is shown as PUT or DELETE, the key, and the value.

Examples:
  folkmoot watch config/version                    from now on
  folkmoot watch config/ --prefix --prev-kv        with key and value before
  folkmoot watch config/ --prefix --rev 41         from revision 41 on
  folkmoot watch jobs/ --prefix -w json            a JSON document a line")]
pub struct WatchArgs {
    #[command(flatten)]
    interval: IntervalArgs,
    /// First revision to show; 0 for what happens from now on
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    rev: i64,
    /// Show each key as it was before, too
    #[arg(long)]
    prev_kv: bool,
    /// Show now and then how far the watch has come while nothing happens
    #[arg(long)]
    progress_notify: bool,
}

impl WatchArgs {
    pub(super) async fn run(self, context: &Context) -> Result<()> {
        let interval = self.interval.interval()?;
        let mut stop_requests = StopRequests::listen()?;
        tokio::select! {
            end = self.follow(context, &interval) => end,
            () = stop_requests.next() => Ok(()),
        }
    }

    async fn follow(&self, context: &Context, interval: &Interval) -> Result<()> {
        let store = context.store().await?;
        let mut watch = store.watch(wire::keys(interval));
        if self.rev != 0 {
            watch = watch.from_revision(self.rev);
        }
        if self.prev_kv {
            watch = watch.prev();
        }
        if self.progress_notify {
            watch = watch.progress();
        }
        let mut watcher = watch.open().await?;
        while let Some(batch) = watcher.next().await {
            match batch {
                Ok(batch) => show(context, &response(&store, batch))?,
                Err(error) => {
                    let ErrorKind::Compacted { compact_revision } = error.kind() else {
                        return Err(error.into());
                    };
                    let header = Some(header(&store, 0));
                    let end = WatchResponse {
                        header,
                        canceled: true,
                        compact_revision,
                        ..WatchResponse::default()
                    };
                    show(context, &end)?;
                    return Err(Failure::new(format!(
                        "the watch was canceled: etcdserver: mvcc: required revision has been compacted; \
                         compact_revision={compact_revision}"
                    )));
                }
            }
        }
        Err(Failure::new("the watch ended"))
    }
}

/// A batch in the shape in which a member sends it. Which member did changes over time, and is left
/// out of the header.
fn response(store: &Client, batch: WatchBatch) -> WatchResponse {
    WatchResponse {
        header: Some(header(store, batch.revision)),
        events: batch.events.into_iter().map(wire::event).collect(),
        ..WatchResponse::default()
    }
}

fn header(store: &Client, revision: i64) -> ResponseHeader {
    ResponseHeader { cluster_id: store.cluster_id(), revision, ..ResponseHeader::default() }
}

fn show(context: &Context, response: &WatchResponse) -> Result<()> {
    context.printer.print(|| text(response), || json::watch(response))
}

fn text(response: &WatchResponse) -> Vec<u8> {
    if response.events.is_empty() && !response.canceled {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        return plain::lines([format!("progress notify: {revision}")]);
    }
    response.events.iter().flat_map(plain::event).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_events_tells_how_far_the_watch_has_come() {
        let header = ResponseHeader { revision: 9, ..ResponseHeader::default() };
        let response = WatchResponse { header: Some(header), ..WatchResponse::default() };
        assert_eq!(text(&response), b"progress notify: 9\n");
    }
}
