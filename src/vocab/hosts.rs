//! What hosts stand for, by exact name and `*.suffix`: an exact name before a suffix, a longer suffix before a shorter one.

use rustc_hash::FxHashMap;

/// Values by pattern: a name, `*.suffix` for everything below it, however deep, or `*`. All in lower case, without a dot at
/// the end.
#[derive(Clone, Debug)]
pub struct Hosts<T> {
    exact: FxHashMap<Box<str>, T>,
    /// By suffix with its leading dot.
    suffixes: FxHashMap<Box<str>, T>,
    any: Option<T>,
}

impl<T> Default for Hosts<T> {
    fn default() -> Self {
        Self {
            exact: FxHashMap::default(),
            suffixes: FxHashMap::default(),
            any: None,
        }
    }
}

impl<T: Copy> Hosts<T> {
    /// What stands for a pattern: `value`, if there was nothing before.
    pub fn get_or_insert(&mut self, pattern: &str, value: T) -> T {
        match pattern.strip_prefix('*') {
            None => *self.exact.entry(pattern.into()).or_insert(value),
            Some("") => *self.any.get_or_insert(value),
            Some(suffix) => *self.suffixes.entry(suffix.into()).or_insert(value),
        }
    }

    /// What stands for a host, what is closest first. Looking up allocates nothing.
    pub fn matching<'h>(&'h self, host: &'h str) -> impl Iterator<Item = T> + 'h {
        let dots = host.match_indices('.').filter(|(at, _)| *at > 0);
        let suffixes = dots.filter_map(|(at, _)| self.suffixes.get(host.get(at..)?));
        let exact = self.exact.get(host).into_iter();
        exact.chain(suffixes).chain(&self.any).copied()
    }

    /// What stands for a pattern itself.
    #[must_use]
    pub fn of_pattern(&self, pattern: &str) -> Option<T> {
        match pattern.strip_prefix('*') {
            None => self.exact.get(pattern).copied(),
            Some("") => self.any,
            Some(suffix) => self.suffixes.get(suffix).copied(),
        }
    }
}

/// Whether a text is a pattern that is found: lower-case labels, perhaps below `*.`.
#[must_use]
pub fn is_pattern(text: &str) -> bool {
    let label = |label: &str| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
        (1..=63).contains(&label.len()) && label.bytes().all(plain)
    };
    let name = text.strip_prefix("*.").unwrap_or(text);
    name.len() <= super::limits::HOST_BYTES && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_is_first() {
        let mut hosts = Hosts::default();
        for (value, pattern) in [
            "*",
            "*.example",
            "a.example",
            "*.a.example",
            "*.b.a.example",
            "a.example",
        ]
        .iter()
        .enumerate()
        {
            hosts.get_or_insert(pattern, value);
        }
        for (host, want) in [
            ("a.example", &[2, 1, 0][..]),
            ("x.example", &[1, 0]),
            ("x.a.example", &[3, 1, 0]),
            ("x.b.a.example", &[4, 3, 1, 0]),
            ("y.x.b.a.example", &[4, 3, 1, 0]),
            ("example", &[0]),
            (".example", &[0]),
            ("aexample", &[0]),
            ("", &[0]),
        ] {
            assert_eq!(hosts.matching(host).collect::<Vec<_>>(), want, "{host}");
        }
        assert_eq!(hosts.of_pattern("*.a.example"), Some(3));
        assert_eq!(hosts.of_pattern("x.a.example"), None);
        let none = Hosts::<usize>::default();
        assert_eq!(none.matching("a.example").next(), None);
    }

    #[test]
    fn patterns() {
        for (text, want) in [
            ("a.example", true),
            ("*.a.example", true),
            ("localhost", true),
            ("_x.example", true),
            ("*", false),
            ("*.", false),
            ("", false),
            ("a..b", false),
            ("a.example.", false),
            ("A.example", false),
            ("a*.example", false),
            ("a.*.example", false),
            ("caf\u{e9}.example", false),
        ] {
            assert_eq!(is_pattern(text), want, "{text}");
        }
    }
}
