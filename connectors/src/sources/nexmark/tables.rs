//! Events as rows: the columns each table has, and those of them that are declared.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Int64Builder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder, new_null_array,
};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};

use super::Table;
use super::events::{Auction, Bid, House, Person};
use crate::column::{Column, schema};
use crate::decoded::Decoded;
use crate::error::ConfigError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    Text,
    Time,
}

impl Kind {
    fn sql(self) -> &'static str {
        match self {
            Kind::Number => "bigint",
            Kind::Text => "text",
            Kind::Time => "timestamp",
        }
    }

    fn of(data_type: &DataType) -> Option<Kind> {
        match data_type {
            DataType::Int64 => Some(Kind::Number),
            DataType::Utf8 => Some(Kind::Text),
            DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => Some(Kind::Time),
            _ => None,
        }
    }
}

impl Table {
    fn columns(self) -> &'static [(&'static str, Kind)] {
        match self {
            Table::Person => &[
                ("id", Kind::Number),
                ("name", Kind::Text),
                ("email_address", Kind::Text),
                ("credit_card", Kind::Text),
                ("city", Kind::Text),
                ("state", Kind::Text),
                ("date_time", Kind::Time),
                ("extra", Kind::Text),
            ],
            Table::Auction => &[
                ("id", Kind::Number),
                ("item_name", Kind::Text),
                ("description", Kind::Text),
                ("initial_bid", Kind::Number),
                ("reserve", Kind::Number),
                ("date_time", Kind::Time),
                ("expires", Kind::Time),
                ("seller", Kind::Number),
                ("category", Kind::Number),
                ("extra", Kind::Text),
            ],
            Table::Bid => &[
                ("auction", Kind::Number),
                ("bidder", Kind::Number),
                ("price", Kind::Number),
                ("channel", Kind::Text),
                ("url", Kind::Text),
                ("date_time", Kind::Time),
                ("extra", Kind::Text),
            ],
        }
    }
}

/// Lists the declared columns that the table does not have, unless they may stay NULL.
pub(super) fn check(table: Table, columns: &[Column]) -> Vec<ConfigError> {
    let known = table.columns();
    let wrong = columns.iter().filter_map(|column| {
        let name = column.input_name();
        match known.iter().find(|(known, _)| *known == name) {
            None if column.field.is_nullable() => None,
            None => Some(
                ConfigError::new(format!("column \"{name}\" is not in the benchmark's table")).with_hint(format!(
                    "There are {}.",
                    known.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
                )),
            ),
            Some((_, kind)) if Kind::of(column.field.data_type()) != Some(*kind) => Some(
                ConfigError::new(format!("column \"{name}\" has another type in the benchmark"))
                    .with_hint(format!("Declare it `{}`.", kind.sql())),
            ),
            Some(_) => None,
        }
    });
    wrong.collect()
}

/// The columns of a table, one after the other in the table's order.
#[derive(Debug)]
enum Builder {
    Number(Int64Builder),
    Text(StringBuilder),
    Time(TimestampMicrosecondBuilder),
}

impl Builder {
    fn number(&mut self, value: i64) {
        match self {
            Builder::Number(numbers) => numbers.append_value(value),
            Builder::Time(times) => times.append_value(value),
            Builder::Text(_) => {}
        }
    }

    fn text(&mut self, value: &str) {
        if let Builder::Text(texts) = self {
            texts.append_value(value);
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Builder::Number(numbers) => Arc::new(numbers.finish()),
            Builder::Text(texts) => Arc::new(texts.finish()),
            Builder::Time(times) => Arc::new(times.finish()),
        }
    }
}

/// Rows being made.
#[derive(Debug)]
pub(super) struct Rows {
    table: Table,
    schema: SchemaRef,
    builders: Vec<Builder>,
    /// For each declared column, its place in the table; none where it stays NULL.
    chosen: Vec<Option<usize>>,
    person: Person,
    auction: Auction,
    bid: Bid,
}

impl Rows {
    /// Makes rows of columns that `check` found nothing wrong with.
    pub(super) fn new(table: Table, columns: &[Column]) -> Rows {
        let zone = columns.iter().find_map(|column| match column.field.data_type() {
            DataType::Timestamp(_, zone) => zone.clone(),
            _ => None,
        });
        let known = table.columns();
        Rows {
            table,
            schema: schema(columns),
            builders: known
                .iter()
                .map(|(_, kind)| match kind {
                    Kind::Number => Builder::Number(Int64Builder::new()),
                    Kind::Text => Builder::Text(StringBuilder::new()),
                    Kind::Time => Builder::Time(TimestampMicrosecondBuilder::new().with_timezone_opt(zone.clone())),
                })
                .collect(),
            chosen: columns
                .iter()
                .map(|column| known.iter().position(|(name, _)| *name == column.input_name()))
                .collect(),
            person: Person::default(),
            auction: Auction::default(),
            bid: Bid::default(),
        }
    }

    /// Adds the row of an event.
    pub(super) fn push(&mut self, house: &House, event: u64) {
        let columns = &mut self.builders;
        match self.table {
            Table::Person => {
                let person = &mut self.person;
                house.person(event, person);
                columns[0].number(person.id);
                columns[1].text(&person.name);
                columns[2].text(&person.email_address);
                columns[3].text(&person.credit_card);
                columns[4].text(person.city);
                columns[5].text(person.state);
                columns[6].number(person.date_time);
                columns[7].text(&person.extra);
            }
            Table::Auction => {
                let auction = &mut self.auction;
                house.auction(event, auction);
                columns[0].number(auction.id);
                columns[1].text(&auction.item_name);
                columns[2].text(&auction.description);
                columns[3].number(auction.initial_bid);
                columns[4].number(auction.reserve);
                columns[5].number(auction.date_time);
                columns[6].number(auction.expires);
                columns[7].number(auction.seller);
                columns[8].number(auction.category);
                columns[9].text(&auction.extra);
            }
            Table::Bid => {
                let bid = &mut self.bid;
                house.bid(event, bid);
                columns[0].number(bid.auction);
                columns[1].number(bid.bidder);
                columns[2].number(bid.price);
                columns[3].text(&bid.channel);
                columns[4].text(&bid.url);
                columns[5].number(bid.date_time);
                columns[6].text(&bid.extra);
            }
        }
    }

    /// Hands over what was added.
    pub(super) fn take(&mut self) -> Decoded {
        let all: Vec<ArrayRef> = self.builders.iter_mut().map(Builder::finish).collect();
        let count = all[0].len();
        let fields = self.schema.fields().iter();
        let columns = fields
            .zip(&self.chosen)
            .map(|(field, chosen)| match chosen {
                Some(at) => Arc::clone(&all[*at]),
                None => new_null_array(field.data_type(), count),
            })
            .collect();
        Decoded {
            rows: RecordBatch::try_new(Arc::clone(&self.schema), columns).expect("columns of the declared types"),
            rejected: Vec::new(),
        }
    }
}
