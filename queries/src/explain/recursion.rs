//! Prints a recursion: where it starts, and what each round adds.

use std::fmt::Write;

use dataflows::plan::{NodeId, Plan, ROUNDS_MAX};

use super::Explaining;

impl Explaining<'_> {
    /// Returns the line of a recursion, and what is to be said about its state.
    pub(super) fn recursion(&self, id: NodeId, name: &str, distinct: bool) -> (String, Vec<String>) {
        let union = if distinct { "UNION" } else { "UNION ALL" };
        let state = format!(
            "state: its rows and what they are joined with, by round; bound: {}, {ROUNDS_MAX} rounds",
            self.bound(id)
        );
        (format!("recursion {name}: {union}"), vec![state])
    }

    /// Prints what a recursion reads: the static term, then the recursive one with its own inputs in place.
    pub(super) fn recursion_inputs(&self, inputs: &[NodeId], body: &Plan, depth: usize, text: &mut String) {
        let indent = "  ".repeat(depth);
        self.node(inputs[0], depth, text);
        let _ = writeln!(text, "{indent}each round:");
        self.within(inputs, body).node(body.root, depth + 1, text);
    }

    /// Explains the body of a recursion.
    fn within<'a>(&'a self, inputs: &'a [NodeId], body: &'a Plan) -> Explaining<'a> {
        Explaining {
            plan: body,
            catalog: self.catalog,
            shared: None,
            around: Some((self, inputs)),
            closing: None,
            passing: None,
        }
    }

    /// Returns the node around a recursion that its body reads as this input.
    pub(super) fn outer(&self, input: usize) -> Option<(&Explaining<'_>, NodeId)> {
        let (around, inputs) = self.around?;
        Some((around, inputs[input]))
    }
}
