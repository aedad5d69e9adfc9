//! Where a subscription stands, as a word the client keeps and gives back.

use dataflows::Tick;

/// A position in the changes of exactly one subscription.
///
/// A token that names another definition, another selection or another
/// incarnation of the log is worth nothing: its holder gets a fresh snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resume {
    /// The relation's definition.
    pub(super) definition: u64,
    /// The filter and the columns.
    pub(super) selection: u64,
    /// The log; where nothing survives the program, its start.
    pub(super) incarnation: u64,
    /// All changes up to here have been sent.
    pub(super) tick: Tick,
}

impl Resume {
    pub(super) fn token(&self) -> String {
        format!(
            "{:016x}{:016x}{:016x}{:016x}",
            self.definition, self.selection, self.incarnation, self.tick
        )
    }

    pub(super) fn parse(token: &str) -> Option<Self> {
        if token.len() != 64 || !token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let part = |index: usize| u64::from_str_radix(&token[index * 16..(index + 1) * 16], 16).ok();
        Some(Resume {
            definition: part(0)?,
            selection: part(1)?,
            incarnation: part(2)?,
            tick: part(3)?,
        })
    }

    /// Tells whether both are positions of the same subscription.
    pub(super) fn continues(&self, other: &Resume) -> bool {
        Resume { tick: 0, ..*self } == Resume { tick: 0, ..*other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_trip_and_nothing_else_does() {
        let resume = Resume {
            definition: u64::MAX,
            selection: 1,
            incarnation: 2,
            tick: 1_763_690_000_123_000,
        };
        assert_eq!(Resume::parse(&resume.token()), Some(resume));
        assert!(resume.continues(&Resume { tick: 0, ..resume }));
        assert!(!resume.continues(&Resume { selection: 2, ..resume }));
        for wrong in [
            "",
            "abc",
            &"x".repeat(64),
            &"+1".repeat(32),
            &resume.token()[1..],
            "नननननननननननननननननननन1234",
        ] {
            assert_eq!(Resume::parse(wrong), None, "{wrong}");
        }
    }
}
