//! The API's description, OpenAPI 3.1, from two short tables: what can be asked, and what the bodies look like.
//!
//! Tests hold the first to the router's routes, in both directions, and the second to the types of `muster_proto::api`, field by field.

mod bodies;
mod operations;

use serde_json::{Map, Value, json};

use bodies::{ENUMS, SCHEMAS};
use operations::{Auth, OPERATIONS, Operation};

/// The document.
pub fn document() -> Value {
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method.to_lowercase()] = described(operation);
    }
    let mut schemas = Map::new();
    for (name, values) in ENUMS {
        schemas.insert((*name).to_owned(), json!({ "type": "string", "enum": values }));
    }
    for (name, fields) in SCHEMAS {
        schemas.insert((*name).to_owned(), object(fields));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Muster hub",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            "description": "Times are milliseconds since the epoch (UTC), sizes bytes, ratios 0 to 1. \
                            New fields may appear at any time. Errors are application/problem+json with a stable code.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "person": { "type": "http", "scheme": "bearer", "description": "A personal access token, mp1..." },
                "device": { "type": "mutualTLS", "description": "The client certificate of an admitted device" },
                "ticket": { "type": "http", "scheme": "bearer", "description": "The ticket of one session" },
            },
        },
    })
}

fn described(operation: &Operation) -> Value {
    let mut parameters: Vec<Value> = operation
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    parameters.extend(
        operation
            .query
            .split_whitespace()
            .filter_map(|field| field.split_once(':'))
            .map(|(name, kind)| json!({ "name": name, "in": "query", "required": false, "schema": kind_of(kind) })),
    );
    let answer = match (operation.status, operation.answer) {
        (101, _) => json!({ "description": "A WebSocket" }),
        (_, "") => json!({ "description": "Done" }),
        (_, "html") => json!({ "description": "A page", "content": { "text/html": { "schema": { "type": "string" } } } }),
        (_, "text") => json!({ "description": "A text", "content": { "text/plain": { "schema": { "type": "string" } } } }),
        (_, "csv") => json!({ "description": "A CSV file", "content": { "text/csv": { "schema": { "type": "string" } } } }),
        (_, "lines") => json!({
            "description": "A JSON object on each line: pieces of output, then `run`, or `problem` where the reader's right went",
            "content": { "application/x-ndjson": { "schema": { "type": "string" } } },
        }),
        (_, "image") => json!({ "description": "An image", "content": image() }),
        (_, kind) => json!({ "description": "The answer", "content": { "application/json": { "schema": kind_of(kind) } } }),
    };
    let problem = json!({
        "description": "A problem",
        "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
    });
    let mut described = json!({
        "summary": operation.summary,
        "operationId": operation_id(operation),
        "responses": { operation.status.to_string(): answer, "default": problem },
    });
    if !parameters.is_empty() {
        described["parameters"] = Value::Array(parameters);
    }
    if operation.body == "image" {
        described["requestBody"] = json!({ "required": true, "content": image() });
    } else if operation.body == "csv" {
        described["requestBody"] = json!({ "required": true, "content": { "text/csv": { "schema": { "type": "string" } } } });
    } else if operation.body == "form" {
        let content = json!({ "application/x-www-form-urlencoded": { "schema": { "type": "object" } } });
        described["requestBody"] = json!({ "required": true, "content": content });
    } else if !operation.body.is_empty() {
        let (kind, required) = operation.body.strip_suffix('?').map_or((operation.body, true), |kind| (kind, false));
        described["requestBody"] = json!({ "required": required, "content": { "application/json": { "schema": kind_of(kind) } } });
    }
    described["security"] = match operation.auth {
        Auth::Nobody => json!([]),
        Auth::Person => json!([{ "person": [] }]),
        Auth::Device => json!([{ "device": [] }]),
        Auth::Ticket => json!([{ "ticket": [] }]),
    };
    described
}

fn image() -> Value {
    json!({ "image/png": {}, "image/jpeg": {}, "image/webp": {} })
}

/// `get_v1_orgs_org_devices`: stable, unique, and a name in any language.
fn operation_id(operation: &Operation) -> String {
    let path: String = operation.path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let mut id = operation.method.to_lowercase();
    for part in path.split('_').filter(|part| !part.is_empty()) {
        id.push('_');
        id.push_str(part);
    }
    id
}

/// `name:kind` with `?` after the name of a field that may be absent or null.
fn object(fields: &str) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for field in fields.split_whitespace() {
        let (name, kind) = field.split_once(':').expect("the table has name:kind");
        match name.strip_suffix('?') {
            Some(name) => {
                properties.insert(name.to_owned(), json!({ "anyOf": [kind_of(kind), { "type": "null" }] }));
            }
            None => {
                required.push(name);
                properties.insert(name.to_owned(), kind_of(kind));
            }
        }
    }
    json!({ "type": "object", "properties": properties, "required": required })
}

fn kind_of(kind: &str) -> Value {
    if let Some(inner) = kind.strip_prefix('[').and_then(|kind| kind.strip_suffix(']')) {
        return json!({ "type": "array", "items": kind_of(inner) });
    }
    if let Some(inner) = kind.strip_prefix("Page<").and_then(|kind| kind.strip_suffix('>')) {
        return json!({
            "type": "object",
            "properties": { "items": { "type": "array", "items": kind_of(inner) }, "next": { "type": "string" } },
            "required": ["items"],
        });
    }
    match kind {
        "string" => json!({ "type": "string" }),
        "int" => json!({ "type": "integer" }),
        "bool" => json!({ "type": "boolean" }),
        "millis" => json!({ "type": "integer", "format": "int64", "description": "Milliseconds since the epoch, UTC" }),
        "numbers" => json!({ "type": "object", "additionalProperties": { "type": "number" } }),
        "any" => json!({ "type": "object", "additionalProperties": true }),
        name => json!({ "$ref": format!("#/components/schemas/{name}") }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn routes_and_operations_are_the_same() {
        let routed: BTreeSet<_> = crate::api::routes().iter().map(|route| (route.path, route.method)).collect();
        let told: BTreeSet<_> = OPERATIONS.iter().map(|operation| (operation.path, operation.method)).collect();
        assert_eq!(told.len(), OPERATIONS.len(), "an operation stands twice");
        let untold: Vec<_> = routed.difference(&told).collect();
        let unrouted: Vec<_> = told.difference(&routed).collect();
        assert!(untold.is_empty() && unrouted.is_empty(), "not described: {untold:?}; described, but not there: {unrouted:?}");
        assert!(routed.len() >= 45, "{}", routed.len());
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let mut seen = 0;
        let mut stack = vec![&document];
        while let Some(value) = stack.pop() {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(reference)) = map.get("$ref") {
                        let pointer = reference.strip_prefix('#').unwrap();
                        assert!(document.pointer(pointer).is_some(), "{reference}");
                        seen += 1;
                    }
                    stack.extend(map.values());
                }
                Value::Array(items) => stack.extend(items),
                _ => {}
            }
        }
        assert!(seen > 100, "{seen}");
    }

    #[test]
    fn operation_ids_are_unique() {
        let ids: BTreeSet<_> = OPERATIONS.iter().map(operation_id).collect();
        assert_eq!(ids.len(), OPERATIONS.len());
    }
}
