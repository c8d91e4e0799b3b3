//! RFC 3339 dates as Go's `time` package reads and writes them.

/// A date as it was given: wall clock and offset. Never converted to another zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    year: u32,
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
    nanos: u32,
    /// Minutes east of UTC.
    offset: i32,
}

impl Date {
    /// What Go's `time.Parse(time.RFC3339, text)` accepts: besides RFC 3339 also a one-digit hour, a comma before the
    /// fraction and 60 offset minutes; capital `T` and `Z` only; fractions are cut at nanoseconds. One exception: an
    /// offset of a day or more, which Go reads but cannot write as JSON, is refused.
    pub fn parse(text: &str) -> Option<Date> {
        let mut rest = Rest(text.as_bytes());
        let year = rest.digits(4)?;
        rest.literal(b'-')?;
        let month = rest.digits(2)?;
        rest.literal(b'-')?;
        let day = rest.digits(2)?;
        rest.literal(b'T')?;
        let hour = rest.digits(2).or_else(|| rest.digits(1))?;
        rest.literal(b':')?;
        let minute = rest.digits(2)?;
        rest.literal(b':')?;
        let second = rest.digits(2)?;
        let nanos = rest.fraction();
        let offset = rest.offset()?;
        let valid = (1..=12).contains(&month)
            && (1..=days_in(month, year)).contains(&day)
            && hour < 24
            && minute < 60
            && second < 60
            && rest.0.is_empty();
        valid.then_some(Date { year, month, day, hour, minute, second, nanos, offset })
    }

    /// Go's `time.RFC3339` form: to the second, the fraction dropped, the own offset kept, `Z` for an offset of zero.
    pub fn to_seconds(self) -> String {
        self.format("")
    }

    /// The form of Go's JSON encoder: as [`Date::to_seconds`], with the fraction and without its trailing zeros.
    pub fn to_json(self) -> String {
        let fraction = format!(".{:09}", self.nanos);
        self.format(fraction.trim_end_matches('0').trim_end_matches('.'))
    }

    fn format(self, fraction: &str) -> String {
        let Date { year, month, day, hour, minute, second, offset, .. } = self;
        let clock = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}");
        let (sign, minutes) = (if offset < 0 { '-' } else { '+' }, offset.abs());
        if offset == 0 { clock + "Z" } else { format!("{clock}{sign}{:02}:{:02}", minutes / 60, minutes % 60) }
    }
}

fn days_in(month: u32, year: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// What is still unread.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn literal(&mut self, byte: u8) -> Option<()> {
        self.0 = self.0.strip_prefix(&[byte])?;
        Some(())
    }

    /// Exactly that many digits; takes nothing if they are not there.
    fn digits(&mut self, count: usize) -> Option<u32> {
        let (digits, rest) = self.0.split_at_checked(count)?;
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        self.0 = rest;
        Some(digits.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0')))
    }

    /// Nanoseconds; zero and nothing taken if no fraction stands here.
    fn fraction(&mut self) -> u32 {
        let [b'.' | b',', digits @ ..] = self.0 else { return 0 };
        let count = digits.iter().take_while(|b| b.is_ascii_digit()).count();
        if count == 0 {
            return 0;
        }
        self.0 = &digits[count..];
        (0..9).fold(0, |nanos, i| nanos * 10 + if i < count { u32::from(digits[i] - b'0') } else { 0 })
    }

    /// `Z` or `±hh:mm`, in minutes.
    fn offset(&mut self) -> Option<i32> {
        if self.literal(b'Z').is_some() {
            return Some(0);
        }
        let sign = if self.literal(b'-').is_some() { -1 } else { self.literal(b'+').map(|()| 1)? };
        let hours = self.digits(2)?;
        self.literal(b':')?;
        let minutes = self.digits(2).filter(|&minutes| minutes <= 60)?;
        let offset = i32::try_from(hours * 60 + minutes).ok().filter(|&offset| offset < 24 * 60)?;
        Some(sign * offset)
    }
}

#[cfg(test)]
mod tests {
    use super::Date;

    #[test]
    fn the_own_offset_is_kept_and_zero_is_z() {
        for (text, seconds, json) in [
            ("2020-01-02T03:04:05Z", "2020-01-02T03:04:05Z", "2020-01-02T03:04:05Z"),
            ("2020-01-02T03:04:05.6780+02:00", "2020-01-02T03:04:05+02:00", "2020-01-02T03:04:05.678+02:00"),
            ("2020-01-02T03:04:05.1234567899-00:00", "2020-01-02T03:04:05Z", "2020-01-02T03:04:05.123456789Z"),
            ("2020-02-29T3:04:05,000-07:30", "2020-02-29T03:04:05-07:30", "2020-02-29T03:04:05-07:30"),
            ("0000-01-01T00:00:00+01:60", "0000-01-01T00:00:00+02:00", "0000-01-01T00:00:00+02:00"),
        ] {
            let date = Date::parse(text).unwrap();
            assert_eq!(date.to_seconds(), seconds, "{text}");
            assert_eq!(date.to_json(), json, "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "2020-01-02",
            "2020-01-02t03:04:05Z",
            "2020-01-02T03:04:05z",
            "2020-01-02 03:04:05Z",
            "2020-01-02T03:04:05",
            "2020-01-02T03:04:05.Z",
            "2020-01-02T03:04:60Z",
            "2020-01-02T24:04:05Z",
            "2020-1-02T03:04:05Z",
            "2020-13-02T03:04:05Z",
            "2021-02-29T03:04:05Z",
            "1900-02-29T03:04:05Z",
            "2020-01-00T03:04:05Z",
            "2020-01-02T03:04:05+0200",
            "2020-01-02T03:04:05+25:00",
            "2020-01-02T03:04:05+02:61",
            "2020-01-02T03:04:05-24:00",
            "2020-01-02T03:04:05+23:60",
            "2020-01-02T03:04:05Zx",
            "２０２０-01-02T03:04:05Z",
        ] {
            assert_eq!(Date::parse(text), None, "{text}");
        }
    }
}
