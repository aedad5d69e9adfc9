//! What a cascade keeps: sources, links, and the ways that risk takes to each node.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, ListArray, RecordBatch};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use dataflows::Updates;
use dataflows::functions::TableState;

/// The state of one call.
///
/// Each node has its ways, by hops: of those with a number of hops the strongest, where it is stronger than
/// all of fewer hops. A way is the last hop of it, over a way of the node before with one hop less; so what
/// a change reaches is followed hop by hop, and a node is looked at again only if a source or a link of its
/// own changed, or a way to a node that links to it, or a shorter way to itself.
///
/// A walk that goes on from a weaker and longer way is never the strongest: shares are above 0, and products
/// of them, rounded or not, keep the order of what they multiply.
pub(super) struct Spread {
    decay: f64,
    hops: usize,
    schema: SchemaRef,
    nodes: Nodes,
    /// By node and risk, how often it is there.
    sources: BTreeMap<(u32, u64), i64>,
    /// By node, the node before and share, how often it is there.
    shares: BTreeMap<(u32, u32, u64), i64>,
    /// By node and the node behind, how often a link is there.
    links: BTreeMap<(u32, u32), i64>,
    ways: Vec<Vec<Way>>,
    /// How many ways there are of each number of hops.
    lengths: Vec<usize>,
    shown: BTreeMap<u32, Shown>,
}

/// A way to a node.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Way {
    hops: usize,
    risk: f64,
    /// The node before; itself at a source.
    from: u32,
}

/// The row of a node, as it was told last.
#[derive(Clone, Debug)]
struct Shown {
    risk: f64,
    path: Vec<u32>,
}

impl PartialEq for Shown {
    fn eq(&self, other: &Self) -> bool {
        self.risk.to_bits() == other.risk.to_bits() && self.path == other.path
    }
}

/// The names of nodes, as bytes in their order, each with a number.
struct Nodes {
    converter: RowConverter,
    numbers: HashMap<Arc<[u8]>, u32>,
    names: Vec<Arc<[u8]>>,
    /// In how many rows each is there.
    uses: Vec<i64>,
    free: Vec<u32>,
}

impl Spread {
    pub(super) fn new(node: &DataType, decay: f64, hops: usize) -> Self {
        let field = |name: &str, data_type: &DataType| Field::new(name, data_type.clone(), true);
        let converter = RowConverter::new(vec![SortField::new(node.clone())]);
        Spread {
            decay,
            hops,
            schema: Arc::new(Schema::new(vec![
                field("node", node),
                field("risk", &DataType::Float64),
                field("source", node),
                field("hops", &DataType::Int64),
                field("path", &DataType::new_list(node.clone(), true)),
            ])),
            nodes: Nodes {
                converter: converter.expect("a cascade is planned over types that can be encoded"),
                numbers: HashMap::new(),
                names: Vec::new(),
                uses: Vec::new(),
                free: Vec::new(),
            },
            sources: BTreeMap::new(),
            shares: BTreeMap::new(),
            links: BTreeMap::new(),
            ways: Vec::new(),
            lengths: vec![0; hops + 1],
            shown: BTreeMap::new(),
        }
    }

    /// Takes changes of sources in, and returns the nodes they name.
    fn take_sources(&mut self, updates: &Updates) -> BTreeSet<u32> {
        let rows = updates.rows();
        let risks = rows.column(1).as_primitive::<Float64Type>();
        let numbers = self
            .nodes
            .numbers(rows.column(0), |row| risks.is_valid(row) && !risks.value(row).is_nan());
        let mut touched = BTreeSet::new();
        for (row, node) in numbers.into_iter().enumerate() {
            let Some(node) = node else { continue };
            let diff = updates.diffs()[row];
            add(&mut self.sources, (node, ordered(risks.value(row) + 0.0)), diff);
            self.nodes.uses[node as usize] += diff;
            touched.insert(node);
        }
        touched
    }

    /// Takes changes of links in, and returns the nodes they come from and those they lead to.
    fn take_links(&mut self, updates: &Updates) -> (BTreeSet<u32>, BTreeSet<u32>) {
        let rows = updates.rows();
        let shares = rows.column(2).as_primitive::<Float64Type>();
        let ends = [0, 1].map(|end| rows.column(end));
        let counts = |row: usize| {
            let share = shares.is_valid(row).then(|| shares.value(row));
            ends.iter().all(|end| end.is_valid(row)) && share.is_some_and(|share| share > 0.0 && share.is_finite())
        };
        let [from, to] = ends.map(|end| self.nodes.numbers(end, counts));
        let (mut origins, mut targets) = (BTreeSet::new(), BTreeSet::new());
        for (row, ends) in from.into_iter().zip(to).enumerate() {
            let (Some(from), Some(to)) = ends else { continue };
            let diff = updates.diffs()[row];
            add(&mut self.shares, (to, from, shares.value(row).to_bits()), diff);
            add(&mut self.links, (from, to), diff);
            for end in [from, to] {
                self.nodes.uses[end as usize] += diff;
            }
            origins.insert(from);
            targets.insert(to);
        }
        (origins, targets)
    }

