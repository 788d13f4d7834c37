//! What belongs to streams, by their identifiers.

/// Values by stream. Identifiers grow, so that a new one goes to the end; a search is binary. An empty table holds no
/// memory: a connection without streams may be idle for long.
#[derive(Debug)]
pub struct Table<T> {
    entries: Vec<(u32, T)>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
        }
    }
}

impl<T> Table<T> {
    fn at(&self, id: u32) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&id, |(id, _)| *id)
    }

    /// Enters a stream; one that is there is replaced.
    pub fn insert(&mut self, id: u32, value: T) {
        match self.at(id) {
            Ok(at) => {
                if let Some(entry) = self.entries.get_mut(at) {
                    entry.1 = value;
                }
            }
            Err(at) => {
                if self.entries.capacity() == 0 {
                    // Many connections carry one stream at a time.
                    self.entries.reserve_exact(1);
                }
                self.entries.insert(at, (id, value));
            }
        }
    }

    /// The value of a stream.
    #[must_use]
    pub fn find(&self, id: u32) -> Option<&T> {
        let at = self.at(id).ok()?;
        self.entries.get(at).map(|(_, value)| value)
    }

    /// The value of a stream, to change.
    pub fn find_mut(&mut self, id: u32) -> Option<&mut T> {
        let at = self.at(id).ok()?;
        self.entries.get_mut(at).map(|(_, value)| value)
    }

    /// Takes a stream out.
    pub fn remove(&mut self, id: u32) -> Option<T> {
        let at = self.at(id).ok()?;
        let (_, value) = self.entries.remove(at);
        if self.entries.is_empty() {
            self.entries = Vec::new();
        }
        Some(value)
    }

    /// All streams, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.entries.iter().map(|(id, value)| (*id, value))
    }

    /// All streams, to change, the oldest first.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        self.entries.iter_mut().map(|(id, value)| (*id, value))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_until_removed() {
        let mut table = Table::default();
        for id in [1, 5, 3, 9] {
            table.insert(id, id * 10);
        }
        table.insert(5, 55);
        assert_eq!(table.find(5), Some(&55));
        assert_eq!(table.find(4), None);
        *table.find_mut(9).unwrap() += 1;
        assert_eq!(table.remove(3), Some(30));
        assert_eq!(table.remove(3), None);
        let all: Vec<_> = table.iter().map(|(id, v)| (id, *v)).collect();
        assert_eq!(all, [(1, 10), (5, 55), (9, 91)]);
        assert!(table.len() == 3 && !table.is_empty());
        for id in [1, 5, 9] {
            table.remove(id);
        }
        assert_eq!(table.entries.capacity(), 0);
    }
}
