//! How urgently the system runs the calling thread.

use rustix::process::setpriority_process;

/// Lets the calling thread run before others: for the thread that syncs the log, which sleeps
/// most of the time but delays every answer when it has to wait for a processor.
///
/// Needs `CAP_SYS_NICE` or a limit that allows it; without, nothing changes. Returns whether it
/// was allowed.
pub fn boost_current_thread() -> bool {
    // On Linux a priority set for "this process" holds for the calling thread only.
    setpriority_process(None, -10).is_ok()
}

/// Lets the calling thread run after others: for work that nobody waits for.
pub fn lower_current_thread() {
    // Lowering is always allowed; if it should fail, the work is only less polite.
    let _ = setpriority_process(None, 10);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_hold_for_one_thread_only() {
        let nice_of_this_thread = || {
            // Field 19 of the thread's stat line, counted after the name in parentheses.
            let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("linux");
            let mut fields = stat.rsplit(')').next().expect("fields").split_whitespace();
            fields.nth(16).and_then(|nice| nice.parse::<i32>().ok()).expect("a number")
        };
        let before = nice_of_this_thread();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                lower_current_thread();
                assert!(nice_of_this_thread() >= 10);
                if boost_current_thread() {
                    assert_eq!(nice_of_this_thread(), -10);
                }
            });
        });
        assert_eq!(nice_of_this_thread(), before);
    }
}
