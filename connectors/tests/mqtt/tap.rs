//! A wire that is listened in on, and cut.
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Passes bytes on between a client and a server, and notes what kinds of packets the client sends.
pub(crate) struct Tap {
    pub(crate) port: u16,
    sent: Arc<Mutex<Vec<u8>>>,
    wires: Arc<Mutex<Vec<TcpStream>>>,
    over: Arc<AtomicBool>,
    held: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
}

impl Tap {
    pub(crate) fn to(server: SocketAddr) -> Tap {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let tap = Tap {
            port: listener.local_addr().unwrap().port(),
            sent: Arc::default(),
            wires: Arc::default(),
            over: Arc::default(),
            held: Arc::default(),
            refused: Arc::default(),
        };
        let (sent, wires, over) = (Arc::clone(&tap.sent), Arc::clone(&tap.wires), Arc::clone(&tap.over));
        let (held, refused) = (Arc::clone(&tap.held), Arc::clone(&tap.refused));
        thread::spawn(move || {
            while !over.load(Ordering::Acquire) {
                let Ok((client, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(2));
                    continue;
                };
                if held.load(Ordering::Acquire) {
                    refused.fetch_add(1, Ordering::AcqRel);
                    continue;
                }
                client.set_nonblocking(false).unwrap();
                let Ok(server) = TcpStream::connect(server) else {
                    continue;
                };
                wires
                    .lock()
                    .unwrap()
                    .extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                let (client_too, server_too) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let sent = Arc::clone(&sent);
                thread::spawn(move || pass(client, server, Some(&sent)));
                thread::spawn(move || pass(server_too, client_too, None));
            }
        });
        tap
    }

    /// How many packets of a kind the client has sent.
    pub(crate) fn sent(&self, kind: u8) -> usize {
        self.sent.lock().unwrap().iter().filter(|sent| **sent == kind).count()
    }

    /// Lets nobody connect, or does again.
    pub(crate) fn hold(&self, hold: bool) {
        self.held.store(hold, Ordering::Release);
    }

    /// How many were not let connect.
    pub(crate) fn refused(&self) -> usize {
        self.refused.load(Ordering::Acquire)
    }

    /// Cuts all connections there are.
    pub(crate) fn cut(&self) {
        for wire in self.wires.lock().unwrap().drain(..) {
            let _ = wire.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        self.cut();
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, kinds: Option<&Mutex<Vec<u8>>>) {
    let mut chunk = [0; 4096];
    // Where packets end, to know which bytes begin one.
    let mut held: Vec<u8> = Vec::new();
    while let Ok(read @ 1..) = from.read(&mut chunk) {
        if let Some(kinds) = kinds {
            held.extend_from_slice(&chunk[..read]);
            while let Some(length) = packet_length(&held) {
                kinds.lock().unwrap().push(held[0] >> 4);
                held.drain(..length);
            }
        }
        if to.write_all(&chunk[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// The length of the packet at the beginning, if it is whole.
pub(crate) fn packet_length(bytes: &[u8]) -> Option<usize> {
    let (mut length, mut shift, mut header) = (0, 0, 1);
    loop {
        let byte = *bytes.get(header)?;
        length |= usize::from(byte & 0x7f) << shift;
        header += 1;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    (bytes.len() >= header + length).then_some(header + length)
}
