//! Ctrl-C while everything is busy.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{facts, rows};
use crate::program::Program;

#[test]
fn it_stops_promptly_under_load() {
    let dir = facts();
    let mut program = Program::start(dir.path());
    for part in 0..10 {
        program.ingest("facts", rows(part * 20_000, 20_000, 200_000, 1));
    }
    let taken = AtomicUsize::new(0);
    let mut watcher = program.live();
    watcher.subscribe("halves");
    watcher.until("the first answer", |live| live.of("halves").tick > 0);
    // One that has subscribed to much and reads nothing.
    let mut deaf = program.live();
    deaf.subscribe("values");
    let took = thread::scope(|scope| {
        let (program_ref, taken) = (&program, &taken);
        let posters: Vec<_> = (0..4)
            .map(|poster| {
                scope.spawn(move || {
                    for v in 0.. {
                        let body = rows(poster * 50_000 + v * 500 % 50_000, 500, 200_000, v);
                        let headers = [("content-type", "application/json")];
                        match program_ref.try_request("POST", "/ingest/facts", &headers, body.as_bytes()) {
                            Ok(reply) if reply.status == 200 => {
                                taken.fetch_add(1, Ordering::Relaxed);
                            }
                            // A clear no, or nobody there any more.
                            Ok(reply) => {
                                assert_eq!(reply.refusal().0, 503, "{}", reply.text());
                                return;
                            }
                            Err(_) => return,
                        }
                    }
                })
            })
            .collect();
        program.until("the load is on", || taken.load(Ordering::Relaxed) > 40);
        let interrupted = Instant::now();
        program.interrupt();
        for poster in posters {
            poster.join().expect("every POST is answered or broken off");
        }
        interrupted
    });
    let status = program.ended(Duration::from_secs(10));
    println!("it stopped {:.1?} after Ctrl-C", took.elapsed());
    assert!(took.elapsed() < Duration::from_secs(10));
    assert_eq!(status.code(), Some(0), "it said:\n{}", program.said());
    assert_eq!(watcher.closed(), Some(1001), "whoever watches is told that it goes");
    assert!(!program.said().contains("panicked"), "it said:\n{}", program.said());
}
