//! From a field as the policy engine names it back to the place in the file.
//!
//! The engine counts the elements of the model; those are the elements of `raw` that could be read, so that an index
//! means the same on both sides even where the file holds a broken element before it.

use std::collections::BTreeMap;

use crate::config::place::Place;

/// Places of one policy by field, such as `rules[0].to[0].operation.pathRegexes[1]`.
#[derive(Debug, Default)]
pub(crate) struct Locator {
    places: BTreeMap<String, (Place, bool)>,
}

impl Locator {
    /// Records where a field stands. `whole`: nothing in it was refused, so that what seems absent is absent.
    pub(crate) fn add(&mut self, field: &str, place: &Place, whole: bool) {
        self.places.insert(field.to_owned(), (place.clone(), whole));
    }

    /// The place of the nearest field around `field` that is written. `None`: the problem follows from another that
    /// is known already.
    pub(crate) fn find(&self, field: &str) -> Option<&Place> {
        let mut around = field;
        loop {
            if let Some((place, whole)) = self.places.get(around) {
                return whole.then_some(place);
            }
            around = around.get(..around.rfind(['.', '['])?)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds() {
        let mut locator = Locator::default();
        let place = |n| Place {
            file: 0,
            offset: n,
            key: "".into(),
        };
        locator.add("rules", &place(1), true);
        locator.add("rules[0].from[0].source", &place(2), true);
        locator.add("rules[0].from[0].source.principals[1]", &place(3), true);
        locator.add("rules[1]", &place(4), false);
        for (field, want) in [
            ("rules[0].from[0].source.principals[1]", Some(3)),
            ("rules[0].from[0].source.principals[2]", Some(2)),
            ("rules[0].from[0].source", Some(2)),
            ("rules[0].to[0]", Some(1)),
            ("rules[1].from[0].source", None),
            ("other", None),
        ] {
            assert_eq!(locator.find(field).map(|p| p.offset), want, "{field}");
        }
    }
}
