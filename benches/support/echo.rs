//! The least a server can do: what is posted goes out to every WebSocket.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::broadcast;

/// Answers until the process is killed.
pub fn serve() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        println!("http://{}", listener.local_addr().expect("an address"));
        let listener = listener.tap_io(|stream| stream.set_nodelay(true).expect("a TCP stream"));
        let router = Router::new()
            .route("/ingest/readings", post(ingest))
            .route("/ws", get(upgrade))
            .with_state(broadcast::channel(65536).0);
        axum::serve(listener, router).await.expect("the server");
    });
}

async fn ingest(State(sender): State<broadcast::Sender<String>>, body: Bytes) {
    let body = String::from_utf8_lossy(&body);
    let _ = sender.send(format!("{{\"type\":\"changes\",\"upsert\":{body}}}"));
}

async fn upgrade(State(sender): State<broadcast::Sender<String>>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async move |mut socket| {
        let mut receiver = sender.subscribe();
        // In place of a snapshot.
        let _ = socket.send(Message::text("{}")).await;
        while let Ok(text) = receiver.recv().await {
            if socket.send(Message::text(text)).await.is_err() {
                return;
            }
        }
    })
}
