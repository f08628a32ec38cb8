//! Dates and times as text, in the forms that Flink's formats read and write (java.time's
//! `ISO_LOCAL_DATE` with its SMART resolver, and `HH:mm:ss` with an optional fraction).

use std::fmt::Write;

const DAY_S: i64 = 86_400;

/// Days since 1970-01-01 of a proleptic Gregorian date (Howard Hinnant, "chrono-Compatible
/// Low-Level Date Algorithms").
pub fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (i64::from(month) + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The inverse of `days_from_civil`.
pub fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month as u32, day)
}

fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Reads characters off the front of a text.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn literal(&mut self, expected: u8) -> Option<()> {
        let (&first, rest) = self.0.split_first()?;
        (first == expected).then(|| self.0 = rest)
    }

    fn digits(&mut self, min: usize, max: usize) -> Option<i64> {
        let count = self.0.iter().take(max).take_while(|b| b.is_ascii_digit()).count();
        if count < min {
            return None;
        }
        let (digits, rest) = self.0.split_at(count);
        self.0 = rest;
        Some(digits.iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0')))
    }

    /// `yyyy-MM-dd`, in days. A day past the month's end is its last, as SMART resolves it.
    fn date(&mut self) -> Option<i64> {
        let sign = match self.0.first()? {
            b'-' => self.literal(b'-').map(|()| -1)?,
            b'+' => self.literal(b'+').map(|()| 1)?,
            _ => 0,
        };
        // Years beyond 9999 carry a sign, others have four digits.
        let year = if sign == 0 { self.digits(4, 4)? } else { sign * self.digits(4, 9)? };
        self.literal(b'-')?;
        let month = self.digits(2, 2).filter(|month| (1..=12).contains(month))? as u32;
        self.literal(b'-')?;
        let day = self.digits(2, 2).filter(|day| (1..=31).contains(day))? as u32;
        Some(days_from_civil(year, month, day.min(days_in_month(year, month))))
    }

    /// `HH:mm:ss[.fraction]`, in nanoseconds of the day; 24:00:00 is the next day's midnight.
    fn time(&mut self, seconds_optional: bool) -> Option<i64> {
        let hour = self.digits(2, 2)?;
        self.literal(b':')?;
        let minute = self.digits(2, 2).filter(|minute| *minute < 60)?;
        let (mut second, mut nanos) = (0, 0);
        if !(seconds_optional && self.0.first() != Some(&b':')) {
            self.literal(b':')?;
            second = self.digits(2, 2).filter(|second| *second < 60)?;
            if self.literal(b'.').is_some() {
                let before = self.0.len();
                nanos = self.digits(1, 9)?;
                let width = before - self.0.len();
                nanos *= 10_i64.pow(9 - width as u32);
            }
        }
        if hour > 24 || (hour == 24 && (minute, second, nanos) != (0, 0, 0)) {
            return None;
        }
        Some(((hour * 60 + minute) * 60 + second) * 1_000_000_000 + nanos)
    }

    fn end<T>(self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}

/// A date, in days since 1970-01-01.
pub fn parse_date(text: &str) -> Option<i64> {
    let mut cursor = Cursor(text.as_bytes());
    let days = cursor.date()?;
    cursor.end(days)
}

/// A time of day, in nanoseconds.
pub fn parse_time(text: &str) -> Option<i64> {
    let mut cursor = Cursor(text.as_bytes());
    let nanos = cursor.time(false)?;
    cursor.end(nanos)
}

/// A timestamp: seconds since 1970-01-01 00:00:00 and nanoseconds of the second. `iso` separates
/// date and time by `T` and may leave the seconds out; `zoned` ends with `Z`.
pub fn parse_timestamp(text: &str, iso: bool, zoned: bool) -> Option<(i64, u32)> {
    let mut cursor = Cursor(text.as_bytes());
    let days = cursor.date()?;
    if iso {
        cursor.literal(b'T').or_else(|| cursor.literal(b't'))?;
    } else {
        cursor.literal(b' ')?;
    }
    let nanos = cursor.time(iso)?;
    if zoned {
        cursor.literal(b'Z')?;
    }
    let seconds = days * DAY_S + nanos / 1_000_000_000;
    cursor.end((seconds, (nanos % 1_000_000_000) as u32))
}

/// Writes a date as `yyyy-MM-dd`.
pub fn write_date(out: &mut String, days: i64) {
    let (year, month, day) = civil_from_days(days);
    // Writing to a String cannot fail.
    let _ = match year {
        0..=9999 => write!(out, "{year:04}-{month:02}-{day:02}"),
        10_000.. => write!(out, "+{year}-{month:02}-{day:02}"),
        _ => write!(out, "-{:04}-{month:02}-{day:02}", -year),
    };
}

/// Writes a time of day as `HH:mm:ss`.
pub fn write_time(out: &mut String, seconds: i64) {
    let _ = write!(out, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
}

/// Writes a timestamp; the fraction has no trailing zeros and is left out when it is zero.
pub fn write_timestamp(out: &mut String, seconds: i64, nanos: u32, iso: bool, zoned: bool) {
    write_date(out, seconds.div_euclid(DAY_S));
    out.push(if iso { 'T' } else { ' ' });
    write_time(out, seconds.rem_euclid(DAY_S));
    if nanos > 0 {
        let fraction = format!("{nanos:09}");
        out.push('.');
        out.push_str(fraction.trim_end_matches('0'));
    }
    if zoned {
        out.push('Z');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(seconds: i64, nanos: u32) -> String {
        let mut out = String::new();
        write_timestamp(&mut out, seconds, nanos, false, false);
        out
    }

    #[test]
    fn dates_survive_the_round_trip_across_eras() {
        for days in [-1_000_000, -719_529, -1, 0, 59, 11_016, 19_782, 20_000, 2_932_896, 3_000_000]
        {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
        assert_eq!(civil_from_days(-1), (1969, 12, 31));
    }

    #[test]
    fn sql_timestamps_are_read_with_and_without_fraction() {
        assert_eq!(parse_timestamp("2024-03-01 12:00:01", false, false), Some((1_709_294_401, 0)));
        assert_eq!(
            parse_timestamp("2024-03-01 12:00:01.25", false, false),
            Some((1_709_294_401, 250_000_000))
        );
        assert_eq!(parse_timestamp("1969-12-31 23:59:59.5", false, false), Some((-1, 500_000_000)));
        assert_eq!(parse_timestamp("2024-03-01T12:00:01", false, false), None);
        assert_eq!(parse_timestamp("2024-03-01 12:00", false, false), None);
        assert_eq!(parse_timestamp("2024-03-01 12:00:01Z", false, false), None);
        assert_eq!(parse_timestamp("2024-03-01 12:00:01", false, true), None);
        assert_eq!(parse_timestamp("1970-01-01 00:00:01Z", false, true), Some((1, 0)));
    }

    #[test]
    fn iso_timestamps_may_leave_the_seconds_out() {
        assert_eq!(parse_timestamp("1970-01-01T00:01", true, false), Some((60, 0)));
        assert_eq!(parse_timestamp("1970-01-01T00:00:01.001Z", true, true), Some((1, 1_000_000)));
    }

    #[test]
    fn a_day_past_the_months_end_is_its_last_as_javas_smart_resolver_has_it() {
        assert_eq!(parse_date("2024-02-30"), parse_date("2024-02-29"));
        assert_eq!(parse_date("2023-02-31"), parse_date("2023-02-28"));
        assert_eq!(parse_date("2024-02-32"), None);
        assert_eq!(
            parse_timestamp("1970-01-01 24:00:00", false, false),
            parse_timestamp("1970-01-02 00:00:00", false, false)
        );
    }

    #[test]
    fn the_fraction_is_written_without_trailing_zeros() {
        assert_eq!(written(0, 0), "1970-01-01 00:00:00");
        assert_eq!(written(0, 120_000_000), "1970-01-01 00:00:00.12");
        assert_eq!(written(-1, 1_000_000), "1969-12-31 23:59:59.001");
    }
}
