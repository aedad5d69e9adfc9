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
        self.unescaped.clear();
    }

    pub(crate) fn add_row(&mut self) {
        self.spans.resize(self.spans.len() + self.width, MISSING);
    }

    pub(crate) fn drop_row(&mut self) {
        self.spans.truncate(self.spans.len() - self.width);
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
