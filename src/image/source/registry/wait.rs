//! How long to wait before the next try.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// No wait of our own choice is longer.
const LONGEST: Duration = Duration::from_secs(30);

/// Doubles with each failure; between half and all of it, so that many nodes do not come back at once.
pub fn backoff(first: Duration, failures: u32) -> Duration {
    let full = first
        .saturating_mul(
            1u32.checked_shl(failures.saturating_sub(1))
                .unwrap_or(u32::MAX),
        )
        .min(LONGEST);
    let random = RandomState::new().hash_one(0) % 1024;
    full.mul_f64(0.5 + random as f64 / 2048.0)
}

/// A `Retry-After` header: seconds or a date.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(http_date(value)?))?;
    Some(at.duration_since(now).unwrap_or_default())
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` as seconds since 1970; the two older forms are not in use any more.
fn http_date(text: &str) -> Option<u64> {
    let mut words = text.split_once(", ")?.1.split(' ');
    let mut next = || words.next();
    let day: u64 = next()?.parse().ok()?;
    let month = next()?;
    let month = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ]
    .iter()
    .position(|name| *name == month)? as u64;
    let year: u64 = next()?.parse().ok()?;
    let mut clock = next()?.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let fine = (1970..10_000).contains(&year)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60
        && next() == Some("GMT");
    if !fine {
        return None;
    }
    // Years are counted from March, so that the leap day is the last one.
    let (year, month) = match month {
        0 | 1 => (year - 1, month + 10),
        _ => (year, month - 2),
    };
    let leaps = year / 4 - year / 100 + year / 400;
    let days = year * 365 + leaps + (month * 153 + 2) / 5 + day - 1;
    // Days from March of year 0 to 1970-01-01.
    let days = days.checked_sub(719_468)?;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let rows = [
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Thu, 29 Feb 2024 23:59:59 GMT", Some(1_709_251_199)),
            ("Sat, 21 Nov 2026 09:00:00 GMT", Some(1_795_251_600)),
            ("Sun, 06 Nov 1994 08:49:37 CET", None),
            ("Sunday, 06-Nov-94 08:49:37 GMT", None),
            ("Sun, 99 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 99999999999 08:49:37 GMT", None),
            ("", None),
        ];
        for (text, seconds) in rows {
            assert_eq!(http_date(text), seconds, "{text}");
        }
    }

    #[test]
    fn retry_after_forms() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let rows = [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
        ];
        for (text, seconds) in rows {
            let wait = retry_after(text, now);
            assert_eq!(wait, seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn waits_grow_and_are_bounded() {
        let first = Duration::from_millis(500);
        for (failures, full) in [(1, 500), (2, 1000), (4, 4000), (30, 30_000), (99, 30_000)] {
            let wait = backoff(first, failures).as_millis();
            assert!((full / 2..=full).contains(&wait), "{failures}: {wait}");
        }
    }
}
