//! Watching: `watch`.

use clap::Args;
use folkmoot_proto::etcdserverpb::watch_request::RequestUnion;
use folkmoot_proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Context;
use super::kv::IntervalArgs;
use crate::failure::{Failure, Result};
use crate::output::{json, plain};
use crate::signals::StopRequests;

/// Show what happens to keys until Ctrl-C
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
        let create = WatchCreateRequest {
            key: interval.key,
            range_end: interval.range_end,
            start_revision: self.rev,
            progress_notify: self.progress_notify,
            prev_kv: self.prev_kv,
            ..WatchCreateRequest::default()
        };
        let mut stop_requests = StopRequests::listen()?;
        let client = context.client().await?;
        // The sender is kept: the server ends the stream when the requests end.
        let (requests, receiver) = mpsc::channel(1);
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.send(create).await.expect("the receiver is at hand");
        let mut watch_stub = client.watch();
        let mut responses = tokio::select! {
            responses = watch_stub.watch(ReceiverStream::new(receiver)) => responses?.into_inner(),
            () = stop_requests.next() => return Ok(()),
        };
        loop {
            let response = tokio::select! {
                response = responses.message() => response?,
                () = stop_requests.next() => return Ok(()),
            };
            match response {
                Some(response) => show(context, &response)?,
                None => return Err(Failure::new("the watch ended: the server closed the stream")),
            }
        }
    }
}

fn show(context: &Context, response: &WatchResponse) -> Result<()> {
    // That the watch was made is news only if it was refused in the same breath.
    if response.created && !response.canceled {
        return Ok(());
    }
    context.printer.print(|| text(response), || json::watch(response))?;
    if response.canceled {
        return Err(Failure::new(format!("the watch was canceled: {}", cancel_reason(response))));
    }
    Ok(())
}

fn text(response: &WatchResponse) -> Vec<u8> {
    if response.events.is_empty() && !response.canceled {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        return plain::lines([format!("progress notify: {revision}")]);
    }
    response.events.iter().flat_map(plain::event).collect()
}

fn cancel_reason(response: &WatchResponse) -> String {
    match (response.cancel_reason.as_str(), response.compact_revision) {
        ("", 0) => "the server gave no reason".into(),
        // Servers name no reason where the compact revision says it all.
        ("", compact_revision) => format!(
            "etcdserver: mvcc: required revision has been compacted; compact_revision={compact_revision}"
        ),
        (reason, _) => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use folkmoot_proto::etcdserverpb::ResponseHeader;

    use super::*;

    #[test]
    fn an_answer_without_events_tells_how_far_the_watch_has_come() {
        let header = ResponseHeader { revision: 9, ..ResponseHeader::default() };
        let response = WatchResponse { header: Some(header), ..WatchResponse::default() };
        assert_eq!(text(&response), b"progress notify: 9\n");
    }

    #[test]
    fn a_canceled_watch_always_has_a_reason() {
        let mut response = WatchResponse { canceled: true, ..WatchResponse::default() };
        assert_eq!(cancel_reason(&response), "the server gave no reason");
        response.compact_revision = 4;
        assert!(cancel_reason(&response).ends_with("has been compacted; compact_revision=4"));
        response.cancel_reason = "no permission".into();
        assert_eq!(cancel_reason(&response), "no permission");
    }
}
