//! Queries over the auction house in typed differential dataflow, written by hand: lines parsed into structs that
//! borrow from them, only the columns a query needs go in, filters before joins, counts in the diffs.
#![allow(dead_code, reason = "each bench uses its part of this")]

use std::borrow::Cow;
use std::cell::Cell;
use std::cmp::Reverse;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::rc::Rc;
use std::time::Instant;

use chrono::DateTime;
use differential_dataflow::input::InputSession;
use differential_dataflow::operators::CountTotal;
use serde::{Deserialize, Deserializer};
use timely::dataflow::ProbeHandle;

use super::auctions::{House, Run, TICK_EVENTS};
use super::rounds::{processor_seconds, resident_bytes};

/// Ticks handed over before the oldest is done.
const IN_FLIGHT: u64 = 2;
const SECOND_US: i64 = 1_000_000;

type Worker = timely::worker::Worker;
type Probe = ProbeHandle<u64>;
type Input<D, R = isize> = InputSession<u64, D, R>;

/// The queries that have been written by hand.
pub const WRITTEN: [&str; 7] = ["q0", "q3", "q4", "q5", "q8", "q9", "count"];

/// Runs one of them over the files.
pub fn run(house: &House, name: &str) -> Run {
    let query = match name {
        "q0" => q0,
        "q3" => q3,
        "q4" => q4,
        "q5" => q5,
        "q8" => q8,
        "q9" => q9,
        "count" => count,
        other => unreachable!("{other} is not among those written"),
    };
    let house = House {
        dir: house.dir.clone(),
        events: house.events,
    };
    timely::execute_directly(move |worker| {
        let rows: Rows = Rc::default();
        let (resident, processor, begin) = (resident_bytes(), processor_seconds(), Instant::now());
        query(&house, worker, &rows);
        Run {
            processor: processor_seconds() - processor,
            wall: begin.elapsed().as_secs_f64(),
            resident: resident_bytes().saturating_sub(resident),
            rows: rows.get(),
            ..Run::default()
        }
    })
}

/// The rows of the answer so far.
type Rows = Rc<Cell<i64>>;

fn counting(rows: &Rows) -> impl Fn(isize) + 'static {
    let rows = Rc::clone(rows);
    move |diff| rows.set(rows.get() + diff as i64)
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "a row is read as it is declared, whatever a query needs of it")]
struct Person<'a> {
    id: u64,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    email_address: Cow<'a, str>,
    #[serde(borrow)]
    credit_card: Cow<'a, str>,
    #[serde(borrow)]
    city: Cow<'a, str>,
    #[serde(borrow)]
    state: Cow<'a, str>,
    #[serde(deserialize_with = "micros")]
    date_time: i64,
    #[serde(borrow)]
    extra: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Auction<'a> {
    id: u64,
    #[serde(borrow)]
    item_name: Cow<'a, str>,
    #[serde(borrow)]
    description: Cow<'a, str>,
    initial_bid: i64,
    reserve: i64,
    #[serde(deserialize_with = "micros")]
    date_time: i64,
    #[serde(deserialize_with = "micros")]
    expires: i64,
    seller: u64,
    category: i64,
    #[serde(borrow)]
    extra: Cow<'a, str>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "a row is read as it is declared, whatever a query needs of it")]
struct Bid<'a> {
    auction: u64,
    bidder: u64,
    price: i64,
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(borrow)]
    url: Cow<'a, str>,
    #[serde(deserialize_with = "micros")]
    date_time: i64,
    #[serde(borrow)]
    extra: Cow<'a, str>,
}

fn micros<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let text = <Cow<'de, str>>::deserialize(deserializer)?;
    let at = DateTime::parse_from_rfc3339(&text).map_err(serde::de::Error::custom)?;
    Ok(at.timestamp_micros())
}

/// The lines of one table, a tick's share at a time.
struct Lines {
    reader: BufReader<File>,
    rows: usize,
    line: Vec<u8>,
}

impl Lines {
    fn open(house: &House, table: &str) -> Lines {
        Lines {
            reader: BufReader::with_capacity(512 * 1024, File::open(house.file(table)).expect("the lines")),
            rows: House::tick_rows(&[table]),
            line: Vec::new(),
        }
    }

