//! The listener of one address, which several sources may share.
//!
//! It is a thread of its own. It lets clients in once every source that was there when it was opened is read from,
//! and so has said what an earlier run has logged; until then they wait. When its last source goes, it closes.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::{interval, sleep};
use tracing::{info, warn};

use crate::error::ConfigError;
use crate::sources::mqtt::inbox::{Held, Inbox, Item, Peer};
use crate::sources::mqtt::session::Session;
use crate::sources::mqtt::topic::Patterns;
use crate::sources::mqtt_listener::connection;

/// Clients that wait to be let in.
const BACKLOG: u32 = 1024;
/// Sessions that are remembered of clients that are not there.
const SESSIONS_MAX: usize = 100_000;
/// How often sessions are looked through for those that nobody came back to.
const SWEEP: Duration = Duration::from_secs(30);

/// What sources that share an address have to agree on.
#[derive(Debug, Clone)]
pub(crate) struct DoorSettings {
    pub(crate) listen: SocketAddr,
    pub(crate) login: Option<(String, String)>,
    pub(crate) tls: Option<Arc<ServerConfig>>,
    pub(crate) tls_files: (Option<PathBuf>, Option<PathBuf>, Option<PathBuf>),
    pub(crate) connections_max: usize,
    pub(crate) in_flight: u16,
    pub(crate) packet_bytes_max: u32,
}

impl DoorSettings {
    fn agrees(&self, other: &DoorSettings) -> bool {
        self.login == other.login
            && self.tls_files == other.tls_files
            && self.connections_max == other.connections_max
            && self.in_flight == other.in_flight
            && self.packet_bytes_max == other.packet_bytes_max
    }
}

/// The doors of this process that are open, by the address they were declared with.
static DOORS: Mutex<Vec<Open>> = Mutex::new(Vec::new());

struct Open {
    door: Arc<Door>,
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

/// An id that a source holds, and where its messages go.
type Holding = (Held, Arc<Inbox>);

/// A message, and where it goes.
type Delivered = (Arc<Inbox>, Item);

/// What the thread of a listener and its sources share.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) settings: DoorSettings,
    taken: RwLock<Arc<Vec<Taker>>>,
    held: Mutex<HashMap<u32, Vec<Holding>>>,
    /// Whether clients are let in.
    ready: watch::Sender<bool>,
}

/// A source, and the topics it takes.
#[derive(Debug, Clone)]
pub(super) struct Taker {
    number: u64,
    pub(super) patterns: Arc<Patterns>,
    pub(super) inbox: Arc<Inbox>,
    ready: bool,
}

impl Door {
    /// The sources there are.
    pub(super) fn takers(&self) -> Arc<Vec<Taker>> {
        Arc::clone(&self.taken.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Taker>)) {
        let mut takers = self.taken.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = takers.to_vec();
        change(&mut changed);
        *takers = Arc::new(changed);
    }

