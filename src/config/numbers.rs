//! Numbers that flags take: each within bounds, so that no sum of times and no product of sizes can overflow later.

use std::fmt::Display;
use std::num::{IntErrorKind, ParseIntError};
use std::str::FromStr;

/// Seconds: a year.
pub(super) const A_YEAR: u64 = 365 * 86_400;
/// Bytes: a tebibyte.
pub(super) const BYTES: usize = 1 << 40;
/// Texts, tokens, connections.
pub(super) const MANY: usize = 1_000_000_000;
/// Threads of a forward pass.
pub(super) const THREADS: usize = 1024;

/// Reads a whole number of these bounds; says which those are to whoever gives another.
pub(super) fn between<T>(least: T, most: T) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr<Err = ParseIntError> + PartialOrd + Display + Copy + Send + Sync + 'static,
{
    move |text| {
        let bounds = || format!("use a number from {least} to {most}");
        match text.trim().parse() {
            Ok(number) if least <= number && number <= most => Ok(number),
            Ok(_) => Err(bounds()),
            Err(error) => match error.kind() {
                IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => Err(bounds()),
                _ if text.trim().parse::<i128>().is_ok() => Err(bounds()),
                _ => Err("use a whole number, without a unit".to_owned()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_of_the_bounds_is_refused_with_them() {
        let seconds = between(1, A_YEAR);
        assert_eq!((seconds("1"), seconds(" 31536000")), (Ok(1), Ok(A_YEAR)));
        for text in ["0", "-1", "31536001", "18446744073709551615", "18446744073709551616", "-99999999999999999999"] {
            assert_eq!(seconds(text), Err("use a number from 1 to 31536000".to_owned()), "{text}");
        }
        for text in ["", "1e400", "NaN", "inf", "1.5", "10s", "0x10", "1_000"] {
            assert!(seconds(text).is_err_and(|error| error.contains("a whole number")), "{text}");
        }
    }
}
