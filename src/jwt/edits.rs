//! What token verification changes on a request before policy judges it and the upstream sees it.

use http::HeaderMap;
use http::header::{COOKIE, HeaderName, HeaderValue};
use url::form_urlencoded;

use crate::jwt::extract;
use crate::vocab::field;
use crate::vocab::path::CanonicalPath;

/// Changes to a request. Apply all of them, then let policy judge what is left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Headers to remove, first, in every spelling that some server takes for them.
    pub remove: Vec<HeaderName>,
    /// Headers to set, after that.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Cookies to take out of the `cookie` header.
    pub drop_cookies: Vec<String>,
    /// Query parameters to take out of the target.
    pub drop_params: Vec<String>,
}

impl HeaderEdits {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self {
            remove,
            set,
            drop_cookies,
            drop_params,
        } = self;
        remove.is_empty() && set.is_empty() && drop_cookies.is_empty() && drop_params.is_empty()
    }

    /// Removes, drops cookies, then sets.
    pub fn apply(&self, headers: &mut HeaderMap) {
        if !self.remove.is_empty() {
            field::remove_owned(headers, |name| {
                let owned = |own: &HeaderName| field::alike(own.as_str(), name);
                self.remove.iter().any(owned)
            });
        }
        if !self.drop_cookies.is_empty() {
            drop_cookies(headers, |name| {
                self.drop_cookies.iter().any(|drop| drop.as_bytes() == name)
            });
        }
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
    }

    /// Path and query without the parameters to drop; `None` if the target stays as it is. What is left keeps its bytes,
    /// so that its canonical form is itself.
    #[must_use]
    pub fn target(&self, path: &CanonicalPath) -> Option<String> {
        let query = path.query().filter(|_| !self.drop_params.is_empty())?;
        let dropped = |pair: &&str| {
            let mut decoded = form_urlencoded::parse(pair.as_bytes());
            decoded
                .next()
                .is_some_and(|(name, _)| self.drop_params.iter().any(|drop| *drop == name))
        };
        if !query.split('&').any(|pair| dropped(&pair)) {
            return None;
        }
        let kept: Vec<&str> = query.split('&').filter(|pair| !dropped(pair)).collect();
        let query = if kept.is_empty() {
            String::new()
        } else {
            format!("?{}", kept.join("&"))
        };
        Some(format!("{}{query}", path.path()))
    }
}

/// Takes cookies out of every `cookie` field and removes fields that hold none any more.
pub(crate) fn drop_cookies(headers: &mut HeaderMap, drop: impl Fn(&[u8]) -> bool) {
    if !extract::cookies(headers).any(|(name, _)| drop(name)) {
        return;
    }
    let kept: Vec<Vec<u8>> = extract::cookies(headers)
        .filter(|(name, _)| !drop(name))
        .map(|(name, value)| [name, b"=", value].concat())
        .collect();
    headers.remove(COOKIE);
    if kept.is_empty() {
        return;
    }
    // Parts of a valid field value, joined by valid bytes, make a valid one.
    if let Ok(value) = HeaderValue::from_bytes(&kept.join(&b"; "[..])) {
        headers.insert(COOKIE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_dropped_alone() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, "a=1; t=secret; b=2".parse().unwrap());
        headers.append(COOKIE, "t=again".parse().unwrap());
        let edits = HeaderEdits {
            drop_cookies: vec!["t".to_owned()],
            ..HeaderEdits::default()
        };
        edits.apply(&mut headers);
        assert_eq!(
            headers.get_all(COOKIE).iter().collect::<Vec<_>>(),
            ["a=1; b=2"]
        );
        let edits = HeaderEdits {
            drop_cookies: vec!["a".to_owned(), "b".to_owned()],
            ..HeaderEdits::default()
        };
        edits.apply(&mut headers);
        assert!(!headers.contains_key(COOKIE));
    }
}
