//! Columns that fit a terminal: what fits is whole; where all of it does not fit, columns give way, the least important first.

use comfy_table::Table;

use super::{Output, text};

/// How a column gives way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Give {
    /// Its cells are cut, to so many characters at least.
    To(usize),
    /// Its moments lose their year and seconds.
    Moments,
    /// Its header is cut, to its longest cell.
    Header,
    /// It is left out.
    All,
}

/// What a header may be cut to.
const SHORTEST_HEADER: usize = 4;
/// The part of `2026-01-02 03:04:05` that is left of it.
const SHORT_MOMENT: std::ops::Range<usize> = 5..16;

/// How wide each column is.
#[derive(Debug, Clone)]
pub(super) struct Layout<const N: usize> {
    header: [&'static str; N],
    widths: [usize; N],
    is_short: [bool; N],
    is_hidden: [bool; N],
    /// Of what is shown already columns can't be left out any more.
    is_begun: bool,
}

impl<const N: usize> Layout<N> {
    pub(super) fn new(header: [&'static str; N]) -> Layout<N> {
        let widths = header.map(|name| name.chars().count());
        Layout { header, widths, is_short: [false; N], is_hidden: [false; N], is_begun: false }
    }

    /// The rows as one table of lines that are no longer than `width`, where that can be: first what the first of `steps`
    /// gives, then the next. A table that was begun goes on: its columns stay, without a header.
    pub(super) fn lines(
        &mut self,
        mut rows: Vec<[String; N]>,
        (steps, width): (&[(usize, Give)], Option<u16>),
        output: &Output,
    ) -> Table {
        self.widen(&rows);
        if let Some(width) = width.map(usize::from) {
            for step in steps {
                self.give(*step, &mut rows, width);
            }
            self.cut(&mut rows);
        }
        self.is_begun = true;
        let shown: Vec<usize> = (0..N).filter(|column| !self.is_hidden[*column]).collect();
        let header: Vec<_> = shown.iter().map(|column| text::cut(self.header[*column], self.widths[*column])).collect();
        let mut table = output.table(&header.iter().map(String::as_str).collect::<Vec<_>>());
        table.add_rows(rows.iter().map(|row| shown.iter().map(|column| row[*column].as_str()).collect::<Vec<_>>()));
        table
    }

    /// Words that are as wide as the columns that are shown.
    fn held_open(&self) -> Vec<String> {
        (0..N).filter(|column| !self.is_hidden[*column]).map(|column| "x".repeat(self.widths[column])).collect()
    }

    fn widen(&mut self, rows: &[[String; N]]) {
        for row in rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
    }

    /// The headers of the columns that were left out.
    pub(super) fn left_out(&self) -> Vec<&'static str> {
        (0..N).filter(|column| self.is_hidden[*column]).map(|column| self.header[column]).collect()
    }

    /// By how much lines are too long.
    fn excess(&self, width: usize) -> usize {
        let shown = (0..N).filter(|column| !self.is_hidden[*column]);
        shown.map(|column| self.widths[column] + 2).sum::<usize>().saturating_sub(width)
    }

    fn give(&mut self, (column, give): (usize, Give), rows: &mut [[String; N]], width: usize) {
        let excess = self.excess(width);
        if excess == 0 {
            return;
        }
        let now = self.widths[column];
        let at_least = |floor: usize| now.saturating_sub(excess).max(floor).min(now);
        let longest = |rows: &[[String; N]]| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        match give {
            Give::To(floor) => self.widths[column] = at_least(floor),
            Give::Header => self.widths[column] = at_least(longest(rows).max(SHORTEST_HEADER)),
            Give::Moments => {
                self.is_short[column] = true;
                rows.iter_mut().for_each(|row| shorten(&mut row[column]));
                self.widths[column] = longest(rows).max(self.header[column].chars().count());
            }
            Give::All if !self.is_begun => self.is_hidden[column] = true,
            Give::All => {}
        }
    }

