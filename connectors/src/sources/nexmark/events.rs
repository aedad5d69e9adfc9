//! What each event holds, by its number: the standard proportions and distributions.
//!
//! Three of four auctions are of the newest "hot" seller, half of all bids go to
//! the newest hot auction and three of four come from the newest hot bidder; the
//! rest is spread over the last thousand people and the last hundred auctions, and a
//! few over those yet to come. Prices are spread evenly over six powers of ten.

use std::fmt::Write as _;

use super::Table;

/// Events after which the order of tables repeats.
pub(super) const PER_EPOCH: u64 = 50;
const PEOPLE: u64 = 1;
const AUCTIONS: u64 = 3;
const BIDS: u64 = 46;

const FIRST_PERSON: u64 = 1000;
const FIRST_AUCTION: u64 = 1000;
const FIRST_CATEGORY: u64 = 10;
const CATEGORIES: u64 = 5;
/// One of so many is hot, newest first.
const HOT_EVERY: u64 = 100;
const ACTIVE_PEOPLE: u64 = 1000;
const OPEN_AUCTIONS: u64 = 100;
/// People and auctions that are spoken of before they come.
const LEAD: u64 = 10;
const CHANNELS: u64 = 10_000;

const HOT_CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];
const STATES: [&str; 6] = ["az", "ca", "id", "or", "wa", "wy"];
const CITIES: [&str; 10] = [
    "phoenix",
    "los angeles",
    "san francisco",
    "boise",
    "portland",
    "bend",
    "redmond",
    "seattle",
    "kent",
    "cheyenne",
];
const FIRST_NAMES: [&str; 11] = [
    "peter", "paul", "luke", "john", "saul", "vicky", "kate", "julie", "sarah", "deiter", "walter",
];
const LAST_NAMES: [&str; 9] = [
    "shultz", "abrams", "spencer", "white", "bartels", "walton", "smith", "jones", "noris",
];

impl Table {
    /// The first of an epoch's events that is of this table, and how many are.
    pub(super) fn share(self) -> (u64, u64) {
        match self {
            Table::Person => (0, PEOPLE),
            Table::Auction => (PEOPLE, AUCTIONS),
            Table::Bid => (PEOPLE + AUCTIONS, BIDS),
        }
    }
}

/// An auction house: what all its events follow from.
#[derive(Debug, Clone, Copy)]
pub(super) struct House {
    pub(super) seed: u64,
    pub(super) rate: u64,
    pub(super) start_us: i64,
}

/// The person of an event.
#[derive(Debug, Default)]
pub(super) struct Person {
    pub(super) id: i64,
    pub(super) name: String,
    pub(super) email_address: String,
    pub(super) credit_card: String,
    pub(super) city: &'static str,
    pub(super) state: &'static str,
    pub(super) date_time: i64,
    pub(super) extra: String,
}

/// The auction of an event.
#[derive(Debug, Default)]
pub(super) struct Auction {
    pub(super) id: i64,
    pub(super) item_name: String,
    pub(super) description: String,
    pub(super) initial_bid: i64,
    pub(super) reserve: i64,
    pub(super) date_time: i64,
    pub(super) expires: i64,
    pub(super) seller: i64,
    pub(super) category: i64,
    pub(super) extra: String,
}

/// The bid of an event.
#[derive(Debug, Default)]
pub(super) struct Bid {
    pub(super) auction: i64,
    pub(super) bidder: i64,
    pub(super) price: i64,
    pub(super) channel: String,
    pub(super) url: String,
    pub(super) date_time: i64,
    pub(super) extra: String,
}

impl House {
    /// When an event happens: all are equally far apart.
    pub(super) fn time_us(&self, event: u64) -> i64 {
        let us = u128::from(event) * 1_000_000 / u128::from(self.rate);
        self.start_us.saturating_add(i64::try_from(us).unwrap_or(i64::MAX))
    }

    fn dice(&self, event: u64) -> Dice {
        // Two rounds: neighbours of neighbouring seeds must not resemble each other.
        let mut dice = Dice(self.seed);
        dice.0 = dice.next() ^ event.wrapping_mul(0xD6E8_FEB8_6659_FD93);
        dice
    }

    /// Makes the person of an event, in place.
    pub(super) fn person(&self, event: u64, person: &mut Person) {
        let dice = &mut self.dice(event);
        person.id = id(FIRST_PERSON + last_person(event));
        person.name.clear();
        person.name.push_str(dice.pick(&FIRST_NAMES));
        person.name.push(' ');
        person.name.push_str(dice.pick(&LAST_NAMES));
        person.email_address.clear();
        dice.letters(&mut person.email_address, 7);
        person.email_address.push('@');
        dice.letters(&mut person.email_address, 5);
        person.email_address.push_str(".com");
        person.credit_card.clear();
        for group in 0..4 {
            let space = if group == 0 { "" } else { " " };
            // Writing to a text cannot fail.
            let _ = write!(person.credit_card, "{space}{:04}", dice.below(10_000));
        }
        person.city = dice.pick(&CITIES);
        person.state = dice.pick(&STATES);
        person.date_time = self.time_us(event);
        person.extra.clear();
        let length = dice.about(100);
        dice.letters(&mut person.extra, length);
    }

