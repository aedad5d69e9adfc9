//! A cascade against a naive fixpoint over the rows that are there, tick by tick.

use std::collections::{BTreeMap, HashMap};

use arrow::array::{Float64Array, RecordBatch, StringArray};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use super::*;

type Source = (Option<&'static str>, Option<f64>);
type Link = (Option<&'static str>, Option<&'static str>, Option<f64>);
/// Risk and path, by node.
type Rows = BTreeMap<String, (String, Vec<String>)>;

const NAMES: [&str; 9] = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];

fn sources(rows: &[(Source, i64)]) -> Updates {
    let names: StringArray = rows.iter().map(|((name, _), _)| *name).collect();
    let risks: Float64Array = rows.iter().map(|((_, risk), _)| *risk).collect();
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("node", Arc::new(names) as ArrayRef, true),
        ("risk", Arc::new(risks) as ArrayRef, true),
    ]);
    Updates::new(batch.unwrap(), rows.iter().map(|(_, diff)| *diff).collect::<Vec<_>>())
}

fn links(rows: &[(Link, i64)]) -> Updates {
    let from: StringArray = rows.iter().map(|((from, ..), _)| *from).collect();
    let to: StringArray = rows.iter().map(|((_, to, _), _)| *to).collect();
    let shares: Float64Array = rows.iter().map(|((.., share), _)| *share).collect();
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("from", Arc::new(from) as ArrayRef, true),
        ("to", Arc::new(to) as ArrayRef, true),
        ("share", Arc::new(shares) as ArrayRef, true),
    ]);
    Updates::new(batch.unwrap(), rows.iter().map(|(_, diff)| *diff).collect::<Vec<_>>())
}

/// Every round follows every link from the strongest walk of each node in the round before.
fn naive(sources: &[Source], links: &[Link], decay: f64, hops: usize) -> Rows {
    type Walks = BTreeMap<String, (f64, Vec<String>)>;
    let better = |walks: &mut Walks, node: &str, risk: f64, path: Vec<String>| {
        let known = walks.get(node);
        let wins = known
            .is_none_or(|(known, other)| risk > *known || risk == *known && path.iter().rev().lt(other.iter().rev()));
        if wins {
            walks.insert(node.to_owned(), (risk, path));
        }
    };
    let mut round = Walks::new();
    for (name, risk) in sources {
        if let (Some(name), Some(risk)) = (name, risk)
            && !risk.is_nan()
        {
            better(&mut round, name, *risk + 0.0, vec![(*name).to_owned()]);
        }
    }
    let mut all = round.clone();
    for _ in 0..hops {
        let mut next = Walks::new();
        for (from, to, share) in links {
            let (Some(from), Some(to), Some(share)) = (from, to, share) else {
                continue;
            };
            if let Some((risk, path)) = round.get(*from)
                && *share > 0.0
                && share.is_finite()
            {
                let path = path.iter().cloned().chain([(*to).to_owned()]).collect();
                better(&mut next, to, risk * share * decay + 0.0, path);
            }
        }
        for (node, (risk, path)) in &next {
            // Fewer hops win where risks are equal.
            if all.get(node).is_none_or(|(known, _)| risk > known) {
                all.insert(node.clone(), (*risk, path.clone()));
            }
        }
        round = next;
    }
    let told = |(node, (risk, path)): (String, (f64, Vec<String>))| (node, (format!("{risk:?}"), path));
    all.into_iter().map(told).collect()
}

/// Applies what a cascade tells to what was known of it.
fn learn(known: &mut Rows, told: &[Updates]) {
    for updates in told {
        let rows = updates.rows();
        let [nodes, origins] = [0, 2].map(|at| rows.column(at).as_string::<i32>());
        let risks = rows.column(1).as_primitive::<Float64Type>();
        let hops = rows.column(3).as_primitive::<arrow::datatypes::Int64Type>();
        for row in 0..rows.num_rows() {
            let path = rows.column(4).as_list::<i32>().value(row);
            let path: Vec<String> = path.as_string::<i32>().iter().flatten().map(str::to_owned).collect();
            assert_eq!(path.len() as i64, hops.value(row) + 1);
            assert_eq!(path[0], origins.value(row));
            let entry = (format!("{:?}", risks.value(row)), path);
            let node = nodes.value(row).to_owned();
            match updates.diffs()[row] {
                1 => assert_eq!(known.insert(node, entry), None),
                -1 => assert_eq!(known.remove(&node), Some(entry)),
                diff => panic!("{diff}"),
            }
        }
    }
}

