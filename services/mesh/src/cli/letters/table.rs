//! Rows that fit the terminal: what was said is cut first, and stands whole in `show`.

use super::super::text;

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

#[cfg(test)]
mod tests {
    use super::*;

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
