//! HTTP dates (RFC 9110 §5.6.7): all three forms in, IMF-fixdate out.
//!
//! Must stay true: a date that is no real day (30 February) is refused; years from 1970 to 9999 only, so that
//! the value is a `u64` of unix seconds and its text has 29 bytes.

/// Unix seconds of an HTTP date. `now` (unix seconds) settles the century of the two-digit years of RFC 850.
pub fn parse(bytes: &[u8], now: u64) -> Option<u64> {
    parse_imf(bytes).or_else(|| parse_rfc850(bytes, now)).or_else(|| parse_asctime(bytes))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`; times after the year 9999 are written as its last second.
pub fn format(unix_seconds: u64) -> String {
    let seconds = unix_seconds.min(SECONDS_MAX);
    let (year, month, day) = civil(seconds / 86_400);
    let weekday = WEEKDAYS[((seconds / 86_400 + 4) % 7) as usize];
    let of_day = seconds % 86_400;
    format!(
        "{}, {day:02} {} {year:04} {:02}:{:02}:{:02} GMT",
        &weekday[..3],
        MONTHS[month as usize - 1],
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    )
}

const WEEKDAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const SECONDS_MAX: u64 = 253_402_300_799;

fn parse_imf(bytes: &[u8]) -> Option<u64> {
    // "Sun, 06 Nov 1994 08:49:37 GMT"
    if bytes.len() != 29 || &bytes[3..5] != b", " || &bytes[25..] != b" GMT" {
        return None;
    }
    weekday_short(&bytes[..3])?;
    if bytes[7] != b' ' || bytes[11] != b' ' || bytes[16] != b' ' {
        return None;
    }
    unix(number(&bytes[12..16])?, month(&bytes[8..11])?, number(&bytes[5..7])?, &bytes[17..25])
}

fn parse_rfc850(bytes: &[u8], now: u64) -> Option<u64> {
    // "Sunday, 06-Nov-94 08:49:37 GMT"
    let comma = bytes.iter().position(|b| *b == b',')?;
    WEEKDAYS.iter().find(|day| day.as_bytes() == &bytes[..comma])?;
    let rest = &bytes[comma + 1..];
    if rest.len() != 23 || rest[0] != b' ' || rest[3] != b'-' || rest[7] != b'-' || rest[10] != b' '
    {
        return None;
    }
    if &rest[19..] != b" GMT" {
        return None;
    }
    let (now_year, _, _) = civil(now.min(SECONDS_MAX) / 86_400);
    let mut year = now_year / 100 * 100 + number(&rest[8..10])?;
    // More than 50 years ahead means the most recent past year with the same last two digits.
    if year > now_year + 50 {
        year -= 100;
    }
    unix(year, month(&rest[4..7])?, number(&rest[1..3])?, &rest[11..19])
}

fn parse_asctime(bytes: &[u8]) -> Option<u64> {
    // "Sun Nov  6 08:49:37 1994"
    if bytes.len() != 24
        || bytes[3] != b' '
        || bytes[7] != b' '
        || bytes[10] != b' '
        || bytes[19] != b' '
    {
        return None;
    }
    weekday_short(&bytes[..3])?;
    let day = if bytes[8] == b' ' { number(&bytes[9..10])? } else { number(&bytes[8..10])? };
    unix(number(&bytes[20..])?, month(&bytes[4..7])?, day, &bytes[11..19])
}

fn weekday_short(bytes: &[u8]) -> Option<()> {
    WEEKDAYS.iter().any(|day| &day.as_bytes()[..3] == bytes).then_some(())
}

fn month(bytes: &[u8]) -> Option<u64> {
    MONTHS.iter().position(|name| name.as_bytes() == bytes).map(|index| index as u64 + 1)
}

fn number(bytes: &[u8]) -> Option<u64> {
    crate::text::decimal_saturating(bytes)
}

fn unix(year: u64, month: u64, day: u64, time: &[u8]) -> Option<u64> {
    if time.len() != 8 || time[2] != b':' || time[5] != b':' {
        return None;
    }
    let (hour, minute, second) = (number(&time[..2])?, number(&time[3..5])?, number(&time[6..])?);
    // Second 60 is a leap second; it is taken for the second before it.
    if !(1970..=9999).contains(&year) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let leap = (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    let days_of_month = match month {
        2 => 28 + u64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if day == 0 || day > days_of_month {
        return None;
    }
    Some(days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second.min(59))
}

/// Days from 1970-01-01 to this day; years start in March here, so that leap days come last.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let from_march = (month + 9) % 12;
    let of_year = (153 * from_march + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + of_year - 719_468
}

/// The inverse of [`days`].
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_790_000_000;

    #[test]
    fn the_three_forms_of_rfc_9110_are_one_time() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(parse(text.as_bytes(), NOW), Some(784_111_777), "{text}");
        }
        assert_eq!(format(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(format(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(format(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(format(u64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
    }

    #[test]
    fn a_two_digit_year_is_at_most_fifty_years_ahead() {
        // 2026: 76 means 2076, 77 means 1977.
        assert_eq!(
            parse(b"Sunday, 06-Nov-76 08:49:37 GMT", NOW),
            parse(b"Fri, 06 Nov 2076 08:49:37 GMT", NOW)
        );
        assert_eq!(
            parse(b"Sunday, 06-Nov-77 08:49:37 GMT", NOW),
            parse(b"Sun, 06 Nov 1977 08:49:37 GMT", NOW)
        );
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for bad in [
            "",
            "0",
            "-1",
            "Sun, 06 Nov 1994 08:49:37 PST",
            "Sun, 30 Feb 2024 00:00:00 GMT",
            "Sun, 29 Feb 2023 00:00:00 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1969 08:49:37 GMT",
            "Xxx, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT ",
            "Sun, +6 Nov 1994 08:49:37 GMT",
            "Someday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov 36 08:49:37 1994",
        ] {
            assert_eq!(parse(bad.as_bytes(), NOW), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_second_comes_back(seconds in 0..=SECONDS_MAX) {
            prop_assert_eq!(parse(format(seconds).as_bytes(), NOW), Some(seconds));
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..40), now: u64) {
            let _ = parse(&bytes, now);
        }
    }
}