    /// Follows changed sources and the targets of changed links, and returns the nodes whose ways are others now.
    fn follow(&mut self, sources: &BTreeSet<u32>, targets: &BTreeSet<u32>) -> BTreeSet<u32> {
        let mut changed: BTreeSet<u32> = BTreeSet::new();
        for &node in sources {
            let strongest = present(self.sources.range((node, 0)..=(node, u64::MAX))).next_back();
            let way = strongest.map(|(_, risk)| Way {
                hops: 0,
                risk: number(risk),
                from: node,
            });
            if self.put(node, 0, way) {
                changed.insert(node);
            }
        }
        let mut told = changed.clone();
        for hops in 1..=self.hops {
            // No way is longer than the longest by more than a hop.
            if self.lengths[hops - 1..].iter().all(|ways| *ways == 0) {
                break;
            }
            // A shorter way may cover a longer one, or no longer do so.
            let mut candidates: BTreeSet<u32> = targets.union(&told).copied().collect();
            for &node in &changed {
                let behind = self.links.range((node, 0)..=(node, u32::MAX));
                candidates.extend(behind.map(|((_, to), _)| *to));
            }
            let mut next = BTreeSet::new();
            for node in candidates {
                let way = self.strongest(node, hops);
                let leads_elsewhere = way.is_some_and(|way| changed.contains(&way.from));
                if self.put(node, hops, way) || leads_elsewhere {
                    next.insert(node);
                }
            }
            told.extend(&next);
            changed = next;
        }
        told
    }

    /// Returns the strongest way of a number of hops, unless one of fewer is as strong.
    fn strongest(&self, node: u32, hops: usize) -> Option<Way> {
        let mut best: Option<Way> = None;
        let shares = self.shares.range((node, 0, 0)..=(node, u32::MAX, u64::MAX));
        for (_, from, share) in present(shares) {
            let Some(before) = self.way(from, hops - 1) else {
                continue;
            };
            let risk = before.risk * f64::from_bits(share) * self.decay + 0.0;
            let better = best.is_none_or(|best| {
                risk > best.risk || risk == best.risk && self.nodes.name(from) < self.nodes.name(best.from)
            });
            if better {
                best = Some(Way { hops, risk, from });
            }
        }
        let shorter = self.ways[node as usize].iter().rev().find(|way| way.hops < hops);
        best.filter(|best| shorter.is_none_or(|shorter| best.risk > shorter.risk))
    }

    fn way(&self, node: u32, hops: usize) -> Option<Way> {
        let ways = &self.ways[node as usize];
        let at = ways.binary_search_by_key(&hops, |way| way.hops).ok()?;
        Some(ways[at])
    }

    /// Puts a way in its place, or none; tells whether that is a change.
    fn put(&mut self, node: u32, hops: usize, way: Option<Way>) -> bool {
        let ways = &mut self.ways[node as usize];
        match (ways.binary_search_by_key(&hops, |way| way.hops), way) {
            (Ok(at), Some(way)) => {
                let differs = ways[at].from != way.from || ways[at].risk.to_bits() != way.risk.to_bits();
                ways[at] = way;
                differs
            }
            (Ok(at), None) => {
                ways.remove(at);
                self.lengths[hops] -= 1;
                true
            }
            (Err(at), Some(way)) => {
                ways.insert(at, way);
                self.lengths[hops] += 1;
                true
            }
            (Err(_), None) => false,
        }
    }

    /// Returns a node's row: its longest way is its strongest.
    fn row(&self, node: u32) -> Option<Shown> {
        let way = *self.ways[node as usize].last()?;
        let mut path = vec![node];
        let (mut at, mut hops) = (way, way.hops);
        while hops > 0 {
            path.push(at.from);
            hops -= 1;
            let Some(before) = self.way(at.from, hops) else {
                tracing::error!(node, hops, "a cascade lost the way");
                break;
            };
            at = before;
        }
        path.reverse();
        Some(Shown { risk: way.risk, path })
    }

    /// Builds the batch of some rows.
    fn batch(&self, rows: &[Shown], diff: i64) -> Option<Updates> {
        if rows.is_empty() {
            return None;
        }
        let of = |node: fn(&Shown) -> Option<&u32>| self.nodes.array(rows.iter().filter_map(node));
        let DataType::List(item) = self.schema.field(4).data_type() else {
            return None;
        };
        let offsets = OffsetBuffer::from_lengths(rows.iter().map(|row| row.path.len()));
        let steps = self.nodes.array(rows.iter().flat_map(|row| &row.path));
        let paths = ListArray::try_new(Arc::clone(item), offsets, steps, None).ok()?;
        let columns: Vec<ArrayRef> = vec![
            of(|row| row.path.last()),
            Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.risk))),
            of(|row| row.path.first()),
            Arc::new(Int64Array::from_iter_values(
                rows.iter().map(|row| row.path.len() as i64 - 1),
            )),
            Arc::new(paths),
        ];
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns).ok()?;
        Some(Updates::new(batch, vec![diff; rows.len()]))
    }
}

