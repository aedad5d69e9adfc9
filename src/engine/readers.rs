//! How far back the readers of a view look: so much of its finished rows they need when they begin.

use dataflows::plan::Reach;

use crate::config::ViewDef;

/// Returns how far back, by a column of times, the views look that read a relation.
pub(super) fn look_back(views: &[ViewDef], relation: &str, column: usize) -> Reach {
    let views = views
        .iter()
        .map(|definition| definition.view.plan.reach(relation, column));
    views.fold(Reach::None, Reach::max)
}
