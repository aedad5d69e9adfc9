//! Where the values of each row stand in the input: what a format finds, and
//! what [`values`](crate::values) reads.

/// How a value was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Absent, or JSON's `null`.
    Missing,
    /// Without quotes: a number, `true`, or an unquoted CSV field.
    Bare,
    /// Between quotes.
    Quoted,
    /// An object or an array.
    Nested,
}

/// One value of one row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cell<'a> {
    pub(crate) kind: Kind,
    pub(crate) text: &'a str,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
    kind: Kind,
    /// The text lies in `unescaped`, not in the input.
    unescaped: bool,
}

const MISSING: Span = Span {
    start: 0,
    end: 0,
    kind: Kind::Missing,
    unescaped: false,
};

/// The values of some rows, row after row, as places in the input.
#[derive(Debug, Default)]
pub(crate) struct Cells {
    width: usize,
    spans: Vec<Span>,
    /// For each row, whether it is taken back.
    taken_back: Vec<bool>,
    /// Texts that hold escapes, resolved.
    pub(crate) unescaped: String,
}

impl Cells {
    pub(crate) fn new(width: usize) -> Cells {
        Cells {
            width,
            ..Cells::default()
        }
    }

    pub(crate) fn clear(&mut self) {
        self.spans.clear();
        self.taken_back.clear();
        self.unescaped.clear();
    }

    pub(crate) fn add_row(&mut self) {
        self.spans.resize(self.spans.len() + self.width, MISSING);
        self.taken_back.push(false);
    }

    pub(crate) fn drop_row(&mut self) {
        self.spans.truncate(self.spans.len() - self.width);
        self.taken_back.pop();
    }

    /// Says that the row added last is taken back.
    pub(crate) fn take_back(&mut self) {
        if let Some(last) = self.taken_back.last_mut() {
            *last = true;
        }
    }

    /// Tells for each row whether it is taken back.
    pub(crate) fn taken_back(&self) -> &[bool] {
        &self.taken_back
    }

    /// Tells whether the row added last has values in all of `slots`.
    pub(crate) fn has(&self, slots: &[usize]) -> bool {
        let row = &self.spans[self.spans.len() - self.width..];
        slots.iter().all(|&slot| row[slot].kind != Kind::Missing)
    }

    /// Tells whether the last two rows are written alike in `slots`.
    pub(crate) fn agree(&self, text: &str, slots: &[usize]) -> bool {
        let rows = &self.spans[self.spans.len() - 2 * self.width..];
        let written = |span: &Span| {
            let text = if span.unescaped { self.unescaped.as_str() } else { text };
            (span.kind, text[span.start as usize..span.end as usize].to_owned())
        };
        slots
            .iter()
            .all(|&slot| written(&rows[slot]) == written(&rows[self.width + slot]))
    }

    /// Drops the row before the one added last.
    pub(crate) fn drop_row_before_last(&mut self) {
        let start = self.spans.len() - 2 * self.width;
        self.spans.drain(start..start + self.width);
        self.taken_back.remove(self.taken_back.len() - 2);
    }

    /// Sets a value of the row added last; `start..end` lie in the input.
    pub(crate) fn set(&mut self, slot: usize, start: usize, end: usize, kind: Kind) {
        let at = self.spans.len() - self.width + slot;
        self.spans[at] = Span {
            start: start as u32,
            end: end as u32,
            kind,
            unescaped: false,
        };
    }

    /// The row added last.
    #[inline]
    pub(crate) fn last_row(&mut self) -> LastRow<'_> {
        let start = self.spans.len() - self.width;
        LastRow(&mut self.spans[start..])
    }

    /// Sets a quoted value to what `unescaped` holds from `start` on.
    pub(crate) fn set_unescaped(&mut self, slot: usize, start: usize) {
        let at = self.spans.len() - self.width + slot;
        let end = self.unescaped.len() as u32;
        self.spans[at] = Span {
            start: start as u32,
            end,
            kind: Kind::Quoted,
            unescaped: true,
        };
    }

    /// The values of one slot, row after row; `text` is the input.
    pub(crate) fn column<'a>(&'a self, text: &'a str, slot: usize) -> impl Iterator<Item = Cell<'a>> {
        self.spans.chunks_exact(self.width.max(1)).map(move |row| {
            let span = row[slot];
            let text = if span.unescaped { self.unescaped.as_str() } else { text };
            Cell {
                kind: span.kind,
                text: &text[span.start as usize..span.end as usize],
            }
        })
    }
}

/// The values of the row added last.
pub(crate) struct LastRow<'a>(&'a mut [Span]);

impl LastRow<'_> {
    /// Sets a value; `start..end` lie in the input.
    #[inline]
    pub(crate) fn set(&mut self, slot: usize, start: usize, end: usize, kind: Kind) {
        self.0[slot] = Span {
            start: start as u32,
            end: end as u32,
            kind,
            unescaped: false,
        };
    }
}
