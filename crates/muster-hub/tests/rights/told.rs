//! What the hub's own description says can be asked: the hostile tests follow it, so that a new route is met by all of them.

use muster_hub::openapi;
use serde_json::{Map, Value, json};

/// One method on one path.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Whether only a device may ask, which no person can make believe.
    pub(crate) device: bool,
    /// Names of the query's parameters, with what they are.
    pub(crate) query: Vec<(String, Value)>,
    /// What the body is, where there may be one.
    pub(crate) body: Option<Value>,
}

/// Everything but the WebSockets.
pub(crate) fn operations() -> Vec<Told> {
    let document = openapi::document();
    let mut told = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            if operation["responses"].get("101").is_some() {
                continue;
            }
            let query = operation["parameters"].as_array().into_iter().flatten().filter(|parameter| parameter["in"] == "query");
            let query = query.map(|parameter| (parameter["name"].as_str().unwrap().to_owned(), parameter["schema"].clone())).collect();
            let body = operation["requestBody"]["content"].get("application/json").map(|content| content["schema"].clone());
            let device = operation["security"][0].get("device").is_some();
            told.push(Told { device, method: method.to_uppercase(), path: path.clone(), query, body });
        }
    }
    told
}

/// A schema with its reference followed.
pub(crate) fn followed(schema: &Value) -> Value {
    match schema["$ref"].as_str() {
        Some(reference) => openapi::document().pointer(reference.trim_start_matches('#')).unwrap().clone(),
        None => schema.clone(),
    }
}

/// The fields of an object, each with what it is where it is not null.
pub(crate) fn fields(schema: &Value) -> Vec<(String, Value)> {
    let schema = followed(schema);
    let properties = schema["properties"].as_object().cloned().unwrap_or_default();
    properties.into_iter().map(|(name, kind)| (name, kind["anyOf"].get(0).cloned().unwrap_or(kind))).collect()
}

/// A value that fits, as far as the description tells.
pub(crate) fn example(schema: &Value) -> Value {
    let schema = followed(schema);
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    if let Some(first) = schema["anyOf"].get(0) {
        return example(first);
    }
    match schema["type"].as_str() {
        Some("string") => json!("example"),
        Some("integer") => json!(7),
        Some("number") => json!(0.5),
        Some("boolean") => json!(true),
        Some("array") => json!([example(&schema["items"])]),
        Some("object") => {
            let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let given = fields(&schema).into_iter().filter(|(name, _)| required.contains(&name.as_str()));
            Value::Object(given.map(|(name, kind)| (name, example(&kind))).collect::<Map<_, _>>())
        }
        _ => Value::Null,
    }
}
