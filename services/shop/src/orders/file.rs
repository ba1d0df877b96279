//! The file of real purchases, read line by line.

use shop_proto::shop::orders::v1::OrderPlaced;

const TEXT: &str = include_str!("../../data/cdnow-orders.txt");
const CURRENCY: &str = "USD";

/// A line that is no order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the orders is no order ({what} can't be read): {text:?}")]
pub struct BadLine {
    /// From 1, below the header: what would have been the order's id.
    pub line: usize,
    /// The column.
    pub what: &'static str,
    /// The line.
    pub text: String,
}

/// Every order of the embedded file, in its order. An order's id is the number of its line below the header, from 1; repeated
/// lines and orders of 0.00 are orders like any other.
///
/// # Errors
/// A line that can't be read is an item of its own; those after it follow.
pub fn orders() -> impl Iterator<Item = Result<OrderPlaced, BadLine>> {
    orders_in(TEXT)
}

fn orders_in(text: &str) -> impl Iterator<Item = Result<OrderPlaced, BadLine>> + '_ {
    (1..)
        .zip(text.lines().skip(1))
        .map(|(line, text)| order(line, text).map_err(|what| BadLine { line, what, text: text.to_owned() }))
}

fn order(line: usize, text: &str) -> Result<OrderPlaced, &'static str> {
    let mut columns = text.split_ascii_whitespace();
    let customer_id = columns.next().ok_or("the customer")?.to_owned();
    let placed_on = columns.next().and_then(date).ok_or("the date")?;
    let item_count = columns.next().and_then(|count| count.parse().ok()).ok_or("the number of things")?;
    let total_cents = columns.next().and_then(cents).ok_or("the amount")?;
    if columns.next().is_some() {
        return Err("a fifth column");
    }
    let (order_id, currency) = (line.to_string(), CURRENCY.to_owned());
    Ok(OrderPlaced { order_id, customer_id, placed_on, item_count, total_cents, currency })
}

/// `19970101` as `1997-01-01`.
fn date(text: &str) -> Option<String> {
    let digits = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| format!("{}-{}-{}", &text[..4], &text[4..6], &text[6..]))
}

/// `11.77` as 1177, without a detour over floating point.
fn cents(text: &str) -> Option<i64> {
    let (whole, part) = text.split_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() != 2 {
        return None;
    }
    whole.parse::<i64>().ok()?.checked_mul(100)?.checked_add(part.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_file_is_what_its_source_says() {
        let orders: Vec<_> = orders().collect::<Result<_, _>>().unwrap();
        assert_eq!(orders.len(), 69_659);
        assert_eq!(orders.iter().filter(|order| order.total_cents == 0).count(), 80);
        let ids: BTreeSet<_> = orders.iter().map(|order| &order.order_id).collect();
        assert_eq!(ids.len(), orders.len());
        let customers: BTreeSet<_> = orders.iter().map(|order| &order.customer_id).collect();
        assert_eq!(customers.len(), 23_570);
    }

    #[test]
    fn a_line_is_read_exactly() {
        let orders: Vec<_> =
            orders_in("header\n 00001 19970101  1   11.77\r\n 00002 19970112  5   77.00\r\n").collect();
        let first = orders[0].as_ref().unwrap();
        assert_eq!((first.order_id.as_str(), first.customer_id.as_str()), ("1", "00001"));
        assert_eq!((first.placed_on.as_str(), first.item_count, first.total_cents), ("1997-01-01", 1, 1177));
        assert_eq!(orders[1].as_ref().unwrap().total_cents, 7700);
    }

    #[test]
    fn amounts_have_two_decimals_or_are_refused() {
        for (text, expected) in [
            ("0.00", Some(0)),
            ("0.07", Some(7)),
            ("1286.01", Some(128_601)),
            ("1", None),
            ("1.5", None),
            ("-1.00", None),
            (".50", None),
        ] {
            assert_eq!(cents(text), expected, "{text}");
        }
    }

    #[test]
    fn a_bad_line_is_told_and_the_next_is_read() {
        let orders: Vec<_> = orders_in("header\n00001 1997 1 11.77\n00001 19970101 1 1.00\n").collect();
        let bad = orders[0].as_ref().unwrap_err();
        assert_eq!((bad.line, bad.what), (1, "the date"));
        assert_eq!(orders[1].as_ref().unwrap().order_id, "2");
    }
}
