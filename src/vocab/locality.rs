//! Where a workload stands: region, zone, subzone (Istio's `locality`, `region/zone/subzone`).

use std::fmt;

use thiserror::Error;

/// A place; what is empty is unknown, and nothing below an unknown level is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Locality {
    region: String,
    zone: String,
    subzone: String,
}

/// What is wrong with a locality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not `region`, `region/zone` or `region/zone/subzone`")]
pub struct LocalityError;

impl Locality {
    /// Parses `region`, `region/zone` or `region/zone/subzone`.
    ///
    /// # Errors
    /// `LocalityError` for an empty level or a fourth one.
    pub fn parse(text: &str) -> Result<Self, LocalityError> {
        let mut levels = text.split('/');
        let mut next = || match levels.next() {
            Some("") => Err(LocalityError),
            level => Ok(level.unwrap_or_default().to_owned()),
        };
        let parsed = Self {
            region: next()?,
            zone: next()?,
            subzone: next()?,
        };
        match levels.next() {
            None => Ok(parsed),
            Some(_) => Err(LocalityError),
        }
    }

    /// From three words; a level below an empty one is left out.
    #[must_use]
    pub fn new(region: &str, zone: &str, subzone: &str) -> Self {
        let zone = if region.is_empty() { "" } else { zone };
        let subzone = if zone.is_empty() { "" } else { subzone };
        Self {
            region: region.to_owned(),
            zone: zone.to_owned(),
            subzone: subzone.to_owned(),
        }
    }

    /// The region.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.region.is_empty()
    }

    /// How many levels are known and the same in both, from the region down: 0 to 3.
    #[must_use]
    pub fn shared(&self, other: &Self) -> u32 {
        let levels = [
            (&self.region, &other.region),
            (&self.zone, &other.zone),
            (&self.subzone, &other.subzone),
        ];
        let same = |(a, b): &(&String, &String)| !a.is_empty() && a == b;
        levels
            .iter()
            .take_while(|pair| same(pair))
            .fold(0, |n, _| n + 1)
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.region)?;
        for level in [&self.zone, &self.subzone] {
            if level.is_empty() {
                break;
            }
            write!(f, "/{level}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_shared_from_the_region_down() {
        let at = |text: &str| Locality::parse(text).unwrap();
        for (a, b, want) in [
            ("eu/1/a", "eu/1/a", 3),
            ("eu/1/a", "eu/1/b", 2),
            ("eu/1", "eu/1/a", 2),
            ("eu/1/a", "eu/2/a", 1),
            ("eu", "us", 0),
            ("eu/1", "us/1", 0),
        ] {
            assert_eq!(at(a).shared(&at(b)), want, "{a} {b}");
            assert_eq!(at(b).shared(&at(a)), want, "{b} {a}");
        }
        assert_eq!(Locality::default().shared(&Locality::default()), 0);
        for wrong in ["", "/a", "a//b", "a/b/c/d", "a/"] {
            assert_eq!(Locality::parse(wrong), Err(LocalityError), "{wrong}");
        }
        assert_eq!(at("eu/1/a").to_string(), "eu/1/a");
        assert_eq!(Locality::new("eu", "", "a").to_string(), "eu");
    }
}
