//! "Did you mean …?"

/// Words listed at most; more than a dozen nobody reads.
const LISTED: usize = 12;

/// Suggests the known word nearest to `word`, or lists the words there are.
pub(crate) fn hint<'a>(word: &str, known: impl IntoIterator<Item = &'a str>, noun: &str) -> Option<String> {
    let known: Vec<&str> = known.into_iter().collect();
    if let Some(nearest) = nearest(word, known.iter().copied()) {
        return Some(format!("Did you mean \"{nearest}\"?"));
    }
    match known.as_slice() {
        [] => None,
        [only] => Some(format!("The only {noun} there is: \"{only}\".")),
        _ => {
            let mut list: Vec<String> = known.iter().take(LISTED).map(|known| format!("\"{known}\"")).collect();
            if known.len() > LISTED {
                list.push("…".to_owned());
            }
            Some(format!("The {noun}s there are: {}.", list.join(", ")))
        }
    }
}

/// Returns the known word a reader would take `word` for, if one is near enough.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the letters may differ: "colums" is "columns", "at" is not "ph".
    let allowed = (word.chars().count() / 3).max(1);
    known
        .into_iter()
        .filter(|known| !known.is_empty() && *known != word)
        .map(|known| (distance(&word.to_lowercase(), &known.to_lowercase()), known))
        .filter(|(distance, known)| *distance <= allowed && *distance < known.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// Counts the letters to insert, delete, replace or swap with their neighbour.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut rows = vec![vec![0; right.len() + 1]; left.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=right.len()).collect();
    for i in 1..=left.len() {
        for j in 1..=right.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(left[i - 1] != right[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[left.len()][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested_and_far_ones_listed() {
        assert_eq!(nearest("colums", ["columns", "connector"]), Some("columns"));
        assert_eq!(nearest("Station", ["station", "at"]), Some("station"));
        assert_eq!(nearest("hte", ["the"]), Some("the"));
        assert_eq!(nearest("at", ["ph", "id"]), None);
        assert_eq!(
            hint("zebra", ["station", "at"], "column").unwrap(),
            "The columns there are: \"station\", \"at\"."
        );
        assert_eq!(
            hint("zebra", ["at"], "column").unwrap(),
            "The only column there is: \"at\"."
        );
        assert_eq!(hint("zebra", [], "column"), None);
    }
}
