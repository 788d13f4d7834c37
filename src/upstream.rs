//! Which endpoint takes the next connection, and what is known of those that have names.

pub mod balance;
pub mod check;
pub mod hash;
pub mod health;
pub mod load;
pub mod resolved;
pub mod retry;

/// Chooses by turns; `None` if there is nothing to choose from.
#[must_use]
pub fn by_turns<T>(endpoints: &[T], turn: usize) -> Option<&T> {
    endpoints.get(turn.checked_rem(endpoints.len())?)
}

#[cfg(test)]
mod tests {
    use super::by_turns;

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
