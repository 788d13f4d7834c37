//! Which endpoint takes the next connection, and what is known of those that have names.

pub mod resolved;

/// Chooses by turns; `None` if there is nothing to choose from.
#[must_use]
pub fn by_turns<T>(endpoints: &[T], turn: usize) -> Option<&T> {
    endpoints.get(turn.checked_rem(endpoints.len())?)
}

/// All of them, beginning with the one whose turn it is: the order in which they are tried.
#[must_use]
pub fn in_turn<T: Clone>(endpoints: &[T], turn: usize) -> Vec<T> {
    let first = turn.checked_rem(endpoints.len()).unwrap_or(0);
    let (before, from) = endpoints.split_at(first);
    [from, before].concat()
}

#[cfg(test)]
mod tests {
    use super::{by_turns, in_turn};

    #[test]
    fn every_one_is_tried() {
        for (turn, want) in [(0, "abc"), (1, "bca"), (5, "cab")] {
            assert_eq!(in_turn(&["a", "b", "c"], turn).concat(), want);
        }
        assert_eq!(in_turn::<u8>(&[], 1), Vec::<u8>::new());
    }

    #[test]
    fn all_get_their_turn() {
        assert_eq!(
            (0..4)
                .filter_map(|n| by_turns(&["a", "b"], n))
                .copied()
                .collect::<String>(),
            "abab"
        );
        assert_eq!(by_turns::<u8>(&[], 3), None);
    }
}
