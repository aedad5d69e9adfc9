//! Random `FROM`s that make rows of a row: time windows and lists.

use super::dice::Dice;
use super::expressions::Input;
use super::values::Ty;

/// Writes a call of a time window over a relation with a time column; tells in how many windows a row is about.
pub(crate) fn time_window(dice: &mut Dice, relation: &str, time: &str, keys: &[&String]) -> (String, usize) {
    if dice.chance(20) {
        let key = match keys.is_empty() || dice.chance(30) {
            true => String::new(),
            false => format!(", {}", dice.pick(keys)),
        };
        let gap = *dice.pick(&["90 seconds", "10 minutes", "2 hours"]);
        return (format!("session({relation}, {time}, INTERVAL '{gap}'{key})"), 1);
    }
    let offset = match dice.below(3) {
        0 => format!(", INTERVAL '{} minutes'", dice.between(-70, 70)),
        _ => String::new(),
    };
    match dice.below(5) {
        0 | 1 => {
            let size = *dice.pick(&["10 minutes", "1 hour", "1 day"]);
            (format!("tumble({relation}, {time}, INTERVAL '{size}'{offset})"), 1)
        }
        2 => {
            let (step, size) = *dice.pick(&[("20 minutes", "1 hour"), ("6 hours", "1 day"), ("1 hour", "1 hour")]);
            let call = format!("cumulate({relation}, {time}, INTERVAL '{step}', INTERVAL '{size}'{offset})");
            (call, 3)
        }
        _ => {
            // The last has gaps between its windows.
            let (slide, size) = *dice.pick(&[
                ("20 minutes", "1 hour"),
                ("30 minutes", "50 minutes"),
                ("2 hours", "1 hour"),
            ]);
            let call = format!("hop({relation}, {time}, INTERVAL '{slide}', INTERVAL '{size}'{offset})");
            (call, 3)
        }
    }
}

/// Writes a list of a few columns of one type, and tells the type; none where no column will do.
pub(crate) fn list(dice: &mut Dice, inputs: &[Input]) -> Option<(String, Ty)> {
    // What is NaN and what is zero within a list is another matter.
    let fit: Vec<&Input> = inputs.iter().filter(|input| input.ty != Ty::Double).collect();
    if fit.is_empty() {
        return None;
    }
    let ty = dice.pick(&fit).ty;
    let alike: Vec<&Input> = fit.into_iter().filter(|input| input.ty == ty).collect();
    let elements: Vec<String> = (0..dice.between(1, 3)).map(|_| dice.pick(&alike).sql.clone()).collect();
    let list = format!("make_array({})", elements.join(", "));
    let when = dice.pick(inputs).sql.clone();
    let list = match dice.below(5) {
        0 => format!("CASE WHEN {when} IS NOT NULL THEN {list} END"),
        1 => format!("array_remove({list}, {})", elements[0]),
        _ => list,
    };
    Some((list, ty))
}

/// Writes a value that is not of one of the plain types.
pub(crate) fn value(dice: &mut Dice, inputs: &[Input]) -> Option<String> {
    let (list, _) = list(dice, inputs)?;
    let plain: Vec<&Input> = inputs.iter().filter(|input| input.ty != Ty::Double).collect();
    let (first, second) = (dice.pick(&plain).sql.clone(), dice.pick(&plain).sql.clone());
    let other = dice.pick(&plain);
    let rare = match other.ty {
        Ty::Text => *dice.pick(&["CAST(# AS bytea)", "json_get_int(#, 'a')", "string_to_array(#, ' ')"]),
        Ty::Time => *dice.pick(&[
            "# - TIMESTAMP '2026-01-01T06:00:00Z'",
            "CAST(# AS time)",
            "CAST(# AS date)",
        ]),
        Ty::Big | Ty::Int => *dice.pick(&["arrow_cast(#, 'Decimal256(50, 3)')", "make_array(#, NULL)"]),
        Ty::Decimal => "CAST(# AS decimal(38, 4))",
        _ => "make_array(#, NULL)",
    };
    Some(match dice.below(10) {
        6.. => rare.replace('#', &other.sql),
        0 => format!("named_struct('a', {first}, 'b', {second})"),
        1 => format!("make_map('k', {first})"),
        2 => format!("make_array({list})"),
        _ => list,
    })
}
