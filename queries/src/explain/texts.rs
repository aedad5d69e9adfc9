//! What parts of a plan are called, in words and SQL.

use arrow::compute::SortOptions;
use dataflows::plan::{
    AggregateCall, AggregateFunction as Function, Band, TemporalAlternative, TemporalBound, TemporalComparison,
};

/// Says when rows leave by themselves whichever alternative they came by; none where some stay.
pub(super) fn all_leave(alternatives: &[TemporalAlternative]) -> Option<String> {
    let bounds: Vec<TemporalBound> = alternatives
        .iter()
        .flat_map(|alternative| alternative.bounds.iter().cloned())
        .collect();
    let leave = |alternative: &TemporalAlternative| alternative.bounds.iter().any(leaves);
    alternatives.iter().all(leave).then(|| now_bound(&bounds))
}

/// Tells whether rows that pass a bound once will not always do.
pub(crate) fn leaves(bound: &TemporalBound) -> bool {
    matches!(
        bound.comparison,
        TemporalComparison::Greater | TemporalComparison::GreaterOrEqual
    )
}

pub(super) fn now_bound(bounds: &[TemporalBound]) -> String {
    let widest = bounds
        .iter()
        .filter(|bound| leaves(bound))
        .map(|bound| bound.offset_us.saturating_neg())
        .max();
    format!(
        "rows leave {} after their time, by now()",
        duration(widest.unwrap_or_default().max(0))
    )
}

pub(super) fn temporal_bound(bound: &TemporalBound, name: &impl Fn(usize) -> String) -> String {
    let comparison = match bound.comparison {
        TemporalComparison::Less => "<",
        TemporalComparison::LessOrEqual => "<=",
        TemporalComparison::Greater => ">",
        TemporalComparison::GreaterOrEqual => ">=",
    };
    let offset = match bound.offset_us {
        0 => String::new(),
        us if us < 0 => format!(" - {}", duration(us.saturating_neg())),
        us => format!(" + {}", duration(us)),
    };
    format!("{} {comparison} now(){offset}", name(bound.column))
}

/// Tells whether a call keeps values it may yet have to show, where rows leave.
pub(super) fn keeps_values(call: &AggregateCall) -> bool {
    call.function.is_end()
}

/// Tells whether a call keeps every value of a group in any case.
pub(super) fn keeps_all(call: &AggregateCall) -> bool {
    use Function::*;
    matches!(
        call.function,
        NthValue
            | ArrayAgg
            | StringAgg
            | Median
            | ApproxMedian
            | PercentileCont
            | ApproxPercentileCont
            | ApproxPercentileContWithWeight
    )
}

pub(super) fn order_text(order: &[(usize, SortOptions)], name: &impl Fn(usize) -> String) -> String {
    let keys: Vec<String> = order
        .iter()
        .map(|(column, options)| format!("{}{}", name(*column), if options.descending { " DESC" } else { "" }))
        .collect();
    keys.join(", ")
}

pub(super) fn call_text(call: &AggregateCall, name: &impl Fn(usize) -> String) -> String {
    let function = match call.function {
        Function::CountRows => "count".to_owned(),
        Function::VarianceSample => "var".to_owned(),
        Function::StddevSample => "stddev".to_owned(),
        other => other.to_string(),
    };
    let constants = call.parameters.iter().map(|constant| match constant.try_as_str() {
        Some(Some(text)) => format!("'{text}'"),
        _ => constant.to_string(),
    });
    let arguments: Vec<String> = call
        .arguments
        .iter()
        .map(|column| name(*column))
        .chain(constants)
        .collect();
    let argument = match call.function {
        Function::CountRows => "*".to_owned(),
        _ => arguments.join(", "),
    };
    let order = match call.order.is_empty() {
        true => String::new(),
        false => format!(" ORDER BY {}", order_text(&call.order, name)),
    };
    let filter = call
        .filter
        .map_or_else(String::new, |filter| format!(" FILTER (WHERE {})", name(filter)));
    let distinct = if call.distinct { "DISTINCT " } else { "" };
    format!("{function}({distinct}{argument}{order}){filter}")
}

/// Writes how far apart the rows of a pair may be.
pub(super) fn distance(band: &Band, left: &str, right: &str) -> String {
    let from = |us: i64| match us {
        0 => left.to_owned(),
        us if us < 0 => format!("{left} - {}", duration(us.saturating_neg())),
        us => format!("{left} + {}", duration(us)),
    };
    match (band.low_us, band.high_us) {
        (i64::MIN, high) => format!("{right} up to {}", from(high)),
        (low, i64::MAX) => format!("{right} from {} on", from(low)),
        (low, high) => format!("{right} from {} to {}", from(low), from(high)),
    }
}

/// Writes microseconds as people do: `2h`, `90s`, `10min`.
pub(super) fn duration(us: i64) -> String {
    for (unit_us, unit) in [
        (86_400_000_000, "day"),
        (3_600_000_000, "hour"),
        (60_000_000, "minute"),
        (1_000_000, "second"),
    ] {
        if us >= unit_us && us % unit_us == 0 {
            let count = us / unit_us;
            return format!("{count} {unit}{}", if count == 1 { "" } else { "s" });
        }
    }
    match us {
        us if us % 1_000 == 0 => format!("{} ms", us / 1_000),
        us => format!("{us} us"),
    }
}

/// Writes a type in SQL's words.
pub(super) fn sql_type(data_type: &arrow::datatypes::DataType) -> String {
    use arrow::datatypes::DataType::*;
    match data_type {
        Utf8 => "text".to_owned(),
        Float64 => "double".to_owned(),
        Float32 => "real".to_owned(),
        Int64 => "bigint".to_owned(),
        Int32 => "integer".to_owned(),
        Int16 => "smallint".to_owned(),
        Date32 => "date".to_owned(),
        Binary => "varbinary".to_owned(),
        Timestamp(..) => "timestamp".to_owned(),
        List(item) => format!("{}[]", sql_type(item.data_type())),
        Decimal128(precision, scale) => format!("decimal({precision}, {scale})"),
        other => other.to_string().to_lowercase(),
    }
}