    /// Takes what an earlier run has logged of a client's ids.
    fn held(&self, client: u32) -> Vec<(Held, Arc<Inbox>)> {
        lock(&self.held).remove(&client).unwrap_or_default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The way of one source to its door; dropped, its messages are taken no more.
#[derive(Debug)]
pub(crate) struct Route {
    door: Arc<Door>,
    number: u64,
}

/// Makes way for a source, opening the door if nobody has.
pub(crate) fn route(settings: DoorSettings, patterns: Patterns, inbox: &Arc<Inbox>) -> Result<Route, ConfigError> {
    let mut doors = lock(&DOORS);
    let listen = settings.listen;
    let known = doors
        .iter()
        .find(|open| listen.port() != 0 && open.door.settings.listen == listen);
    let door = match known {
        Some(open) if !open.door.settings.agrees(&settings) => {
            return Err(ConfigError::new(format!(
                "the listener on {listen} is shared with another source, which declares it otherwise"
            ))
            .with_hint(
                "Declare the same username, password, certificate, key, ca, connections_max, in_flight and \
                 packet_bytes_max in all sources that listen there, or listen on another port.",
            ));
        }
        Some(open) => Arc::clone(&open.door),
        None => {
            let opened = open(settings).map_err(|error| {
                ConfigError::new(format!("could not listen on {listen}: {error}"))
                    .with_hint("Choose an address of this machine and a port that nobody else listens on.")
            })?;
            let door = Arc::clone(&opened.door);
            doors.push(opened);
            door
        }
    };
    let mut number = 0;
    door.change(|takers| {
        number = takers.iter().map(|taker| taker.number + 1).max().unwrap_or(0);
        takers.push(Taker {
            number,
            patterns: Arc::new(patterns),
            inbox: Arc::clone(inbox),
            ready: false,
        });
    });
    Ok(Route { door, number })
}

impl Route {
    /// Remembers the ids that an earlier run has logged for this source.
    pub(crate) fn resume(&self, held: &[Held]) {
        let takers = self.door.takers();
        let Some(own) = takers.iter().find(|taker| taker.number == self.number) else {
            return;
        };
        let mut known = lock(&self.door.held);
        for &held in held {
            let entry = (held, Arc::clone(&own.inbox));
            known.entry(held.client).or_default().push(entry);
        }
    }

    /// Says that this source is read from.
    pub(crate) fn ready(&self) {
        let mut all = false;
        self.door.change(|takers| {
            for taker in takers.iter_mut().filter(|taker| taker.number == self.number) {
                taker.ready = true;
            }
            all = takers.iter().all(|taker| taker.ready);
        });
        if all {
            self.door.ready.send_replace(true);
        }
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        let mut doors = lock(&DOORS);
        let mut last = false;
        self.door.change(|takers| {
            takers.retain(|taker| taker.number != self.number);
            last = takers.is_empty();
        });
        if !last {
            return;
        }
        if let Some(position) = doors.iter().position(|open| Arc::ptr_eq(&open.door, &self.door)) {
            let Open { stop, thread, .. } = doors.swap_remove(position);
            stop.send_replace(true);
            // Whoever opens the door again finds the address free, for the lock is kept until then.
            let _ = thread.join();
        }
    }
}

fn open(settings: DoorSettings) -> io::Result<Open> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _inside = runtime.enter();
        let socket = match settings.listen {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(settings.listen)?;
        socket.listen(BACKLOG)?
    };
    let address = listener.local_addr()?;
    let scheme = if settings.tls.is_some() { "mqtts" } else { "mqtt" };
    let open = if settings.login.is_some() {
        "with a password"
    } else {
        "for anyone"
    };
    info!("listening on {scheme}://{address}, {open}");
    let door = Arc::new(Door {
        settings,
        taken: RwLock::default(),
        held: Mutex::default(),
        ready: watch::Sender::new(false),
    });
    let (stop, mut stopped) = watch::channel(false);
    let inside = Arc::clone(&door);
    let thread = thread::Builder::new().name("mqtt_listener".to_owned()).spawn(move || {
        let tasks = LocalSet::new();
        runtime.block_on(tasks.run_until(async {
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => {}
                () = accept(listener, inside) => {}
            }
        }));
    })?;
    Ok(Open { door, stop, thread })
}

/// What the connections of one door share; all are served by one thread.
pub(super) struct House {
    pub(super) door: Arc<Door>,
    sessions: RefCell<HashMap<Arc<str>, Rc<Kept>>>,
    connections: Cell<usize>,
    /// Connections so far, by which they are told apart.
    pub(super) served: Cell<u64>,
    told: Cell<Option<Instant>>,
}

/// A session, which may outlive its connection.
pub(super) struct Kept {
    pub(super) session: RefCell<Session>,
    pub(super) peer: RefCell<Arc<Peer>>,
    /// The number of the client's name in the log.
    pub(super) number: u32,
    /// The connection that serves it.
    pub(super) owner: Cell<Option<u64>>,
    /// Until when it is kept without a connection; None is for ever.
    expires: Cell<Option<Instant>>,
}

impl Kept {
    /// Forgets everything, and lets those know who have logged some of it.
    pub(super) fn forget(&self) -> Vec<(Arc<Inbox>, Item)> {
        self.owner.set(None);
        self.peer.borrow().wake();
        let holders = self.session.borrow_mut().clear();
        holders
            .into_iter()
            .map(|holder| (holder, Item::Forget(self.number)))
            .collect()
    }

    /// Takes back what was given up, so that it is new when it comes again.
    pub(super) fn renew(&self) {
        self.session.borrow_mut().give_up();
        *self.peer.borrow_mut() = Arc::default();
    }
}

