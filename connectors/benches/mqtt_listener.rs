//! How many messages of QoS 1 a second does a listener take in, with each acknowledged as soon as it is read: from
//! one client, and from fifty?
//!
//! Clients and listener share the machine. Below its floor the bench fails.
use std::io::{Read as _, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use arrow::datatypes::{DataType, Field};
use connectors::{Column, ConnectorConfig, FormatConfig, Read, Setting};

const MESSAGES: usize = 400_000;
/// Messages that a client has under way.
const WINDOW: usize = 500;
/// Messages a second.
const FLOOR: f64 = 40_000.0;

fn main() {
    let one = measure(1);
    let fifty = measure(50);
    if one.min(fifty) < FLOOR {
        eprintln!("below the floor of {FLOOR} messages a second");
        std::process::exit(1);
    }
}

fn measure(clients: usize) -> f64 {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let connector: ConnectorConfig = toml::from_str(&format!(
        "type = \"mqtt_listener\"\nlisten = \"127.0.0.1:{port}\"\ntopic = \"stations/{{station}}/readings\"\n"
    ))
    .unwrap();
    let column = |name, data_type| Column::new(Arc::new(Field::new(name, data_type, true)));
    let columns = [
        column("station", DataType::Utf8),
        column("ph", DataType::Float64),
        column("turbidity", DataType::Float64),
    ];
    let setting = Setting {
        name: "readings",
        columns: &columns,
        format: &FormatConfig::default(),
        time_column: None,
        time_zone: "UTC",
        directory: Path::new("."),
        start_us: 0,
    };
    let mut reader = connector.reader(&setting).unwrap().unwrap();
    reader.read(0).unwrap();
    let begun = Instant::now();
    let publishing: Vec<_> = (0..clients)
        .map(|client| thread::spawn(move || publish(port, client, MESSAGES / clients)))
        .collect();
    let (mut rows, mut batches) = (0, 0);
    while rows < MESSAGES {
        match reader.read(0).unwrap() {
            Read::Rows(batch) => {
                rows += batch.decoded.rows.num_rows();
                assert!(batch.decoded.rejected.is_empty());
                batches += 1;
                reader.acknowledge(batches).unwrap();
            }
            Read::Wait(wait) => thread::sleep(wait),
            Read::End => unreachable!("a listener has no end"),
        }
    }
    // It counts once the client has heard of it.
    publishing.into_iter().for_each(|client| client.join().unwrap());
    let rate = rows as f64 / begun.elapsed().as_secs_f64();
    println!(
        "{clients:>2} clients: {rate:>9.0} messages/s, {:.0} a batch",
        rows as f64 / batches as f64
    );
    rate
}

fn publish(port: u16, client: usize, messages: usize) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_nodelay(true).unwrap();
    let name = format!("{client:04}");
    let hello = [&b"\x10\x10\x00\x04MQTT\x04\x02\x00\x00\x00\x04"[..], name.as_bytes()].concat();
    stream.write_all(&hello).unwrap();
    let mut welcome = [0; 4];
    stream.read_exact(&mut welcome).unwrap();
    assert_eq!(welcome, [0x20, 2, 0, 0]);
    let topic = format!("stations/K{client:04}/readings");
    let (mut sent, mut answered) = (0, 0);
    let mut packets = Vec::new();
    let mut answers = vec![0; 4 * WINDOW];
    while answered < messages * 4 {
        packets.clear();
        while sent < messages && sent - answered / 4 < WINDOW {
            let payload = format!(
                "{{\"ph\":{:.2},\"turbidity\":{}.5}}",
                7.0 + (sent % 100) as f64 / 100.0,
                sent % 30
            );
            packets.extend([0x32, (2 + topic.len() + 2 + payload.len()) as u8]);
            packets.extend((topic.len() as u16).to_be_bytes());
            packets.extend(topic.as_bytes());
            packets.extend(((sent % 65_535) as u16 + 1).to_be_bytes());
            packets.extend(payload.as_bytes());
            sent += 1;
        }
        stream.write_all(&packets).unwrap();
        answered += stream.read(&mut answers).unwrap();
    }
}