    /// Hands over one tick's lines.
    fn tick(&mut self, mut see: impl FnMut(&[u8])) {
        for _ in 0..self.rows {
            self.line.clear();
            if self.reader.read_until(b'\n', &mut self.line).expect("a line") == 0 {
                return;
            }
            see(&self.line);
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(line: &'a [u8]) -> T {
    serde_json::from_slice(line).expect("a row")
}

/// Feeds every tick and works until the last is done.
fn drive(house: &House, worker: &mut Worker, probe: &Probe, mut feed: impl FnMut(u64)) {
    let ticks = house.events.div_ceil(TICK_EVENTS) as u64;
    for next in 1..=ticks {
        feed(next);
        worker.step_while(|| probe.less_than(&next.saturating_sub(IN_FLIGHT)));
    }
    worker.step_while(|| probe.less_than(&ticks));
}

fn close<D: differential_dataflow::Data, R: differential_dataflow::difference::Semigroup + 'static>(
    input: &mut Input<D, R>,
    next: u64,
) {
    input.advance_to(next);
    input.flush();
}

fn q0(house: &House, worker: &mut Worker, rows: &Rows) {
    let (probe, mut bids, count) = (Probe::new(), Input::new(), counting(rows));
    worker.dataflow(|scope| {
        let rows = bids.to_collection(scope);
        rows.inspect(move |(_, _, diff)| count(*diff)).probe_with(&probe);
    });
    let mut lines = Lines::open(house, "bid");
    drive(house, worker, &probe, |next| {
        lines.tick(|line| {
            let bid: Bid = parse(line);
            bids.insert((
                bid.auction,
                bid.bidder,
                bid.price,
                bid.date_time,
                bid.extra.into_owned(),
            ));
        });
        close(&mut bids, next);
    });
}

fn q3(house: &House, worker: &mut Worker, rows: &Rows) {
    let (probe, mut people, mut auctions, count) = (Probe::new(), Input::new(), Input::new(), counting(rows));
    worker.dataflow(|scope| {
        let people = people.to_collection(scope);
        let auctions = auctions.to_collection(scope);
        let local = auctions.join_map(people, |_, id: &u64, (name, city, state): &(String, String, String)| {
            (name.clone(), city.clone(), state.clone(), *id)
        });
        local.inspect(move |(_, _, diff)| count(*diff)).probe_with(&probe);
    });
    let (mut person_lines, mut auction_lines) = (Lines::open(house, "person"), Lines::open(house, "auction"));
    drive(house, worker, &probe, |next| {
        person_lines.tick(|line| {
            let person: Person = parse(line);
            if matches!(&*person.state, "or" | "id" | "ca") {
                let names = (
                    person.name.into_owned(),
                    person.city.into_owned(),
                    person.state.into_owned(),
                );
                people.insert((person.id, names));
            }
        });
        auction_lines.tick(|line| {
            let auction: Auction = parse(line);
            if auction.category == 10 {
                auctions.insert((auction.seller, auction.id));
            }
        });
        close(&mut people, next);
        close(&mut auctions, next);
    });
}

fn q4(house: &House, worker: &mut Worker, rows: &Rows) {
    let (probe, mut auctions, mut bids, count) = (Probe::new(), Input::new(), Input::new(), counting(rows));
    worker.dataflow(|scope| {
        let auctions = auctions.to_collection(scope).arrange_by_key();
        let bids = bids.to_collection(scope).arrange_by_key();
        let valid = auctions.join_core(
            bids,
            |id, (category, from, to): &(i64, i64, i64), (price, at): &(i64, i64)| {
                (from <= at && at <= to).then_some(((*id, *category), *price))
            },
        );
        let highest = valid.reduce(|_, prices, output| output.push((*prices[prices.len() - 1].0, 1_isize)));
        let averages = highest
            .explode(|((_, category), price)| Some((category, (price as isize, 1_isize))))
            .count_total()
            .map(|(category, (sum, count))| (category, sum / count));
        averages.inspect(move |(_, _, diff)| count(*diff)).probe_with(&probe);
    });
    let (mut auction_lines, mut bid_lines) = (Lines::open(house, "auction"), Lines::open(house, "bid"));
    drive(house, worker, &probe, |next| {
        auction_lines.tick(|line| {
            let open: Auction = parse(line);
            auctions.insert((open.id, (open.category, open.date_time, open.expires)));
        });
        bid_lines.tick(|line| {
            let bid: Bid = parse(line);
            bids.insert((bid.auction, (bid.price, bid.date_time)));
        });
        close(&mut auctions, next);
        close(&mut bids, next);
    });
}

fn q5(house: &House, worker: &mut Worker, rows: &Rows) {
    // The view lets go of windows that are over; those that it still shows at the end are compared.
    let shown = house.end_us(&["bid"]) as i64 - 10 * SECOND_US;
    let (probe, mut bids, count) = (Probe::new(), Input::new(), counting(rows));
    worker.dataflow(|scope| {
        let counts = bids
            .to_collection(scope)
            .flat_map(|(auction, at): (u64, i64)| {
                let newest = at.div_euclid(2 * SECOND_US) * 2 * SECOND_US;
                (0..5).map(move |back| (newest - back * 2 * SECOND_US, auction))
            })
            .count_total();
        let hot = counts
            .map(|((window, auction), count)| (window, (count, auction)))
            .reduce(|_, counts, output| {
                let most = counts[counts.len() - 1].0.0;
                let hot = counts.iter().rev().take_while(|((count, _), _)| *count == most);
                output.extend(hot.map(|(row, _)| (**row, 1_isize)));
            });
        hot.inspect(move |((window, _), _, diff)| {
            if window + 10 * SECOND_US > shown {
                count(*diff);
            }
        })
        .probe_with(&probe);
    });
    let mut lines = Lines::open(house, "bid");
    drive(house, worker, &probe, |next| {
        lines.tick(|line| {
            let bid: Bid = parse(line);
            bids.insert((bid.auction, bid.date_time));
        });
        close(&mut bids, next);
    });
}

fn q8(house: &House, worker: &mut Worker, rows: &Rows) {
    let shown = house.end_us(&["person", "auction"]) as i64 - 30 * SECOND_US;
    let window = |at: i64| at.div_euclid(10 * SECOND_US) * 10 * SECOND_US;
    let (probe, mut people, mut auctions, count) = (Probe::new(), Input::new(), Input::new(), counting(rows));
    worker.dataflow(|scope| {
        let people = people.to_collection(scope);
        let sellers = auctions.to_collection(scope).distinct();
        let new = people.semijoin(sellers);
        new.inspect(
            move |(((_, window), _), _, diff): &(((u64, i64), String), u64, isize)| {
                if *window > shown {
                    count(*diff);
                }
            },
        )
        .probe_with(&probe);
    });
    let (mut person_lines, mut auction_lines) = (Lines::open(house, "person"), Lines::open(house, "auction"));
    drive(house, worker, &probe, |next| {
        person_lines.tick(|line| {
            let person: Person = parse(line);
            people.insert(((person.id, window(person.date_time)), person.name.into_owned()));
        });
        auction_lines.tick(|line| {
            let auction: Auction = parse(line);
            auctions.insert((auction.seller, window(auction.date_time)));
        });
        close(&mut people, next);
        close(&mut auctions, next);
    });
}

/// All of an auction but its id.
type AuctionColumns = (String, String, i64, i64, i64, i64, u64, i64, String);
/// A bid, the best first.
type Ranked = (Reverse<i64>, i64, u64, String);

fn q9(house: &House, worker: &mut Worker, rows: &Rows) {
    let (probe, mut auctions, mut bids, count) = (Probe::new(), Input::new(), Input::new(), counting(rows));
    worker.dataflow(|scope| {
        let auctions = auctions.to_collection(scope).arrange_by_key();
        let bids = bids.to_collection(scope).arrange_by_key();
        let valid = auctions
            .clone()
            .join_core(bids, |id: &u64, auction: &AuctionColumns, bid: &Ranked| {
                (auction.4 <= bid.1 && bid.1 <= auction.5).then(|| (*id, bid.clone()))
            });
        let best = valid
            .reduce(|_, bids, output| output.push((bids[0].0.clone(), 1_isize)))
            .arrange_by_key();
        let winning = auctions.join_core(best, |id, auction, bid| Some((*id, auction.clone(), bid.clone())));
        winning.inspect(move |(_, _, diff)| count(*diff)).probe_with(&probe);
    });
    let (mut auction_lines, mut bid_lines) = (Lines::open(house, "auction"), Lines::open(house, "bid"));
    drive(house, worker, &probe, |next| {
        auction_lines.tick(|line| {
            let row: Auction = parse(line);
            let columns = (
                row.item_name.into_owned(),
                row.description.into_owned(),
                row.initial_bid,
                row.reserve,
                row.date_time,
                row.expires,
                row.seller,
                row.category,
                row.extra.into_owned(),
            );
            auctions.insert((row.id, columns));
        });
        bid_lines.tick(|line| {
            let bid: Bid = parse(line);
            let ranked = (Reverse(bid.price), bid.date_time, bid.bidder, bid.extra.into_owned());
            bids.insert((bid.auction, ranked));
        });
        close(&mut auctions, next);
        close(&mut bids, next);
    });
}

fn count(house: &House, worker: &mut Worker, rows: &Rows) {
    let (probe, mut bids, count) = (Probe::new(), Input::<u64, (i64, i64)>::new(), counting(rows));
    worker.dataflow(|scope| {
        let totals = bids.to_collection(scope).count_total();
        totals.inspect(move |(_, _, diff)| count(*diff)).probe_with(&probe);
    });
    let mut lines = Lines::open(house, "bid");
    drive(house, worker, &probe, |next| {
        lines.tick(|line| {
            let bid: Bid = parse(line);
            bids.update(bid.auction, (bid.price, 1));
        });
        close(&mut bids, next);
    });
}