impl House {
    /// Finds the session of a client, or begins one; says whether it was there, and what is to be told because an
    /// older one is forgotten.
    pub(super) fn session(&self, client: &Arc<str>, clean: bool, owner: u64) -> (Rc<Kept>, bool, Vec<Delivered>) {
        let mut sessions = self.sessions.borrow_mut();
        let number = crate::sources::mqtt::client::client_number(client);
        let held = self.door.held(number);
        if let Some(kept) = sessions.get(client)
            && !clean
        {
            // Whoever served it finds another owner, and ends.
            kept.owner.set(Some(owner));
            kept.peer.borrow().wake();
            kept.session.borrow_mut().disconnect();
            if kept.peer.borrow().given_up() {
                kept.renew();
            }
            for (held, inbox) in held {
                kept.session.borrow_mut().restore(held.id, held.digest, inbox);
            }
            return (Rc::clone(kept), true, Vec::new());
        }
        let mut tell = sessions.remove(client).map(|kept| kept.forget()).unwrap_or_default();
        let mut session = Session::default();
        let known = !held.is_empty();
        for (held, inbox) in held {
            match clean {
                true => tell.push((inbox, Item::Forget(number))),
                false => session.restore(held.id, held.digest, inbox),
            }
        }
        let kept = Rc::new(Kept {
            session: RefCell::new(session),
            peer: RefCell::default(),
            number,
            owner: Cell::new(Some(owner)),
            expires: Cell::new(None),
        });
        if sessions.len() >= SESSIONS_MAX {
            sessions.retain(|_, kept| kept.owner.get().is_some() || kept.session.borrow().len() > 0);
        }
        sessions.insert(Arc::clone(client), Rc::clone(&kept));
        (kept, known && !clean, tell)
    }

    /// Hears that a connection is over; its session is kept for so many seconds.
    pub(super) fn leave(&self, client: &Arc<str>, kept: &Rc<Kept>, expiry: u32) -> Vec<(Arc<Inbox>, Item)> {
        kept.owner.set(None);
        kept.session.borrow_mut().disconnect();
        if expiry == 0 {
            let mut sessions = self.sessions.borrow_mut();
            if sessions.get(client).is_some_and(|known| Rc::ptr_eq(known, kept)) {
                sessions.remove(client);
            }
            return kept.forget();
        }
        kept.expires
            .set((expiry != u32::MAX).then(|| Instant::now() + Duration::from_secs(expiry.into())));
        Vec::new()
    }

    async fn sweep(&self) {
        let mut sweep = interval(SWEEP);
        loop {
            sweep.tick().await;
            let now = Instant::now();
            let mut tell = Vec::new();
            self.sessions.borrow_mut().retain(|_, kept| {
                let over = kept.owner.get().is_none() && kept.expires.get().is_some_and(|expires| expires <= now);
                if over {
                    tell.append(&mut kept.forget());
                }
                !over
            });
            for (inbox, item) in tell {
                // A source that is gone has nothing to forget.
                let _ = inbox.send(&mut vec![item]).await;
            }
        }
    }

    /// Says that a client was turned away, now and then.
    pub(super) fn turned_away(&self, client: SocketAddr, reason: &str) {
        const SELDOM: Duration = Duration::from_secs(10);
        if self.told.get().is_none_or(|told| told.elapsed() >= SELDOM) {
            self.told.set(Some(Instant::now()));
            let listener = self.door.settings.listen;
            warn!(%listener, %client, reason, "turned an MQTT client away; further ones are not told of for a while");
        }
    }
}

async fn accept(listener: TcpListener, door: Arc<Door>) {
    let mut ready = door.ready.subscribe();
    // The sender is part of the door, which is kept here.
    let _ = ready.wait_for(|ready| *ready).await;
    let house = Rc::new(House {
        door,
        sessions: RefCell::default(),
        connections: Cell::new(0),
        served: Cell::new(0),
        told: Cell::new(None),
    });
    let sweeper = Rc::clone(&house);
    tokio::task::spawn_local(async move { sweeper.sweep().await });
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                if house.connections.get() >= house.door.settings.connections_max {
                    house.turned_away(address, "there are as many clients as connections_max allows");
                    continue;
                }
                let house = Rc::clone(&house);
                house.connections.set(house.connections.get() + 1);
                tokio::task::spawn_local(async move {
                    let counted = Counted(Rc::clone(&house));
                    connection::serve(house, stream, address).await;
                    drop(counted);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: those that are served will go.
                warn!(listener = %house.door.settings.listen, %error, "could not take a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Counts a connection as gone, whatever ended it.
struct Counted(Rc<House>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
    }
}
