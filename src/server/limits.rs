//! Every bound of the server, in one place. The size of a POST is the deployment's own.

use std::time::Duration;

/// Bytes of all bodies being received or decoded at one time; beyond, POSTs are answered 503.
pub const BODY_BYTES_IN_FLIGHT_MAX: usize = 256 << 20;
/// Bodies from here on are decoded off the threads that serve the network.
pub const BODY_BYTES_DECODED_INLINE: usize = 64 << 10;
/// How long the next part of a body may take.
pub const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// Bytes read and thrown away after a body has passed its limit, so that the sender reads our answer.
pub const BODY_BYTES_DISCARDED_MAX: usize = 256 << 20;

/// WebSockets open at one time.
pub const SOCKETS_MAX: usize = 4096;
/// Subscriptions on one WebSocket.
pub const SUBSCRIPTIONS_MAX: usize = 256;
/// Bytes of one message from a WebSocket client.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Bytes of a subscription's id.
pub const ID_BYTES_MAX: usize = 256;
/// Rows in one frame of a snapshot.
pub const SNAPSHOT_FRAME_ROWS: usize = 1000;
/// How long a client may take over one frame of a snapshot: until it is through, the
/// snapshot's rows stay in memory for it.
pub const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(60);
/// Changed rows a client may be behind before it gets a fresh snapshot, unless the
/// relation itself is larger.
pub const BEHIND_ROWS_MAX: usize = 100_000;
/// Changed rows from which the net is computed off the threads that serve the network.
pub const NET_ROWS_INLINE: usize = 8192;
/// Bytes of encoded changes kept for the other subscribers of the same rows.
pub const SHARED_BYTES_MAX: usize = 8 << 20;
/// Shared encodings kept, whatever their size.
pub const SHARED_FRAMES_MAX: usize = 128;
/// The least time between progress frames when nothing changes.
pub const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// The time between pings on a WebSocket.
pub const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Bytes of one query's text.
pub const QUERY_TEXT_BYTES_MAX: usize = 1 << 20;
/// Queries that run at one time; others wait.
pub const QUERIES_MAX: usize = 4;
/// Queries that wait; beyond, they are answered 503.
pub const QUERIES_WAITING_MAX: usize = 64;
/// How long a query may run.
pub const QUERY_PATIENCE: Duration = Duration::from_secs(60);
/// Bytes a query may use while it runs, and its result may hold.
pub const QUERY_BYTES_MAX: usize = 256 << 20;

/// How long a replay of earlier ticks may take, and who waits for one may wait: less than a query may.
pub const REPLAY_PATIENCE: Duration = Duration::from_secs(45);
/// Bytes of earlier changes in one answer; who wants more goes on from there.
pub const PAST_BYTES_MAX: usize = 8 << 20;

/// How long requests may go on after the program is told to stop.
pub const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(5);
/// How long WebSocket clients have to take their close frame.
pub const CLOSE_PATIENCE: Duration = Duration::from_secs(1);
