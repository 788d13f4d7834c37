//! End-user tokens: which are looked at, how they are verified, what they prove.
//!
//! `TokenRules::compile` takes the rules of all RequestAuthentications at one enforcement point, `authenticate` judges a
//! request by them. All of it is pure: keys come from a `KeyLookup`, time is an argument.

pub mod cache;
pub mod model;
pub mod svid;

pub(crate) mod algorithm;
mod authenticate;
pub(crate) mod edits;
pub(crate) mod extract;
pub(crate) mod json;
pub(crate) mod keys;
mod rules;
pub(crate) mod token;

pub use authenticate::{
    TokenOutcome, authenticate, authenticate_cached, www_authenticate, www_authenticate_missing,
};
pub use cache::TokenCache;
pub use edits::HeaderEdits;
pub use keys::{KeyLookup, KeySet, KeySetError, KeySets};
pub use rules::{TokenRules, TokenRulesError, is_cors_preflight};
pub use token::TokenError;

#[cfg(test)]
mod tests;
