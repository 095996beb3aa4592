//! Log lines as etcd's tools expect them.
//!
//! One line an event on standard error: a JSON object with `level`, `ts`, `caller`, `msg` and then
//! the event's own fields, or the same tab separated for people. A line is written whole.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{LogFormat, LogLevel};

/// Makes this process log; the first call counts, later ones change nothing.
pub fn init(level: LogLevel, format: LogFormat) {
    let layer = LineLayer { level: tracing_level(level), format };
    // A program that embeds the server may have its own subscriber, which then gets the events.
    let _ = tracing_subscriber::registry().with(layer).try_init();
}

fn tracing_level(level: LogLevel) -> Level {
    match level {
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Info => Level::INFO,
        LogLevel::Warn => Level::WARN,
        LogLevel::Error => Level::ERROR,
    }
}

struct LineLayer {
    level: Level,
    format: LogFormat,
}

impl<S: Subscriber> Layer<S> for LineLayer {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        // Libraries below (hyper, h2) log through the same channel; their talk is not for operators.
        metadata.level() <= &self.level && metadata.target().starts_with("folkmoot")
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let line = render(event, self.format, SystemTime::now());
        // Nobody is left to tell when standard error is gone.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }
}

fn render(event: &Event<'_>, format: LogFormat, now: SystemTime) -> String {
    let mut fields = Fields::default();
    event.record(&mut fields);
    let metadata = event.metadata();
    let level = match *metadata.level() {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        _ => "debug",
    };
    let caller = caller(metadata.file().unwrap_or("unknown.rs"), metadata.line().unwrap_or(0));
    let ts = timestamp(now);
    match format {
        LogFormat::Json => {
            let mut line = format!(
                "{{\"level\":\"{level}\",\"ts\":\"{ts}\",\"caller\":{},\"msg\":{}",
                Value::from(caller),
                Value::from(fields.message)
            );
            for (name, value) in &fields.named {
                let _ = write!(line, ",{}:{value}", Value::from(name.as_str()));
            }
            line + "}\n"
        }
        LogFormat::Console => {
            let message = fields.message.replace('\n', " ");
            let named = Value::Object(fields.named);
            format!("{ts}\t{level}\t{caller}\t{message}\t{named}\n")
        }
    }
}

/// `folder/file.rs:line`, as short as etcd's.
fn caller(file: &str, line: u32) -> String {
    let mut parts = file.rsplit('/');
    let name = parts.next().unwrap_or(file);
    match parts.next() {
        Some(folder) => format!("{folder}/{name}:{line}"),
        None => format!("{name}:{line}"),
    }
}

/// `2026-08-20T10:11:12.123456Z`.
fn timestamp(now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil_date(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        since.subsec_micros()
    )
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar
/// (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil_date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[derive(Default)]
struct Fields {
    message: String,
    named: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        if field.name() == "message" {
            self.message = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        } else {
            self.named.insert(field.name().to_owned(), value);
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::from(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::from(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::from(value));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::*;

    struct Kept(Arc<Mutex<Vec<String>>>, LogFormat);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let now = UNIX_EPOCH + Duration::from_micros(1_787_220_672_123_456);
            self.0.lock().expect("no test panics inside").push(render(event, self.1, now));
        }
    }

    fn lines(format: LogFormat, log: impl FnOnce()) -> Vec<String> {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let subscriber = tracing_subscriber::registry().with(Kept(Arc::clone(&kept), format));
        tracing::subscriber::with_default(subscriber, log);
        std::mem::take(&mut kept.lock().expect("no test panics inside"))
    }

    #[test]
    fn a_line_is_json_with_level_time_caller_and_message() {
        let lines = lines(LogFormat::Json, || {
            tracing::warn!(error = "a \"bad\"\nthing", count = 3, "lease-id" = %"00ff", "could not do it");
        });
        let line = lines[0].strip_suffix('\n').expect("ends the line");
        assert!(!line.contains('\n'));
        let value: Value = serde_json::from_str(line).expect("is JSON");
        assert_eq!(value["level"], "warn");
        assert_eq!(value["ts"], "2026-08-20T10:11:12.123456Z");
        assert!(value["caller"].as_str().expect("a text").starts_with("observe/log.rs:"));
        assert_eq!(value["msg"], "could not do it");
        assert_eq!(value["error"], "a \"bad\"\nthing");
        assert_eq!(value["count"], 3);
        assert_eq!(value["lease-id"], "00ff");
    }

    #[test]
    fn a_console_line_is_tab_separated() {
        let lines = lines(LogFormat::Console, || tracing::info!(a = 1, "done"));
        let parts: Vec<&str> = lines[0].trim_end().split('\t').collect();
        assert_eq!(parts.len(), 5);
        assert_eq!((parts[1], parts[3], parts[4]), ("info", "done", "{\"a\":1}"));
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(civil_date(0), (1970, 1, 1));
        assert_eq!(civil_date(11_016), (2000, 2, 29));
        assert_eq!(civil_date(20_512), (2026, 2, 28));
        assert_eq!(civil_date(20_513), (2026, 3, 1));
    }
}
