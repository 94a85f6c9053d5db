//! Time limits as sbatch writes them.

/// sbatch's forms of a time limit, in whole minutes.
pub fn minutes(text: &str) -> Option<u64> {
    let number = |text: &str| match text.starts_with('+') {
        true => None,
        false => text.parse::<u64>().ok(),
    };
    let (days, rest) = match text.split_once('-') {
        Some((days, rest)) => (number(days)?, rest),
        None => (0, text),
    };
    let days_alone = text.contains('-') && rest.is_empty();
    let rest = if days_alone { "0" } else { rest };
    let parts: Vec<u64> = rest.split(':').map(number).collect::<Option<_>>()?;
    let clock = match (text.contains('-'), parts.as_slice()) {
        (true, [hours]) => hours.checked_mul(60)?,
        (true, [hours, minutes] | [hours, minutes, _]) => {
            hours.checked_mul(60)?.checked_add(*minutes)?
        }
        (false, [minutes] | [minutes, _]) => *minutes,
        (false, [hours, minutes, _]) => hours.checked_mul(60)?.checked_add(*minutes)?,
        _ => return None,
    };
    days.checked_mul(24 * 60)?.checked_add(clock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_limits() {
        let rows = [
            ("30", Some(30)),
            ("30:10", Some(30)),
            ("1:30:00", Some(90)),
            ("2-0", Some(2880)),
            ("2-", Some(2880)),
            ("1-1:30", Some(1530)),
            ("1-1:30:10", Some(1530)),
            ("UNLIMITED", None),
            ("1:2:3:4", None),
            ("+5", None),
            ("-5", None),
        ];
        for (text, expected) in rows {
            assert_eq!(minutes(text), expected, "{text}");
        }
    }
}
