//! Reading a JSON case: what is absent has a default, what is there has its type.

use serde_json::{Map, Value};

/// A broken case, or one that cannot be judged: why.
pub(super) type Broken<T> = Result<T, String>;

/// The member; null counts as absent.
pub(super) fn member<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    value.get(key).filter(|v| !v.is_null())
}

/// A string, or the default if absent.
pub(super) fn text_or<'v>(value: &'v Value, key: &str, default: &'v str) -> Broken<&'v str> {
    match member(value, key) {
        None => Ok(default),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(format!("`{key}` is not a string")),
    }
}

/// A string that must be there.
pub(super) fn text<'v>(value: &'v Value, key: &str) -> Broken<&'v str> {
    match value.get(key) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(format!("`{key}` is not a string")),
        None => Err(format!("`{key}` is missing")),
    }
}

/// Strings of a list; none if absent.
pub(super) fn texts(value: &Value, key: &str) -> Broken<Vec<String>> {
    let item = |v: &Value| {
        v.as_str()
            .map(str::to_owned)
            .ok_or_else(|| format!("`{key}` holds something that is not a string"))
    };
    list(value, key)?.iter().map(item).collect()
}

/// Elements of a list; none if absent.
pub(super) fn list<'v>(value: &'v Value, key: &str) -> Broken<&'v [Value]> {
    match member(value, key) {
        None => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(format!("`{key}` is not a list")),
    }
}

/// Members of an object; none if absent.
pub(super) fn object<'v>(value: &'v Value, key: &str) -> Broken<Option<&'v Map<String, Value>>> {
    match member(value, key) {
        None => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map)),
        Some(_) => Err(format!("`{key}` is not an object")),
    }
}

/// An integer, or the default if absent.
pub(super) fn integer_or(value: &Value, key: &str, default: i64) -> Broken<i64> {
    match member(value, key) {
        None => Ok(default),
        Some(number) => number
            .as_i64()
            .ok_or_else(|| format!("`{key}` is not an integer")),
    }
}

/// A flag, or the default if absent.
pub(super) fn flag_or(value: &Value, key: &str, default: bool) -> Broken<bool> {
    match member(value, key) {
        None => Ok(default),
        Some(flag) => flag
            .as_bool()
            .ok_or_else(|| format!("`{key}` is not true or false")),
    }
}

/// Pairs of strings, such as header fields in order.
pub(super) fn pairs<'v>(value: &'v Value, key: &str) -> Broken<Vec<(&'v str, &'v str)>> {
    let pair = |item: &'v Value| {
        let parts: Option<Vec<&str>> = item.as_array()?.iter().map(Value::as_str).collect();
        match parts?.as_slice() {
            [name, value] => Some((*name, *value)),
            _ => None,
        }
    };
    list(value, key)?
        .iter()
        .map(|item| pair(item).ok_or_else(|| format!("`{key}` is not a list of pairs of strings")))
        .collect()
}

/// What a case is called: of a SPIFFE case `id` is its input.
pub(super) fn name(case: &Value) -> String {
    let keys = match case.get("kind").and_then(Value::as_str) {
        Some("id" | "cert" | "jwt-svid") => ["name", "id"],
        Some(_) | None => ["id", "name"],
    };
    let found = keys
        .iter()
        .find_map(|key| case.get(key).and_then(Value::as_str));
    found.unwrap_or("unnamed").to_owned()
}
