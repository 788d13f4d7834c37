//! What judges an exchange.

use std::ops::Deref;

use crate::role::enforcement::Enforcement;

/// The enforcements that an exchange must pass, one at least. Most have one, which takes no memory of its own.
#[derive(Clone, Debug)]
pub struct Judges<'s>(Few<'s>);

#[derive(Clone, Debug)]
enum Few<'s> {
    One(&'s Enforcement),
    More(Vec<&'s Enforcement>),
}

impl<'s> Judges<'s> {
    /// This one alone.
    #[must_use]
    pub fn one(first: &'s Enforcement) -> Self {
        Self(Few::One(first))
    }

    /// And this one.
    pub fn push(&mut self, next: &'s Enforcement) {
        match &mut self.0 {
            Few::One(first) => self.0 = Few::More(vec![*first, next]),
            Few::More(all) => all.push(next),
        }
    }
}

impl<'s> Extend<&'s Enforcement> for Judges<'s> {
    fn extend<I: IntoIterator<Item = &'s Enforcement>>(&mut self, more: I) {
        more.into_iter().for_each(|next| self.push(next));
    }
}

impl<'s> Deref for Judges<'s> {
    type Target = [&'s Enforcement];

    fn deref(&self) -> &Self::Target {
        match &self.0 {
            Few::One(one) => std::slice::from_ref(one),
            Few::More(all) => all,
        }
    }
}
