//! Views come, change and go while rows do; those that stay notice nothing.

use super::case::Case;
use super::dice::Dice;

/// Which of the views run now.
pub(crate) struct Running {
    present: Vec<bool>,
    /// How often each was written anew, in other words that mean the same.
    written: Vec<usize>,
    /// Both, as of the last change.
    known: Vec<(bool, usize)>,
    /// Those whose followers have to begin again.
    news: Vec<bool>,
}

impl Running {
    pub(crate) fn all(views: usize) -> Self {
        Running {
            present: vec![true; views],
            written: vec![0; views],
            known: vec![(true, 0); views],
            news: vec![false; views],
        }
    }
}

impl Case<'_> {
    /// Tells whether a relation is there now.
    pub(crate) fn is_present(&self, at: usize) -> bool {
        at.checked_sub(self.sources())
            .is_none_or(|view| self.running.present[view])
    }

    /// Tells once whether a relation is another than the last time.
    pub(crate) fn is_news(&mut self, at: usize) -> bool {
        at.checked_sub(self.sources())
            .is_some_and(|view| std::mem::take(&mut self.running.news[view]))
    }

    /// Drops a view with all that read it, brings some back, or writes some anew.
    pub(crate) async fn change(&mut self, dice: &mut Dice) -> Result<(), String> {
        let views = &self.made.deployment.views;
        let position = |name: &String| views.iter().position(|definition| definition.view.name == *name);
        let reads: Vec<Vec<usize>> = views
            .iter()
            .map(|definition| definition.view.inputs.iter().filter_map(position).collect())
            .collect();
        for _ in 0..1 + dice.below(2) {
            let one = dice.below(views.len());
            match (self.running.present[one], dice.chance(50)) {
                (true, true) => self.running.written[one] += 1,
                (present, _) => self.running.present[one] = !present,
            }
        }
        // Views come after all they read.
        let mut anew = vec![false; views.len()];
        let before = std::mem::take(&mut self.running.news);
        let was = self.running.known.clone();
        for view in 0..views.len() {
            if reads[view].iter().any(|read| !self.running.present[*read]) {
                self.running.present[view] = false;
            }
            let now = (self.running.present[view], self.running.written[view]);
            anew[view] = now.0 && (now != was[view] || reads[view].iter().any(|read| anew[*read]));
            self.running.known[view] = now;
        }
        let mut deployment = self.made.deployment.clone();
        let mut view = 0;
        deployment.views.retain_mut(|definition| {
            let times = self.running.written[view];
            definition.view.sql.push_str(&" ".repeat(times));
            view += 1;
            self.running.present[view - 1]
        });
        let changed = self.engine.change(deployment);
        let changed = self
            .patiently(changed)
            .await?
            .map_err(|error| format!("a change: {error}"))?;
        let told = |name: &String| changed.added.contains(name) || changed.changed.contains(name);
        for (view, definition) in views.iter().enumerate() {
            if anew[view] != told(&definition.view.name) {
                return Err(format!(
                    "{changed:?} does not tell of {} what was changed",
                    definition.view.name
                ));
            }
        }
        self.tally.changes += 1;
        self.tally.filled_rows += changed.rows;
        self.running.news = before
            .iter()
            .zip(&anew)
            .map(|(before, anew)| *before || *anew)
            .collect();
        self.compare(self.tick).await
    }
}
