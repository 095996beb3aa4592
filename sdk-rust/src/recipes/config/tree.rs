//! From items to one tree of values. No input or output.
//!
//! An item's path is its place in the tree, its suffix says how it is written: `.json`, `.yaml`,
//! `.yml`, `.toml`, or `.txt` for a text as it is. Without a suffix it is a truth value, a number or
//! a text, whichever it looks like. An item named `_` (with a suffix) is its folder's own values.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};

/// Items by path.
pub(crate) type Items = BTreeMap<String, Bytes>;

/// A value of any format, without duplicate keys.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        match serde_json::Number::from_f64(value) {
            Some(number) => Ok(number.into()),
            None => Err(E::custom("a number that is none")),
        }
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = sequence.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((key, Strict(value))) = entries.next_entry::<String, Strict>()? {
            // The reader of TOML wraps moments like this.
            if key.starts_with("$__toml_private") {
                return Ok(value);
            }
            if map.contains_key(&key) {
                return Err(de::Error::custom(format!("the key {key:?} is there twice")));
            }
            map.insert(key, value);
        }
        Ok(map.into())
    }
}

fn scalar(text: &str) -> Value {
    let trimmed = text.trim();
    match trimmed {
        "true" => return true.into(),
        "false" => return false.into(),
        _ => {}
    }
    if let Ok(number) = trimmed.parse::<i64>() {
        return number.into();
    }
    if let Ok(number) = trimmed.parse::<u64>() {
        return number.into();
    }
    let numeric = trimmed.starts_with(|first: char| first.is_ascii_digit() || first == '-');
    match trimmed.parse::<f64>() {
        Ok(number) if numeric && number.is_finite() => number.into(),
        _ => trimmed.into(),
    }
}

/// Reads one item; answers with its place as well.
pub(crate) fn parse(path: &str, bytes: &[u8]) -> Result<(String, Value)> {
    let refuse = |why: String| Error::new(ErrorKind::InvalidConfig, format!("{why} path={path:?}"));
    let text = std::str::from_utf8(bytes).map_err(|error| refuse(format!("the item is no text: {error}")))?;
    let name = path.rsplit('/').next().unwrap_or(path);
    let (place, suffix) = match name.rsplit_once('.') {
        Some((_, suffix @ ("json" | "yaml" | "yml" | "toml" | "txt"))) => {
            (&path[..path.len() - suffix.len() - 1], suffix)
        }
        _ => (path, ""),
    };
    let value = match suffix {
        "json" => serde_json::from_str::<Strict>(text).map_err(|error| refuse(error.to_string()))?.0,
        "toml" => toml::from_str::<Strict>(text).map_err(|error| refuse(error.message().to_owned()))?.0,
        "yaml" | "yml" => {
            // In YAML 1.2 only true and false are truth values; no, on and y are texts.
            let options = serde_saphyr::options! { strict_booleans: true };
            serde_saphyr::from_str_with_options::<Strict>(text, options)
                .map_err(|error| refuse(error.to_string()))?
                .0
        }
        "txt" => text.into(),
        _ => scalar(text),
    };
    Ok((place.to_owned(), value))
}

/// Lays one value over another: objects by key, all else as a whole.
pub(crate) fn overlay(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                match base.get_mut(&key) {
                    Some(below) => overlay(below, value),
                    None => drop(base.insert(key, value)),
                }
            }
        }
        (base, over) => *base = over,
    }
}

