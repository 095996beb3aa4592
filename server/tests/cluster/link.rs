//! A link to a member that can be cut: what others send to it goes through here.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

#[derive(Default)]
struct State {
    cut: bool,
    open: Vec<TcpStream>,
}

/// See the module. Its threads end with the test program.
pub struct Link {
    state: Arc<Mutex<State>>,
}

impl Link {
    /// Passes on what comes in at `port` to the port `to`.
    pub fn open(port: u16, to: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for inbound in listener.incoming().flatten() {
                let mut state = shared.lock().expect("nobody panicked with it");
                if state.cut {
                    continue;
                }
                // Nobody may listen there yet.
                let Ok(outbound) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                for (from, to) in [(&inbound, &outbound), (&outbound, &inbound)] {
                    let from = from.try_clone().expect("there are file descriptors");
                    let to = to.try_clone().expect("there are file descriptors");
                    thread::spawn(move || copy(from, to));
                }
                state.open.extend([inbound, outbound]);
            }
        });
        Self { state }
    }

    /// Ends all connections and lets no other be made.
    pub fn cut(&self) {
        let mut state = self.state.lock().expect("nobody panicked with it");
        state.cut = true;
        for stream in state.open.drain(..) {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn mend(&self) {
        self.state.lock().expect("nobody panicked with it").cut = false;
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    // However it ended, whoever reads there has seen everything.
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
