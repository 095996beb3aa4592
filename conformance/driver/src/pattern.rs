//! References to saved results, and patterns that results must match.

use serde_json::Value;

/// Replaces texts such as `$name.field` by what was saved.
pub fn resolve(value: &Value, saved: &dyn Fn(&str) -> Option<Value>) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) if text.starts_with('$') => {
            let mut path = text[1..].split('.');
            let first = path.next().unwrap_or_default();
            let found = saved(first).and_then(|value| {
                path.try_fold(value, |value, field| match value {
                    Value::Array(items) => items.get(field.parse::<usize>().ok()?).cloned(),
                    value => value.get(field).cloned(),
                })
            });
            found.ok_or_else(|| format!("nothing was saved as {text}"))?
        }
        Value::Array(items) => items.iter().map(|item| resolve(item, saved)).collect::<Result<_, _>>()?,
        Value::Object(map) => {
            let resolve = |(key, value)| Ok((String::clone(key), resolve(value, saved)?));
            Value::Object(map.iter().map(resolve).collect::<Result<_, String>>()?)
        }
        other => other.clone(),
    })
}

/// Why a value does not match; nothing if it does.
pub fn mismatch(pattern: &Value, value: &Value) -> Option<String> {
    let no = |why: &str| Some(format!("{why}: wanted {pattern}, got {value}"));
    match (pattern, value) {
        (Value::Object(map), _) if map.len() == 1 && map.keys().all(|key| key.starts_with('$')) => {
            let (how, with) = map.iter().next()?;
            if special(how, with, value)? { None } else { no(how) }
        }
        (Value::Object(map), Value::Object(fields)) => map.iter().find_map(|(key, pattern)| {
            let found = fields.get(key).unwrap_or(&Value::Null);
            mismatch(pattern, found).map(|why| format!("{key}: {why}"))
        }),
        (Value::Array(patterns), Value::Array(items)) => {
            if patterns.len() != items.len() {
                return no("the lengths differ");
            }
            patterns.iter().zip(items).find_map(|(pattern, item)| mismatch(pattern, item))
        }
        (pattern, value) if pattern == value => None,
        _ => no("differs"),
    }
}

/// `None` if there is no such operator, which matches nothing.
fn special(how: &str, with: &Value, value: &Value) -> Option<bool> {
    let items = value.as_array();
    let has = |pattern: &Value| {
        items.is_some_and(|items| items.iter().any(|item| mismatch(pattern, item).is_none()))
    };
    let numbers = || Some((value.as_i64()?, with.as_i64()?));
    Some(match how {
        "$any" => !value.is_null(),
        "$not" => mismatch(with, value).is_some(),
        "$gt" => numbers().is_some_and(|(value, with)| value > with),
        "$lt" => numbers().is_some_and(|(value, with)| value < with),
        "$len" => items.map(Vec::len) == with.as_u64().map(|len| len as usize),
        "$has" => has(with),
        "$has_all" => with.as_array().is_some_and(|all| all.iter().all(has)),
        "$in" => with.as_array().is_some_and(|any| any.iter().any(|one| mismatch(one, value).is_none())),
        "$prefix" => value.as_str().zip(with.as_str()).is_some_and(|(value, with)| value.starts_with(with)),
        _ => return Some(false),
    })
}