/// Builds the tree of one namespace.
pub(crate) fn build(items: &Items) -> Result<Value> {
    let mut root = Value::Object(Map::new());
    for (path, bytes) in items {
        let (place, value) = parse(path, bytes)?;
        let refuse = || {
            let text =
                format!("the item stands where another one has a value that is no folder path={path:?}");
            Error::new(ErrorKind::InvalidConfig, text)
        };
        let mut names: Vec<&str> = place.split('/').filter(|name| !name.is_empty()).collect();
        let folder = names.last() == Some(&"_");
        if folder {
            names.pop();
        }
        let mut at = &mut root;
        for name in &names {
            at = at.as_object_mut().ok_or_else(refuse)?.entry(*name).or_insert(Value::Null);
            if at.is_null() {
                *at = Value::Object(Map::new());
            }
        }
        let is_new = !folder && at.as_object().is_some_and(Map::is_empty) && !names.is_empty();
        match (&*at, &value) {
            _ if is_new => *at = value,
            (Value::Object(_), Value::Object(_)) => overlay(at, value),
            _ => return Err(refuse()),
        }
    }
    Ok(root)
}

/// The places at which two trees differ.
pub(crate) fn changed(old: &Value, new: &Value) -> Vec<String> {
    let mut paths = Vec::new();
    differ(old, new, String::new(), &mut paths);
    paths.sort();
    paths
}

fn differ(old: &Value, new: &Value, at: String, paths: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let below = |key: &String| if at.is_empty() { key.clone() } else { format!("{at}/{key}") };
            for (key, value) in old {
                differ(value, new.get(key).unwrap_or(&Value::Null), below(key), paths);
            }
            for (key, value) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
                differ(&Value::Null, value, below(key), paths);
            }
        }
        _ if old != new => paths.push(at),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn items(items: &[(&str, &str)]) -> Items {
        items.iter().map(|(path, text)| ((*path).to_owned(), Bytes::from((*text).to_owned()))).collect()
    }

    #[test]
    fn cf_3_items_of_every_format_make_one_tree() {
        let tree = build(&items(&[
            ("_.yaml", "name: gw\nlimits:\n  rps: 10\n"),
            ("limits/burst", "20"),
            ("limits/note.txt", "10"),
            ("tls.toml", "min = \"1.2\"\nsince = 2024-01-01\n"),
            ("upstreams.json", r#"["a","b"]"#),
            ("debug", "true"),
            ("big", "9223372036854775807"),
        ]));
        assert_eq!(
            tree.unwrap(),
            json!({
                "name": "gw", "limits": {"rps": 10, "burst": 20, "note": "10"},
                "tls": {"min": "1.2", "since": "2024-01-01"}, "upstreams": ["a", "b"], "debug": true,
                "big": 9_223_372_036_854_775_807_i64,
            })
        );
    }

    #[test]
    fn cf_3_duplicate_keys_are_refused_in_every_format() {
        for (path, text) in
            [("a.json", r#"{"x":1,"x":2}"#), ("a.yaml", "x: 1\nx: 2\n"), ("a.toml", "x = 1\nx = 2\n")]
        {
            let error = build(&items(&[(path, text)])).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.message().contains(&format!("path={path:?}")), "{error}");
        }
    }

    #[test]
    fn cf_3_anchors_of_yaml_are_expanded() {
        let tree = build(&items(&[("_.yaml", "a: &x\n  k: 1\nb: *x\n")])).unwrap();
        assert_eq!(tree, json!({"a": {"k": 1}, "b": {"k": 1}}));
    }

    #[test]
    fn items_that_contradict_each_other_are_refused() {
        assert!(build(&items(&[("a", "1"), ("a/b", "2")])).is_err());
        assert!(build(&items(&[("a.json", "{\"b\":1}"), ("a/c", "2")])).is_ok());
    }

    #[test]
    fn cf_9_what_is_above_covers_what_is_below_by_path() {
        let mut base = json!({"a": {"x": 1, "y": 2}, "l": [1, 2]});
        overlay(&mut base, json!({"a": {"y": 3}, "l": [9], "n": 1}));
        assert_eq!(base, json!({"a": {"x": 1, "y": 3}, "l": [9], "n": 1}));
    }

    #[test]
    fn cf_5_changed_paths_are_named() {
        let paths = changed(&json!({"a": {"x": 1, "y": 2}, "b": 1}), &json!({"a": {"x": 1, "y": 3}, "c": 1}));
        assert_eq!(paths, ["a/y", "b", "c"]);
    }
}
