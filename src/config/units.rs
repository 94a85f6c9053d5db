//! Sizes (`20G`) and ages (`30d`) as people write them.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes; units are binary: `128K`, `1.5G`, `20GiB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A span of time: `90s`, `30m`, `12h`, `30d`, `8w`; a bare number is days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age(pub Duration);

const UNITS: [(&str, u32); 5] = [("K", 10), ("M", 20), ("G", 30), ("T", 40), ("P", 50)];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let wrong = || format!("`{text}` is not a size such as `512M` or `20G`");
        let upper = text.trim().to_ascii_uppercase();
        let bare = upper
            .strip_suffix("IB")
            .or(upper.strip_suffix('B'))
            .unwrap_or(&upper);
        let (digits, shift) = UNITS
            .iter()
            .find_map(|(unit, shift)| Some((bare.strip_suffix(unit)?, *shift)))
            .unwrap_or((bare, 0));
        let digits = digits.trim();
        if let Ok(whole) = digits.parse::<u64>() {
            return whole.checked_mul(1 << shift).map(Size).ok_or_else(wrong);
        }
        if !digits.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(wrong());
        }
        let number: f64 = digits.parse().map_err(|_| wrong())?;
        let bytes = number * (1u64 << shift) as f64;
        if bytes.is_finite() && bytes < u64::MAX as f64 {
            Ok(Size(bytes as u64))
        } else {
            Err(wrong())
        }
    }
}

impl fmt::Display for Size {
    /// Three digits are enough for people: `17B`, `128K`, `1.34G`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = UNITS.iter().rev().find(|(_, shift)| self.0 >= 1 << shift);
        let text = match found {
            None => format!("{}B", self.0),
            Some((unit, shift)) => {
                let number = self.0 as f64 / (1u64 << shift) as f64;
                let places = match number {
                    n if n.fract() == 0.0 || n >= 99.95 => 0,
                    n if n >= 9.995 => 1,
                    _ => 2,
                };
                format!("{number:.places$}{unit}")
            }
        };
        out.pad(&text)
    }
}

impl FromStr for Age {
    type Err = String;

    fn from_str(text: &str) -> Result<Age, String> {
        let text = text.trim();
        let end = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (digits, unit) = text.split_at(end);
        let seconds: Option<u64> = match unit {
            "s" => Some(1),
            "m" | "min" => Some(60),
            "h" => Some(3600),
            "" | "d" => Some(86_400),
            "w" => Some(7 * 86_400),
            _ => None,
        };
        digits
            .parse::<u64>()
            .ok()
            .zip(seconds)
            .and_then(|(number, unit)| number.checked_mul(unit))
            .map(|seconds| Age(Duration::from_secs(seconds)))
            .ok_or_else(|| format!("`{text}` is not an age such as `12h` or `30d`"))
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        // Exact when a unit divides it, else the number of bytes.
        match UNITS
            .iter()
            .rev()
            .find(|(_, shift)| self.0 >= 1 << shift && self.0.is_multiple_of(1 << shift))
        {
            Some((unit, shift)) => to.collect_str(&format_args!("{}{unit}", self.0 >> shift)),
            None => to.serialize_u64(self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Size, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Size;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a size such as \"20G\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                u64::try_from(bytes)
                    .map(Size)
                    .map_err(|_| E::custom("a size is not negative"))
            }
        }
        from.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, want) in [
            ("0", Some(0)),
            ("128K", Some(128 << 10)),
            ("128k", Some(128 << 10)),
            ("20 GiB", Some(20 << 30)),
            ("1.5G", Some(3 << 29)),
            ("7B", Some(7)),
            ("17179869184P", None),
            ("-1", None),
            ("", None),
            ("K", None),
            ("nan", None),
            ("1e999", None),
        ] {
            assert_eq!(text.parse::<Size>().ok().map(|size| size.0), want, "{text}");
        }
        for (bytes, want) in [
            (0, "0B"),
            (1023, "1023B"),
            (1536, "1.50K"),
            (128 << 10, "128K"),
            (1_439_000_000, "1.34G"),
            (345 << 20, "345M"),
            (35 * (1 << 20) + 99_999, "35.1M"),
        ] {
            assert_eq!(Size(bytes).to_string(), want);
        }
    }

    #[test]
    fn ages() {
        for (text, want) in [
            ("30d", Some(2_592_000)),
            ("30", Some(2_592_000)),
            ("12h", Some(43_200)),
            ("5min", Some(300)),
            ("0s", Some(0)),
            ("3y", None),
            ("", None),
            ("d", None),
            ("99999999999999999999d", None),
        ] {
            assert_eq!(
                text.parse::<Age>().ok().map(|age| age.0.as_secs()),
                want,
                "{text}"
            );
        }
    }
}