#[test]
fn a_cascade_is_a_naive_fixpoint() {
    for seed in 0..60 {
        let mut random = Pcg64::seed_from_u64(seed);
        let (hops, decay) = (random.random_range(1..7), [0.5, 0.9, 1.0, 1.3][seed as usize % 4]);
        let mut spread = Spread::new(&DataType::Utf8, decay, hops);
        let (mut known, mut held_sources, mut held_links) = (Rows::new(), Vec::new(), Vec::new());
        for _ in 0..40 {
            let name = |random: &mut Pcg64| match random.random_range(0..20) {
                0 => None,
                _ => Some(NAMES[random.random_range(0..NAMES.len())]),
            };
            let mut new_sources: Vec<(Source, i64)> = vec![];
            let mut new_links: Vec<(Link, i64)> = vec![];
            for _ in 0..random.random_range(0..4) {
                if random.random_range(0..5) < 2 && !held_sources.is_empty() {
                    let at = random.random_range(0..held_sources.len());
                    new_sources.push((held_sources.swap_remove(at), -1));
                } else {
                    let risk = [
                        None,
                        Some(f64::NAN),
                        Some(-1.0),
                        Some(f64::INFINITY),
                        Some(0.0),
                        Some(-0.0),
                    ];
                    let risk = match random.random_range(0..12) {
                        rare @ 0..6 => risk[rare],
                        _ => Some(f64::from(random.random_range(1..5))),
                    };
                    held_sources.push((name(&mut random), risk));
                    new_sources.push((held_sources[held_sources.len() - 1], 1));
                }
            }
            for _ in 0..random.random_range(0..7) {
                if random.random_range(0..5) < 2 && !held_links.is_empty() {
                    let at = random.random_range(0..held_links.len());
                    new_links.push((held_links.swap_remove(at), -1));
                } else {
                    let share = [
                        None,
                        Some(f64::NAN),
                        Some(-1.0),
                        Some(f64::INFINITY),
                        Some(0.0),
                        Some(1e-320),
                    ];
                    let share = match random.random_range(0..24) {
                        rare @ 0..6 => share[rare],
                        _ => Some(f64::from(random.random_range(1..6)) / 4.0),
                    };
                    held_links.push((name(&mut random), name(&mut random), share));
                    new_links.push((held_links[held_links.len() - 1], 1));
                }
            }
            // Whatever the order within a tick.
            new_sources.reverse();
            new_links.reverse();
            let told = spread.apply(&[vec![sources(&new_sources)], vec![links(&new_links)]]);
            learn(&mut known, &told);
            assert_eq!(known, naive(&held_sources, &held_links, decay, hops), "seed {seed}");
        }
        let back = |rows: Vec<Source>| rows.into_iter().map(|row| (row, -1)).collect::<Vec<_>>();
        let told = spread.apply(&[vec![sources(&back(held_sources))], vec![]]);
        learn(&mut known, &told);
        assert!(known.is_empty());
        let back: Vec<_> = held_links.into_iter().map(|row| (row, -1)).collect();
        assert!(spread.apply(&[vec![], vec![links(&back)]]).is_empty());
        assert_eq!(spread.rows(), 0, "seed {seed}");
        assert_eq!(spread.lengths.iter().sum::<usize>(), 0);
    }
}

#[test]
fn only_what_a_change_reaches_is_looked_at() {
    // Two rivers of 1,000 stations that never meet.
    let names: HashMap<usize, &'static str> = (0..2_000).map(|at| (at, &*format!("{at:05}").leak())).collect();
    let mut spread = Spread::new(&DataType::Utf8, 0.99, 64);
    let rows: Vec<(Link, i64)> = (0..2_000)
        .filter(|at| at % 1_000 != 999)
        .map(|at| ((Some(names[&at]), Some(names[&(at + 1)]), Some(1.0)), 1))
        .collect();
    let told = spread.apply(&[vec![sources(&[((Some(names[&0]), Some(1.0)), 1)])], vec![links(&rows)]]);
    assert_eq!(told.iter().map(Updates::len).sum::<usize>(), 65);
    let told = spread.apply(&[vec![sources(&[((Some(names[&1_100]), Some(2.0)), 1)])], vec![]]);
    assert_eq!(told.iter().map(Updates::len).sum::<usize>(), 65);
    // Cutting a link takes back what lay behind it.
    let told = spread.apply(&[
        vec![],
        vec![links(&[((Some(names[&59]), Some(names[&60]), Some(1.0)), -1)])],
    ]);
    assert_eq!(
        told.iter()
            .map(|updates| updates.diffs().iter().sum::<i64>())
            .sum::<i64>(),
        -5
    );
}
