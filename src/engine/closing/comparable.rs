//! Which rows of a view that closes an audit can compare with the batch answer over what its inputs hold.
//!
//! Open buckets are what that answer says they are. A closed one is as long as all its rows are still there, if it was
//! closed under the definitions and rules that hold now.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::super::source::SourceState;
use super::super::topology::Topology;
use super::Closings;
use crate::config::Deployment;

/// What of a view can be compared, by its bucket; nothing of it ever falls.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Comparable {
    /// Buckets below this are closed.
    pub(in crate::engine) below: i64,
    /// Buckets from this on can be computed again, open or closed.
    pub(in crate::engine) from: i64,
    /// Whether closed ones can at all.
    pub(in crate::engine) closed: bool,
}

impl Closings {
    /// Returns what of each view can be compared, by name, as of the tick that was begun last.
    pub(in crate::engine) fn comparable(
        &self,
        topology: &Topology,
        sources: &[SourceState],
    ) -> HashMap<String, Comparable> {
        let first = |name: &str| match topology.source(name) {
            Some(source) => sources[source].retained_from_us(),
            None => {
                let view = self.views.iter().find(|state| *state.name == *name);
                view.map(|state| state.closed.gone)
            }
        };
        let views = self.views.iter().map(|state| {
            let (below, gone) = (state.closed.below, state.closed.gone);
            let whole = state.closing.whole_from(first);
            let from = whole.map_or(below, |whole| whole.max(state.since).max(gone).min(below));
            let closed = whole.is_some();
            (state.name.to_string(), Comparable { below, from, closed })
        });
        views.collect()
    }
}

/// Returns a number that changes with what decides, beside its definition, which rows make a view's buckets up.
pub(in crate::engine) fn rules(deployment: &Deployment, view: &str) -> Option<u64> {
    let mut views = deployment.views.iter().map(|definition| &definition.view);
    let closing = views.find(|known| known.name == view)?.closing.as_ref()?;
    let sources = deployment.sources.iter();
    let sources = sources.filter(|source| closing.sources.contains(&source.name));
    // Another program may have closed them in another way.
    let mut hasher = DefaultHasher::new();
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    for source in sources {
        let lateness_us = source.time.and_then(|time| time.lateness_us);
        (&source.name, source.retain_us, lateness_us).hash(&mut hasher);
    }
    Some(hasher.finish())
}