    /// Makes the auction of an event, in place.
    pub(super) fn auction(&self, event: u64, auction: &mut Auction) {
        let dice = &mut self.dice(event);
        auction.id = id(FIRST_AUCTION + last_auction(event));
        auction.item_name.clear();
        dice.letters(&mut auction.item_name, 20);
        auction.description.clear();
        dice.letters(&mut auction.description, 100);
        auction.initial_bid = dice.price();
        auction.reserve = auction.initial_bid + dice.price();
        auction.date_time = self.time_us(event);
        // It lasts, on average, as long as it takes for those open to be opened.
        let horizon = self.time_us(event.saturating_add(OPEN_AUCTIONS * PER_EPOCH / AUCTIONS));
        let longest = u64::try_from(horizon.saturating_sub(auction.date_time))
            .unwrap_or(0)
            .saturating_mul(2);
        auction.expires = auction.date_time.saturating_add(id(1000 + dice.below(longest.max(1))));
        let seller = if dice.below(4) > 0 {
            last_person(event) / HOT_EVERY * HOT_EVERY
        } else {
            dice.someone(event)
        };
        auction.seller = id(FIRST_PERSON + seller);
        auction.category = id(FIRST_CATEGORY + dice.below(CATEGORIES));
        auction.extra.clear();
        let length = dice.about(250);
        dice.letters(&mut auction.extra, length);
    }

    /// Makes the bid of an event, in place.
    pub(super) fn bid(&self, event: u64, bid: &mut Bid) {
        let dice = &mut self.dice(event);
        let newest = last_auction(event);
        let auction = if dice.below(2) > 0 {
            newest / HOT_EVERY * HOT_EVERY
        } else {
            let oldest = newest.saturating_sub(OPEN_AUCTIONS);
            oldest + dice.below(newest - oldest + 1 + LEAD)
        };
        bid.auction = id(FIRST_AUCTION + auction);
        // Second of its hundred, so that hot bidders are no hot sellers.
        let bidder = if dice.below(4) > 0 {
            last_person(event) / HOT_EVERY * HOT_EVERY + 1
        } else {
            dice.someone(event)
        };
        bid.bidder = id(FIRST_PERSON + bidder);
        bid.price = dice.price();
        bid.channel.clear();
        bid.url.clear();
        bid.url.push_str("https://www.nexmark.com/");
        let hot = dice.below(2) > 0;
        let channel = if hot { dice.below(4) } else { dice.below(CHANNELS) };
        // A channel has one address, whoever bids through it.
        let mut of_channel = Dice(self.seed.wrapping_add(channel << 1 | u64::from(hot)));
        for _ in 0..3 {
            of_channel.letters(&mut bid.url, 5);
            bid.url.push('/');
        }
        bid.url.push_str("item.htm?query=1");
        if hot {
            bid.channel
                .push_str(HOT_CHANNELS[channel as usize % HOT_CHANNELS.len()]);
        } else {
            let _ = write!(bid.channel, "channel-{channel}");
            if of_channel.below(10) > 0 {
                let _ = write!(bid.url, "&channel_id={}", of_channel.next() >> 33);
            }
        }
        bid.date_time = self.time_us(event);
        bid.extra.clear();
        let length = dice.about(40);
        dice.letters(&mut bid.extra, length);
    }
}

/// The newest person as of an event, counted from 0.
fn last_person(event: u64) -> u64 {
    // Each epoch begins with its one person.
    event / PER_EPOCH * PEOPLE
}

/// The newest auction as of an event, counted from 0.
fn last_auction(event: u64) -> u64 {
    let (epoch, offset) = (event / PER_EPOCH, event % PER_EPOCH);
    let opened = (epoch * AUCTIONS) + offset.saturating_sub(PEOPLE - 1).min(AUCTIONS);
    opened.saturating_sub(1)
}

fn id(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Random numbers (SplitMix64).
struct Dice(u64);

impl Dice {
    #[inline]
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to less than `below`.
    #[inline]
    fn below(&mut self, below: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(below)) >> 64) as u64
    }

    fn pick(&mut self, words: &[&'static str]) -> &'static str {
        words[self.below(words.len() as u64) as usize]
    }

    /// A length within a fifth of `middle`.
    fn about(&mut self, middle: u64) -> u64 {
        middle - middle / 5 + self.below(middle / 5 * 2 + 1)
    }

    /// Adds small letters.
    fn letters(&mut self, text: &mut String, count: u64) {
        let mut bits = 0;
        for at in 0..count {
            if at % 8 == 0 {
                bits = self.next();
            }
            text.push(char::from(b'a' + (((bits & 0xff) * 26) >> 8) as u8));
            bits >>= 8;
        }
    }

    /// One of the people who are active, or soon will be, counted from 0.
    fn someone(&mut self, event: u64) -> u64 {
        let people = last_person(event) + 1;
        let active = people.min(ACTIVE_PEOPLE);
        people - active + self.below(active + LEAD)
    }

    /// A price in cents, from 1.00 to a million: every power of two is as likely,
    /// and what lies between them is even. No logarithm, which differs by machine.
    fn price(&mut self) -> i64 {
        // 19.9 doublings make six powers of ten.
        let doublings = self.below(1990 << 32);
        let (whole, part) = (doublings / (100 << 32), doublings % (100 << 32));
        let base = 100_u64 << whole;
        id(base + (u128::from(base) * u128::from(part) / (100 << 32)) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_the_events() {
        assert_eq!([0, 1, 49, 50, 51].map(last_person), [0, 0, 0, 1, 1]);
        assert_eq!(
            [0, 1, 2, 3, 4, 49, 50, 51, 53, 54].map(last_auction),
            [0, 0, 1, 2, 2, 2, 2, 3, 5, 5]
        );
    }

    #[test]
    fn prices_span_six_powers_of_ten() {
        let mut dice = Dice(7);
        let mut prices: Vec<i64> = (0..10_000).map(|_| dice.price()).collect();
        prices.sort_unstable();
        assert!(prices[0] >= 100 && prices[9_999] <= 100_000_000);
        // Half of them below a thousand, give or take.
        assert!((70_000..140_000).contains(&prices[5_000]), "{}", prices[5_000]);
    }
}
