//! A gate before the server that history is on: it can be shut, as if the server were stopped, and it can hold one
//! request at a point of its way, so that whoever sent it dies there.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// What is held: the request of a method, a word in its path, after as many others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trap {
    pub(super) method: &'static str,
    pub(super) word: &'static str,
    pub(super) others: usize,
    pub(super) at: At,
}

/// How far a request comes that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// The server hears nothing of it.
    Before,
    /// The server hears half of what is sent with it.
    Half,
    /// The server has done it, and nobody hears that.
    After,
}

/// Cloning it gives another handle to the same gate.
#[derive(Clone)]
pub(super) struct Gate {
    /// Host and port.
    pub(super) address: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    server: String,
    is_shut: AtomicBool,
    trap: Mutex<Option<Trap>>,
    has_caught: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

impl Gate {
    /// Opens a gate before a server.
    pub(super) fn before(server: &str) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a port").to_string();
        let state = Arc::new(State {
            server: server.to_owned(),
            ..State::default()
        });
        let guard = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Dropped at once while it is shut.
                if !guard.is_shut.load(Ordering::SeqCst)
                    && let Ok(server) = TcpStream::connect(&guard.server)
                {
                    guard.admit(client, server);
                }
            }
        });
        Gate { address, state }
    }

    /// Lets nobody through any more, those that are through neither.
    pub(super) fn shut(&self) {
        self.state.is_shut.store(true, Ordering::SeqCst);
        for connection in self.state.connections.lock().expect("no panic under it").drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Lets everybody through again.
    pub(super) fn open(&self) {
        self.state.is_shut.store(false, Ordering::SeqCst);
    }

    /// Sets a trap.
    pub(super) fn set(&self, trap: Trap) {
        self.state.has_caught.store(false, Ordering::SeqCst);
        *self.state.trap.lock().expect("no panic under it") = Some(trap);
    }

    /// Takes the trap away, if it is still there.
    pub(super) fn unset(&self) {
        *self.state.trap.lock().expect("no panic under it") = None;
    }

    /// Tells whether a request is held.
    pub(super) fn has_caught(&self) -> bool {
        self.state.has_caught.load(Ordering::SeqCst)
    }
}

impl State {
    fn admit(self: &Arc<State>, client: TcpStream, server: TcpStream) {
        let mut connections = self.connections.lock().expect("no panic under it");
        connections.extend([&client, &server].iter().map(|one| one.try_clone().expect("a handle")));
        drop(connections);
        let unanswered = Arc::new(AtomicBool::new(false));
        let back = (
            server.try_clone().expect("a handle"),
            client.try_clone().expect("a handle"),
        );
        let (state, is_held) = (Arc::clone(self), Arc::clone(&unanswered));
        thread::spawn(move || state.answers(back, &is_held));
        let state = Arc::clone(self);
        thread::spawn(move || state.requests(client, server, &unanswered));
    }

    /// Hands requests on, until one is held or one side goes away.
    fn requests(&self, mut client: TcpStream, mut server: TcpStream, unanswered: &AtomicBool) {
        let mut bytes = vec![0; 64 << 10];
        let mut is_halved = false;
        while let Ok(count) = client.read(&mut bytes)
            && count > 0
        {
            let mut until = if is_halved { count / 2 } else { count };
            match self.springs(&bytes[..count]) {
                Some(At::Before) => until = 0,
                Some(At::Half) => {
                    let head = bytes[..count].windows(4).position(|end| end == b"\r\n\r\n");
                    let head = head.map_or(count, |at| at + 4);
                    until = head + (count - head) / 2;
                    // What is sent with it may come by itself.
                    is_halved = head == count;
                }
                Some(At::After) => unanswered.store(true, Ordering::SeqCst),
                None => {}
            }
            if server.write_all(&bytes[..until]).is_err() {
                break;
            }
            if until < count {
                self.has_caught.store(true, Ordering::SeqCst);
                // Until it dies.
                while client.read(&mut bytes).is_ok_and(|count| count > 0) {}
            }
        }
        let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
    }

    /// Hands answers back, but for one that nobody is to hear.
    fn answers(&self, (mut server, mut client): (TcpStream, TcpStream), unanswered: &AtomicBool) {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(count) = server.read(&mut bytes)
            && count > 0
        {
            if unanswered.load(Ordering::SeqCst) {
                self.has_caught.store(true, Ordering::SeqCst);
                // The other thread waits until it dies.
                return;
            }
            if client.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
    }

    /// Tells whether these bytes begin the request that is to be held.
    fn springs(&self, bytes: &[u8]) -> Option<At> {
        let line = bytes.split(|byte| *byte == b'\r').next()?;
        let line = std::str::from_utf8(line).ok()?;
        let (method, path) = line.strip_suffix(" HTTP/1.1")?.split_once(' ')?;
        let mut set = self.trap.lock().expect("no panic under it");
        let trap = set.as_mut()?;
        if trap.method != method || !path.contains(trap.word) {
            return None;
        }
        match trap.others.checked_sub(1) {
            Some(others) => {
                trap.others = others;
                None
            }
            None => set.take().map(|trap| trap.at),
        }
    }
}
