//! What a backtest came to, for people.

use std::fmt::Write;

use serde_json::Value;

use super::super::counted;
use crate::engine::{
    AlertDifference, Backtest, Declared, Difference, Happened, Listed, RowsDifference, Transitions, time,
};

/// Writes the whole report.
pub(super) fn text(backtest: &Backtest) -> String {
    let mut out = String::new();
    // Writing to a text cannot fail.
    let _ = write(backtest, &mut out);
    out
}

fn write(backtest: &Backtest, out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "from {} to {}: {} and {} played twice",
        time(backtest.from),
        time(backtest.to),
        counted(backtest.ticks as usize, "tick"),
        counted(backtest.rows as usize, "row")
    )?;
    for source in &backtest.new_sources {
        writeln!(out, "  source {source} is new: it starts, and stays, empty")?;
    }
    for source in &backtest.gone_sources {
        writeln!(out, "  source {source} is declared no more: its rows were passed over")?;
    }
    for what in &backtest.incomplete {
        writeln!(out, "  the beginning is not as it was: {what}")?;
    }
    let (alerts, same_alerts): (Vec<_>, Vec<_>) = backtest.alerts.iter().partition(|alert| alert.differs());
    let (views, same_views): (Vec<_>, Vec<_>) = backtest.views.iter().partition(|view| view.differs());
    for alert in alerts {
        write_alert(alert, out)?;
    }
    for view in views {
        write_view(view, out)?;
    }
    let same: Vec<&str> = same_alerts
        .iter()
        .map(|alert| alert.alert.as_str())
        .chain(same_views.iter().map(|view| view.view.as_str()))
        .collect();
    match same.is_empty() {
        true => Ok(()),
        false => writeln!(out, "\nthe same under both: {}", same.join(", ")),
    }
}

fn write_alert(alert: &AlertDifference, out: &mut String) -> std::fmt::Result {
    writeln!(out, "\nalert {}{}", alert.alert, declared(alert.declared))?;
    writeln!(out, "                {:>9} {:>9} {:>9}", "raised", "updated", "cleared")?;
    let line = |out: &mut String, who: &str, counts: &Transitions| {
        writeln!(
            out,
            "  {who:<13} {:>9} {:>9} {:>9}",
            counts.raised, counts.updated, counts.cleared
        )
    };
    line(out, "as it ran", &alert.old)?;
    line(out, "as it is new", &alert.new)?;
    let happened = |told: &Happened| format!("{} {:<7} {}", time(told.tick), told.transition, told.key);
    list("only as it ran", "-", &alert.only_old, happened, out)?;
    list("only as it is new", "+", &alert.only_new, happened, out)
}

fn write_view(view: &RowsDifference, out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "\nview {}{}: {} as it ran, {} as it is new",
        view.view,
        declared(view.declared),
        counted(view.old, "row"),
        counted(view.new, "row")
    )?;
    list("only as it ran", "-", &view.only_old, Value::to_string, out)?;
    list("only as it is new", "+", &view.only_new, Value::to_string, out)?;
    let changed = |row: &crate::engine::ChangedRow| format!("{}\n      → {}", row.old, row.new);
    list("changed", "~", &view.changed, changed, out)
}

fn declared(declared: Declared) -> &'static str {
    match declared {
        Declared::Both => "",
        Declared::Old => " (gone)",
        Declared::New => " (new)",
    }
}

/// Lists the first of some things, and says how many more there are.
fn list<T>(
    what: &str,
    mark: &str,
    listed: &Listed<T>,
    line: impl Fn(&T) -> String,
    out: &mut String,
) -> std::fmt::Result {
    if listed.count == 0 {
        return Ok(());
    }
    writeln!(out, "  {what}: {}", listed.count)?;
    for one in &listed.first {
        writeln!(out, "    {mark} {}", line(one))?;
    }
    match listed.count - listed.first.len() {
        0 => Ok(()),
        more => writeln!(out, "    … and {more} more"),
    }
}
