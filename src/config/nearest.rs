//! "did you mean": the nearest valid word.

/// The longest word that is compared; a longer one is no typing error.
const WORD_BYTES: usize = 64;

/// The shortest part of a word that stands for the whole.
const PART_BYTES: usize = 4;

/// In a word up to this long a second edit makes another word.
const SHORT_BYTES: usize = 6;

/// `, did you mean `word`?`, or nothing if no valid word is near.
pub(crate) fn hint<'a>(written: &str, valid: impl IntoIterator<Item = &'a str>) -> String {
    nearest(written, valid)
        .map(|word| format!(", did you mean `{word}`?"))
        .unwrap_or_default()
}

/// The valid word that differs from the written one by a slip of the fingers: by one edit, or two in a long word.
pub(crate) fn near_miss<'a>(
    written: &str,
    valid: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if written.len() > WORD_BYTES {
        return None;
    }
    let folded = written.to_ascii_lowercase();
    // The end of a word after its domain may be short: `rev`, `tag`.
    let end = folded.rsplit('/').next().unwrap_or_default();
    let allowed = if end.len() > SHORT_BYTES { 2 } else { 1 };
    valid
        .into_iter()
        .map(|word| (distance(&folded, &word.to_ascii_lowercase()), word))
        .filter(|(edits, _)| *edits <= allowed)
        .min()
        .map(|(_, word)| word)
}

/// The valid word with the fewest edits, if they are few for its length; case costs nothing, and neither does the
/// prefix of a setting that weakens security.
fn nearest<'a>(written: &str, valid: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if written.len() > WORD_BYTES {
        return None;
    }
    let fold = |word: &str| word.trim_start_matches("dangerous_").to_ascii_lowercase();
    let folded = fold(written);
    let allowed = (folded.chars().count() / 3).max(1);
    valid
        .into_iter()
        .map(|word| (distance(&folded, &fold(word)), word))
        // A part of a word stands for the word: `REGISTRY`, `Prefix`.
        .filter(|(edits, word)| {
            *edits <= allowed || (folded.len() >= PART_BYTES && fold(word).contains(&folded))
        })
        .min()
        .map(|(_, word)| word)
}

/// Edits between two words: insert, delete, replace, swap neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    let mut previous = None;
    for (i, ca) in a.chars().enumerate() {
        let mut row = vec![i + 1];
        let mut left = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let cost = |row: &[usize], at: usize| row.get(at).copied().unwrap_or(usize::MAX - 1);
            let mut best = (cost(&above, j) + usize::from(ca != *cb))
                .min(left + 1)
                .min(cost(&above, j + 1) + 1);
            let last_b = j.checked_sub(1).and_then(|k| b.get(k));
            if last_b == Some(&ca) && previous == Some(*cb) {
                best = best.min(cost(&before, j.saturating_sub(1)) + 1);
            }
            row.push(best);
            left = best;
        }
        before = std::mem::replace(&mut above, row);
        previous = Some(ca);
    }
    above.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, want) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("form", "from", 1),
            ("kitten", "sitting", 3),
            ("ab", "ba", 1),
        ] {
            assert_eq!(distance(a, b), want, "{a} {b}");
        }
    }

    #[test]
    fn near_misses() {
        let labels = [
            "istio.io/use-waypoint",
            "istio.io/waypoint-for",
            "istio.io/rev",
        ];
        for (written, want) in [
            ("istio.io/use-waypiont", Some("istio.io/use-waypoint")),
            ("istio.io/use-waypoints", Some("istio.io/use-waypoint")),
            ("istio.io/Use-Waypoint", Some("istio.io/use-waypoint")),
            ("isto.io/use-waypoint", Some("istio.io/use-waypoint")),
            ("istio.io/use_waypont", Some("istio.io/use-waypoint")),
            ("istio.io/waypoint-fro", Some("istio.io/waypoint-for")),
            ("istio.io/re", Some("istio.io/rev")),
            ("istio.io/team", None),
            ("istio.io/waypoint", None),
            ("example.test/use-waypoint", None),
        ] {
            assert_eq!(near_miss(written, labels), want, "{written}");
        }
    }

    #[test]
    fn hints() {
        let keys = [
            "principals",
            "notPrincipals",
            "namespaces",
            "from",
            "to",
            "when",
            "dangerous_allowHttp",
        ];
        for (written, want) in [
            ("principal", ", did you mean `principals`?"),
            ("Principals", ", did you mean `principals`?"),
            ("form", ", did you mean `from`?"),
            ("allowHttp", ", did you mean `dangerous_allowHttp`?"),
            ("colour", ""),
            ("space", ", did you mean `namespaces`?"),
            ("t", ", did you mean `to`?"),
        ] {
            assert_eq!(hint(written, keys), want, "{written}");
        }
    }
}
