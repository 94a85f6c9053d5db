//! The known name that a misspelt one probably meant.

/// The nearest of `known` when it is near enough to be worth saying.
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Names are short; a long one is no misspelling and not worth a quadratic table.
    if wrong.len() > 64 {
        return None;
    }
    let (distance, name) = known
        .into_iter()
        .filter(|name| name.len() <= 64)
        .map(|name| (distance(wrong, name), name))
        .min()?;
    (distance <= 1.max(name.len().max(wrong.len()) / 3)).then_some(name)
}

/// Edit distance in which exchanging two neighbours is one edit; `-` and `_` are the same.
fn distance(a: &str, b: &str) -> usize {
    let fold = |text: &str| -> Vec<char> {
        let lower = text.chars().flat_map(char::to_lowercase);
        lower.map(|c| if c == '-' { '_' } else { c }).collect()
    };
    let (a, b) = (fold(a), fold(b));
    let at = |text: &[char], i: usize| text.get(i.wrapping_sub(1)).copied();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let get = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX / 2);
            let change = usize::from(at(&a, i) != at(&b, j));
            let mut best = (get(&above, j) + 1)
                .min(get(&row, j - 1) + 1)
                .min(get(&above, j - 1) + change);
            if i > 1 && j > 1 && at(&a, i) == at(&b, j - 1) && at(&a, i - 1) == at(&b, j) {
                best = best.min(get(&before, j - 2) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_and_far() {
        let known = ["path", "cache", "cache_size", "read_only", "sharing"];
        for (wrong, want) in [
            ("paht", Some("path")),
            ("PATH", Some("path")),
            ("cache-size", Some("cache_size")),
            ("readonly", Some("read_only")),
            ("sharring", Some("sharing")),
            ("zzzz", None),
            ("", None),
        ] {
            assert_eq!(nearest(wrong, known), want, "{wrong}");
        }
    }
}
