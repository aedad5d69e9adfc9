//! What several views compute alike is one dataflow, whatever columns each wants of it.

use dataflows::plan::{Operator, Plan};
use dataflows::sharing::{Shareable, Sharing, share};

use super::catalog;

fn shared(texts: &[&str]) -> (Vec<Plan>, Sharing) {
    let catalog = catalog();
    let plans: Vec<Plan> = texts
        .iter()
        .map(|sql| {
            let view = catalog.plan_view("v", sql);
            view.unwrap_or_else(|problems| panic!("{sql}: {problems:#?}")).plan
        })
        .collect();
    let names: Vec<String> = (0..plans.len()).map(|view| format!("v{view}")).collect();
    let views: Vec<Shareable<'_>> = plans
        .iter()
        .zip(&names)
        .map(|(plan, name)| Shareable {
            name,
            plan,
            alone: false,
        })
        .collect();
    let sharing = share(&views, |part| format!("part {part}"));
    (plans, sharing)
}

fn joins(plan: &Plan) -> usize {
    let is_join = |node: &&dataflows::plan::Node| matches!(node.operator, Operator::Join { .. });
    plan.nodes.iter().filter(is_join).count()
}

/// Prints the dataflows in order: a part with what keeps state in it, a view with what it reads.
fn printed(sharing: &Sharing) -> String {
    let flow = |flow: &dataflows::sharing::SharedFlow| {
        let states = flow
            .plan
            .nodes
            .iter()
            .filter(|node| node.operator.keeps_state())
            .count();
        format!(
            "{} reads {} keeps {states}",
            flow.name,
            flow.plan.relations().join(", ")
        )
    };
    sharing.flows.iter().map(flow).collect::<Vec<_>>().join("\n")
}

#[test]
fn views_with_nothing_in_common_are_left_as_they_are() {
    let (plans, sharing) = shared(&[
        "SELECT kind, count(*) AS n FROM events GROUP BY kind",
        "SELECT station, count(*) AS n FROM readings GROUP BY station",
        "SELECT id FROM events WHERE value > 3",
        "SELECT id FROM events WHERE value > 3",
    ]);
    assert_eq!(
        printed(&sharing),
        "v0 reads events keeps 1\nv1 reads readings keeps 1\nv2 reads events keeps 0\nv3 reads events keeps 0"
    );
    for (flow, plan) in sharing.flows.iter().zip(&plans) {
        assert_eq!(flow.plan.schema(), plan.schema());
    }
}

#[test]
fn equal_views_are_computed_once() {
    let sql = "SELECT kind, sum(value) AS total FROM events WHERE weight > 1 GROUP BY kind";
    let (_, sharing) = shared(&[sql, sql]);
    assert_eq!(
        printed(&sharing),
        "part 0 reads events keeps 1\nv0 reads part 0 keeps 0\nv1 reads part 0 keeps 0"
    );
}

#[test]
fn joins_that_carry_other_columns_are_one() {
    let join = "FROM readings r JOIN stations s ON r.station = s.station";
    let (plans, sharing) = shared(&[
        &format!("SELECT r.at, s.river {join}"),
        &format!("SELECT s.river, avg(r.ph) AS ph {join} GROUP BY s.river"),
        &format!("SELECT r.station, s.limit_ph {join}"),
        "SELECT r.station, s.river FROM readings r LEFT JOIN stations s ON r.station = s.station",
    ]);
    let lines = printed(&sharing);
    assert_eq!(
        lines,
        "part 0 reads readings, stations keeps 1\nv0 reads part 0 keeps 0\nv1 reads part 0 keeps 1\n\
         v2 reads part 0 keeps 0\nv3 reads readings, stations keeps 1"
    );
    for flow in sharing.flows.iter().filter(|flow| flow.view.is_some()) {
        let plan = &plans[flow.view.unwrap()];
        assert_eq!(flow.plan.schema(), plan.schema());
    }
    assert!(
        sharing.cuts[0].iter().any(|(node, part)| {
            part == "part 0" && matches!(plans[0].nodes[*node].operator, Operator::Join { .. })
        })
    );
    assert!(sharing.cuts[3].is_empty());
}

#[test]
fn a_filtered_join_is_read_off_a_whole_one_where_there_is_one() {
    let join = "FROM readings r JOIN stations s ON r.station = s.station";
    let filtered = format!("SELECT r.at {join} WHERE r.ph > 7 AND s.river = 'Ganga'");
    let (plans, sharing) = shared(&[&filtered, &format!("SELECT r.at {join}")]);
    assert_eq!(
        printed(&sharing),
        "part 0 reads readings, stations keeps 1\nv0 reads part 0 keeps 0\nv1 reads part 0 keeps 0"
    );
    assert_eq!(sharing.flows[1].plan.schema(), plans[0].schema());
    // Without one over all rows, each is better off with its own.
    let (_, sharing) = shared(&[&filtered, &format!("SELECT r.at {join} WHERE r.ph > 8")]);
    assert_eq!(
        printed(&sharing),
        "v0 reads readings, stations keeps 1\nv1 reads readings, stations keeps 1"
    );
    // What may fail is asked of the rows it is written for.
    let (_, sharing) = shared(&[
        &format!("SELECT r.at {join} WHERE 1 / r.count > 2"),
        &format!("SELECT r.at {join}"),
    ]);
    assert_eq!(sharing.flows.iter().map(|flow| joins(&flow.plan)).sum::<usize>(), 2);
    // A row on the right that is filtered away leaves its left one without a partner.
    let left = "FROM readings r LEFT JOIN (SELECT * FROM stations WHERE river = 'Ganga') s ON r.station = s.station";
    let (_, sharing) = shared(&[
        &format!("SELECT r.at, s.river {left}"),
        "SELECT r.at, s.river FROM readings r LEFT JOIN stations s ON r.station = s.station",
    ]);
    assert_eq!(sharing.flows.iter().map(|flow| joins(&flow.plan)).sum::<usize>(), 2);
}

#[test]
fn joins_of_joins_are_shared_as_far_as_they_go() {
    let (_, sharing) = shared(&[
        "SELECT r.ph, s.river FROM readings r JOIN stations s ON r.station = s.station",
        "SELECT r.ph, e.kind FROM readings r JOIN stations s ON r.station = s.station JOIN events e ON e.kind = s.river",
        "SELECT r.at, e.value FROM readings r JOIN stations s ON r.station = s.station JOIN events e ON e.kind = s.river",
    ]);
    let joins: Vec<(String, usize)> = sharing
        .flows
        .iter()
        .map(|flow| (flow.name.clone(), joins(&flow.plan)))
        .collect();
    assert_eq!(joins.iter().map(|(_, joins)| joins).sum::<usize>(), 2, "{joins:?}");
    assert_eq!(joins.len(), 5, "{joins:?}");
}

#[test]
fn an_aggregate_above_a_shared_one_is_shared_among_fewer() {
    let hourly =
        "SELECT station, date_bin(INTERVAL '1 hour', at) AS hour, avg(ph) AS ph FROM readings GROUP BY station, hour";
    let (_, sharing) = shared(&[
        hourly,
        &format!("SELECT station, max(ph) AS ph FROM ({hourly}) GROUP BY station"),
        &format!("SELECT station, max(ph) AS ph FROM ({hourly}) GROUP BY station"),
    ]);
    let keeps: usize = sharing
        .flows
        .iter()
        .map(|flow| {
            flow.plan
                .nodes
                .iter()
                .filter(|node| node.operator.keeps_state())
                .count()
        })
        .sum();
    assert_eq!(keeps, 2, "{}", printed(&sharing));
}