    fn cut(&self, rows: &mut [[String; N]]) {
        for row in rows {
            for ((cell, width), is_short) in row.iter_mut().zip(self.widths).zip(self.is_short) {
                if is_short {
                    shorten(cell);
                }
                *cell = text::cut(cell, width);
            }
        }
    }
}

fn shorten(moment: &mut String) {
    if moment.len() > SHORT_MOMENT.end
        && let Some(short) = moment.get(SHORT_MOMENT)
    {
        *moment = short.to_owned();
    }
}

/// Rows that come piece by piece, as one table: a column is as wide as the rows so far need.
#[derive(Debug)]
pub(super) struct Columns<const N: usize> {
    layout: Layout<N>,
    steps: &'static [(usize, Give)],
}

impl<const N: usize> Columns<N> {
    /// By their header, and how they give way.
    pub(super) fn new(header: [&'static str; N], steps: &'static [(usize, Give)]) -> Columns<N> {
        Columns { layout: Layout::new(header), steps }
    }

    /// The next rows, the first ones below the header.
    pub(super) fn laid_out(&mut self, rows: Vec<[String; N]>, output: &Output) -> String {
        self.laid_out_within(rows, output.width(), output)
    }

    pub(super) fn laid_out_within(&mut self, rows: Vec<[String; N]>, width: Option<u16>, output: &Output) -> String {
        let is_begun = self.layout.is_begun;
        let mut table = self.layout.lines(rows, (self.steps, width), output);
        // It holds the columns open, and is not shown.
        table.add_row(self.layout.held_open());
        let lines: Vec<_> = table.trim_fmt().lines().map(str::to_owned).collect();
        let shown = lines.get(usize::from(is_begun)..lines.len().saturating_sub(1)).unwrap_or_default();
        shown.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{arguments::Color, output::Format},
        *,
    };

    const HEADER: [&str; 5] = ["ID", "WHEN (UTC)", "CONSUMER", "SAID", "STATE"];
    const STEPS: &[(usize, Give)] =
        &[(3, Give::To(12)), (1, Give::Moments), (2, Give::To(8)), (4, Give::All), (3, Give::To(4))];

    fn row(said: &str) -> [String; 5] {
        ["3f2a1b0c", "2026-01-02 03:04:05", "notifications/confirmation-of-orders", said, "open"].map(str::to_owned)
    }

    fn laid_out(columns: &mut Columns<5>, rows: Vec<[String; 5]>, width: Option<u16>) -> Vec<String> {
        let output = Output::new(Format::Table, Color::Never);
        columns.laid_out_within(rows, width, &output).lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_fits_is_whole_and_what_does_not_gives_way_in_order() {
        let said = "the amount is too small for this currency, says the vendor";
        for (width, is_whole) in
            [(None, true), (Some(200), true), (Some(100), false), (Some(80), false), (Some(50), false)]
        {
            let lines = laid_out(&mut Columns::new(HEADER, STEPS), vec![row(said)], width);
            let text = lines.join("\n");
            let longest = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
            assert!(width.is_none_or(|width| longest <= width.into()), "{width:?}: {longest}\n{text}");
            assert_eq!(row(said).iter().all(|cell| text.contains(cell)), is_whole, "{width:?}\n{text}");
            assert!(text.contains("3f2a1b0c"), "{text}");
            assert_eq!(text.contains("2026-01-02 03:04:05"), width.is_none_or(|width| width > 80), "{width:?}\n{text}");
            assert_eq!(text.contains("open"), width.is_none_or(|width| width > 50), "{width:?}\n{text}");
        }
    }

    #[test]
    fn a_table_that_comes_piece_by_piece_has_one_header_and_its_columns_stay() {
        for width in [None, Some(80), Some(50)] {
            let mut columns = Columns::new(HEADER, STEPS);
            let first = laid_out(&mut columns, vec![row("the longest of all that was said here")], width);
            let next = laid_out(&mut columns, vec![row("short"), row("short")], width);
            assert_eq!((first.len(), next.len()), (2, 2), "{first:?}\n{next:?}");
            let at = |line: &String| line.find("notif");
            assert_eq!(at(&next[0]), at(&first[1]), "{first:?}\n{next:?}");
        }
    }
}
