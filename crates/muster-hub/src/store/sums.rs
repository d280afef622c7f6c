//! Sums that no row can break.
//!
//! SQLite's `sum` over whole numbers fails once it leaves 64 bits, and the page that asks fails with it; its `total` is a float, which
//! is not exact. So a sum is taken in two parts, each far from 64 bits for any number of rows that a disk holds, and put together here.

use rusqlite::Row;

/// What the numbers are taken apart at.
const PART: i64 = 1_000_000_000;

/// The two columns of a sum over an expression.
pub(super) fn columns(expression: &str) -> String {
    format!("sum({expression} / {PART}), sum({expression} % {PART})")
}

/// The sum whose two columns begin here; nothing for no rows.
pub(super) fn read(row: &Row<'_>, at: usize) -> rusqlite::Result<i128> {
    let (high, low): (Option<i64>, Option<i64>) = (row.get(at)?, row.get(at + 1)?);
    Ok(i128::from(high.unwrap_or(0)) * i128::from(PART) + i128::from(low.unwrap_or(0)))
}

/// The sum as far as it can be told: what is more stays at the end of 64 bits, on either side.
pub(super) fn told(sum: i128) -> i64 {
    i64::try_from(sum).unwrap_or(if sum < 0 { -i64::MAX } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_exact_and_never_fail() {
        let db = rusqlite::Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE t (a INTEGER)").unwrap();
        let sum = || db.query_row(&format!("SELECT {} FROM t", columns("a")), [], |row| read(row, 0)).unwrap();
        assert_eq!(sum(), 0);
        let mut exact = 0;
        for amount in [1, -1, 999_999_999, -1_000_000_001, i64::MAX, i64::MAX, i64::MAX - 7, i64::MIN, 5] {
            db.execute("INSERT INTO t VALUES (?1)", [amount]).unwrap();
            exact += i128::from(amount);
            assert_eq!(sum(), exact);
        }
        assert_eq!((told(sum()), told(-sum()), told(-5)), (i64::MAX, -i64::MAX, -5));
    }
}
