//! Rows that fit the terminal: what was said is cut first, and stands whole in `show`.

use super::{super::text, Output};

/// Characters of what was said: at most, and at least on a narrow terminal.
pub(super) const SAID_LENGTH: (usize, usize) = (60, 12);
/// Characters of a consumer's name on a terminal.
const CONSUMER_LENGTH: usize = 28;

/// The rows, each on one line of `width` columns where that can be: by their header, the column of what was said and that
/// of the consumer.
pub(super) fn fitted<const N: usize>(
    mut rows: Vec<[String; N]>,
    (header, said, consumer): (&[&str; N], usize, usize),
    width: Option<u16>,
) -> Vec<[String; N]> {
    let Some(width) = width.map(usize::from) else { return rows };
    for row in &mut rows {
        row[consumer] = text::cut(&row[consumer], CONSUMER_LENGTH);
    }
    let longest = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let column = |column: usize| longest(column).max(header[column].chars().count()) + 2;
    let others: usize = (0..N).filter(|index| *index != said).map(column).sum();
    let left = width.saturating_sub(others + 2).clamp(SAID_LENGTH.1, SAID_LENGTH.0);
    for row in &mut rows {
        row[said] = text::cut(&row[said], left);
    }
    rows
}

/// Rows that come piece by piece, as one table: a column is as wide as the rows so far need.
#[derive(Debug)]
pub(super) struct Columns<const N: usize> {
    header: [&'static str; N],
    said_and_consumer: (usize, usize),
    widths: [usize; N],
    is_begun: bool,
}

impl<const N: usize> Columns<N> {
    /// By their header, the column of what was said and that of the consumer.
    pub(super) fn new(header: [&'static str; N], said_and_consumer: (usize, usize)) -> Columns<N> {
        Columns { header, said_and_consumer, widths: [0; N], is_begun: false }
    }

    /// The next rows, the first ones below the header.
    pub(super) fn laid_out(&mut self, rows: Vec<[String; N]>, output: &Output) -> String {
        let (said, consumer) = self.said_and_consumer;
        let rows = fitted(rows, (&self.header, said, consumer), output.width());
        let mut table = output.table(&self.header);
        if self.is_begun {
            // It holds the columns open, and is not shown.
            table.add_row(self.widths.map(|width| "x".repeat(width)));
        }
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        table.add_rows(rows);
        let unseen = if self.is_begun { 2 } else { 0 };
        self.is_begun = true;
        let lines = table.trim_fmt();
        lines.lines().skip(unseen).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{arguments::Color, output::Format},
        *,
    };

    #[test]
    fn a_table_that_comes_piece_by_piece_has_one_header_and_its_columns_stay() {
        let output = Output::new(Format::Table, Color::Never);
        let row = |said: &str| [["a", said, "c"].map(str::to_owned)].into();
        let mut columns = Columns::new(["ID", "SAID", "CONSUMER"], (1, 2));
        let first = columns.laid_out(row("the longest of all"), &output);
        assert_eq!(first.lines().count(), 2, "{first}");
        let next = columns.laid_out(row("short"), &output);
        let at = |line: &str| line.rfind('c');
        assert_eq!((next.lines().count(), at(&next)), (1, at(first.lines().last().unwrap())), "{first}\n{next}");
    }

    #[test]
    fn a_row_fits_the_terminal_and_is_whole_elsewhere() {
        const HEADER: [&str; 9] =
            ["ID", "WHEN (UTC)", "CONSUMER", "MESSAGE", "REASON", "VENDOR CODE", "SAID", "GEN", "STATE"];
        let row: [String; 9] = std::array::from_fn(|column| if column == 6 { "x".repeat(60) } else { "y".repeat(8) });
        assert_eq!(fitted(vec![row.clone()], (&HEADER, 6, 2), None)[0], row);
        let narrow = fitted(vec![row], (&HEADER, 6, 2), Some(120));
        let headers = HEADER.iter().zip(&narrow[0]);
        let line: usize = headers.map(|(name, cell)| name.chars().count().max(cell.chars().count()) + 2).sum();
        assert_eq!(line, 120);
    }
}
