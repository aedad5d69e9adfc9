//! What equal subscriptions share: one selection, and the bytes of its changes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use bytes::Bytes;
use dataflows::Tick;
use queries::Catalog;

use super::selection::Selection;
use crate::engine::Relation;
use crate::server::error::ApiError;
use crate::server::limits::{SHARED_BYTES_MAX, SHARED_FRAMES_MAX};

/// What a client asked for, word by word.
type Asked = (String, Option<String>, Option<Vec<String>>);

/// The selections in use.
#[derive(Default)]
pub(super) struct Selections {
    known: Mutex<HashMap<Asked, Weak<Selection>>>,
}

impl Selections {
    /// Returns the selection of all who ask the same.
    pub(super) fn get(
        &self,
        catalog: &Catalog,
        relation: &Relation,
        filter: Option<&str>,
        columns: Option<&[String]>,
    ) -> Result<Arc<Selection>, ApiError> {
        let asked = (
            relation.name.clone(),
            filter.map(str::to_owned),
            columns.map(<[String]>::to_vec),
        );
        let known = self.known.lock().ok().and_then(|known| known.get(&asked)?.upgrade());
        // A view may have been defined anew since.
        if let Some(known) = known.filter(|known| known.definition == relation.definition) {
            return Ok(known);
        }
        let selection = Arc::new(Selection::new(
            catalog,
            relation,
            asked.1.as_deref(),
            asked.2.as_deref(),
        )?);
        if let Ok(mut known) = self.known.lock() {
            known.retain(|_, selection| selection.strong_count() > 0);
            // Two may have compiled the same at once; then both go on with their own.
            known.insert(asked, Arc::downgrade(&selection));
        }
        Ok(selection)
    }
}

/// A selection's changes from one tick to another.
type Span = (u64, Tick, Tick);

/// Written once, by whoever comes first; none where the changes come to nothing.
type Written = Arc<OnceLock<Option<Bytes>>>;

/// Changes already written, for the next who is owed the same.
///
/// Bounded in number and bytes, oldest out first: a subscriber that misses one
/// computes it again.
#[derive(Default)]
pub(super) struct SharedChanges {
    kept: Mutex<VecDeque<(Span, Written)>>,
}

impl SharedChanges {
    /// Returns what is kept for `span`, else what `write` makes of it, once.
    pub(super) fn get(&self, span: Span, write: impl FnOnce() -> Option<Bytes>) -> Option<Bytes> {
        let Ok(mut kept) = self.kept.lock() else { return write() };
        let slot = match kept.iter().rev().find(|(known, _)| *known == span) {
            Some((_, slot)) => slot.clone(),
            None => {
                let slot = Arc::new(OnceLock::new());
                kept.push_back((span, slot.clone()));
                slot
            }
        };
        let bytes = |slot: &OnceLock<Option<Bytes>>| slot.get().and_then(Option::as_ref).map_or(0, Bytes::len);
        let mut sum: usize = kept.iter().map(|(_, slot)| bytes(slot)).sum();
        while (sum > SHARED_BYTES_MAX || kept.len() > SHARED_FRAMES_MAX) && kept.len() > 1 {
            sum -= kept.pop_front().map_or(0, |(_, slot)| bytes(&slot));
        }
        drop(kept);
        // Others who want the same wait here for the one who writes.
        slot.get_or_init(write).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_spans_are_written_once_and_the_oldest_leave() {
        let shared = SharedChanges::default();
        let written = |text: &'static [u8]| move || Some(Bytes::from_static(text));
        assert_eq!(shared.get((1, 0, 5), written(b"a")).unwrap(), "a");
        assert_eq!(shared.get((1, 0, 5), || panic!("written twice")).unwrap(), "a");
        assert_eq!(shared.get((2, 0, 5), || None), None);
        for tick in 0..SHARED_FRAMES_MAX as u64 {
            shared.get((3, tick, tick + 1), written(b"b"));
        }
        assert_eq!(shared.get((1, 0, 5), written(b"again")).unwrap(), "again");
    }

    #[test]
    fn bytes_are_bounded() {
        let shared = SharedChanges::default();
        for tick in 0..20 {
            shared.get((1, tick, tick + 1), || Some(vec![0; SHARED_BYTES_MAX / 4].into()));
        }
        let kept = shared.kept.lock().unwrap();
        assert!(kept.len() <= 6, "{}", kept.len());
    }
}
