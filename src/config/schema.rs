//! JSON Schema of the configuration, for editors: draft 7, which those that know TOML read.

use serde_json::{Map, Value, json};

use crate::config::raw::File;
use crate::config::read::Read;
use crate::config::shape::{KeyShape, Shape, TableShape};

const DRAFT: &str = "http://json-schema.org/draft-07/schema#";

/// The schema, as text.
#[must_use]
pub fn schema() -> String {
    let mut definitions = Map::new();
    let mut root = Map::new();
    root.insert("$schema".to_owned(), json!(DRAFT));
    root.insert("title".to_owned(), json!("ringgate configuration"));
    if let Shape::Table(file) = File::shape() {
        root.extend(table(&file, &mut definitions));
    }
    root.insert("definitions".to_owned(), Value::Object(definitions));
    let mut text = serde_json::to_string_pretty(&root).unwrap_or_default();
    text.push('\n');
    text
}

fn table(shape: &TableShape, definitions: &mut Map<String, Value>) -> Map<String, Value> {
    let mut properties = Map::new();
    for key in &shape.keys {
        properties.insert(key.key.to_owned(), property(key, definitions));
    }
    let required = shape.keys.iter().filter(|key| key.required);
    let required: Vec<&str> = required.map(|key| key.key).collect();
    let mut out = Map::new();
    out.insert("type".to_owned(), json!("object"));
    out.insert("additionalProperties".to_owned(), json!(false));
    if !required.is_empty() {
        out.insert("required".to_owned(), json!(required));
    }
    out.insert("properties".to_owned(), Value::Object(properties));
    out
}

fn property(key: &KeyShape, definitions: &mut Map<String, Value>) -> Value {
    let Value::Object(one) = value(&key.shape, definitions) else {
        return Value::Null;
    };
    let mut out = Map::new();
    if one.contains_key("$ref") {
        // What stands beside a reference is not read in draft 7.
        out.insert("allOf".to_owned(), json!([one]));
    } else {
        out = one;
    }
    let mut text = key.sentence();
    if let Some(default) = key.default() {
        text = format!("{text} Default: {default}.");
    }
    out.insert("description".to_owned(), json!(text));
    Value::Object(out)
}

fn value(shape: &Shape, definitions: &mut Map<String, Value>) -> Value {
    match shape {
        Shape::Text { pattern: None, .. } => json!({ "type": "string" }),
        Shape::Text {
            pattern: Some(pattern),
            ..
        } => json!({ "type": "string", "pattern": pattern }),
        Shape::Integer { min, max } => {
            json!({ "type": "integer", "minimum": min, "maximum": max })
        }
        Shape::Boolean => json!({ "type": "boolean" }),
        Shape::Words(words) => json!({ "enum": words }),
        Shape::Either(shapes) => {
            let shapes: Vec<Value> = shapes.iter().map(|s| value(s, definitions)).collect();
            json!({ "anyOf": shapes })
        }
        Shape::List { item, may_be_empty } => {
            let item = value(item, definitions);
            let least = u8::from(!*may_be_empty);
            json!({ "type": "array", "items": item, "minItems": least })
        }
        Shape::Map(inner) => {
            let inner = value(inner, definitions);
            json!({ "type": "object", "additionalProperties": inner })
        }
        Shape::Table(shape) => {
            if !definitions.contains_key(shape.name) {
                // Before the tables in it, so that the order is that of the reference.
                definitions.insert(shape.name.to_owned(), Value::Null);
                let whole = table(shape, definitions);
                definitions.insert(shape.name.to_owned(), Value::Object(whole));
            }
            json!({ "$ref": format!("#/definitions/{}", shape.name) })
        }
        Shape::Any => json!({}),
    }
}