impl TableState for Spread {
    fn apply(&mut self, changes: &[Vec<Updates>]) -> Vec<Updates> {
        let (mut sources, mut origins, mut targets) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for updates in &changes[0] {
            sources.extend(self.take_sources(updates));
        }
        for updates in &changes[1] {
            let (from, to) = self.take_links(updates);
            origins.extend(from);
            targets.extend(to);
        }
        self.ways.resize_with(self.nodes.names.len(), Vec::new);
        let (mut minus, mut plus) = (Vec::new(), Vec::new());
        for node in self.follow(&sources, &targets) {
            let row = self.row(node);
            let before = self.shown.get(&node);
            if before == row.as_ref() {
                continue;
            }
            minus.extend(before.cloned());
            plus.extend(row.clone());
            match row {
                Some(row) => self.shown.insert(node, row),
                None => self.shown.remove(&node),
            };
        }
        let told = [self.batch(&minus, -1), self.batch(&plus, 1)];
        for node in sources.into_iter().chain(origins).chain(targets) {
            self.nodes.forget(node);
        }
        told.into_iter().flatten().collect()
    }

    fn rows(&self) -> usize {
        self.sources.len() + self.shares.len() + self.shown.len() + self.nodes.numbers.len()
    }

    fn bytes(&self) -> usize {
        // A B-tree node is about two thirds full.
        let entries = self.sources.len() * 24 + self.shares.len() * 24 + self.links.len() * 16;
        let shown: usize = self.shown.values().map(|row| 64 + row.path.len() * 4).sum();
        let ways = self.lengths.iter().sum::<usize>() * size_of::<Way>() + self.ways.len() * size_of::<Vec<Way>>();
        let names: usize = self.nodes.numbers.keys().map(|name| name.len() + 64).sum();
        entries * 3 / 2 + shown + ways + names
    }
}

impl Nodes {
    /// Returns the number of each name of a column that is not NULL and counts.
    fn numbers(&mut self, names: &ArrayRef, counts: impl Fn(usize) -> bool) -> Vec<Option<u32>> {
        let encoded = match self.converter.convert_columns(std::slice::from_ref(names)) {
            Ok(encoded) => encoded,
            Err(error) => {
                tracing::error!(%error, "a cascade cannot read its nodes");
                return vec![None; names.len()];
            }
        };
        let nulls = names.logical_nulls();
        (0..names.len())
            .map(|row| {
                let valid = nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
                (valid && counts(row)).then(|| self.number(encoded.row(row).data()))
            })
            .collect()
    }

    fn number(&mut self, name: &[u8]) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let name: Arc<[u8]> = Arc::from(name);
        let number = match self.free.pop() {
            Some(number) => {
                self.names[number as usize] = Arc::clone(&name);
                number
            }
            None => {
                self.names.push(Arc::clone(&name));
                self.uses.push(0);
                self.names.len() as u32 - 1
            }
        };
        self.numbers.insert(name, number);
        number
    }

    fn name(&self, node: u32) -> &[u8] {
        &self.names[node as usize]
    }

    /// Hands the number of a node out again that no row names any more.
    fn forget(&mut self, node: u32) {
        if self.uses[node as usize] == 0 && self.numbers.remove(&self.names[node as usize]).is_some() {
            self.names[node as usize] = Arc::from([].as_slice());
            self.free.push(node);
        }
    }

    fn array<'a>(&self, nodes: impl Iterator<Item = &'a u32>) -> ArrayRef {
        let parser = self.converter.parser();
        let rows = nodes.map(|node| parser.parse(self.name(*node)));
        let mut columns = self.converter.convert_rows(rows).expect("bytes this converter wrote");
        columns.swap_remove(0)
    }
}

/// Counts an entry, and forgets it once it is there no more.
fn add<K: Ord>(counts: &mut BTreeMap<K, i64>, key: K, diff: i64) {
    match counts.entry(key) {
        Entry::Vacant(entry) => {
            entry.insert(diff);
        }
        Entry::Occupied(mut entry) => {
            *entry.get_mut() += diff;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// Passes entries over that are not there.
fn present<'a, K: Copy + 'a>(
    entries: impl DoubleEndedIterator<Item = (&'a K, &'a i64)>,
) -> impl DoubleEndedIterator<Item = K> {
    entries.filter(|(_, count)| **count > 0).map(|(key, _)| *key)
}

/// Returns bits that are ordered as numbers are.
fn ordered(number: f64) -> u64 {
    let bits = number.to_bits();
    match bits >> 63 {
        0 => bits | 1 << 63,
        _ => !bits,
    }
}

/// Undoes [`ordered`].
fn number(bits: u64) -> f64 {
    f64::from_bits(match bits >> 63 {
        1 => bits & !(1 << 63),
        _ => !bits,
    })
}

#[cfg(test)]
mod tests;
