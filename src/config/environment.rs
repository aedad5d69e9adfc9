//! `${VAR}`: values that do not belong into files.

use toml::de::{DeTable, DeValue};

/// Looks up a variable; passed in, so that tests need no real environment.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A value that came from the environment and must never be printed.
pub(crate) struct Secret {
    written: String,
    value: String,
}

/// Replaces every `${VAR}` in the strings below `table`; returns where one was wrong, and how.
pub(crate) fn substitute(
    table: &mut DeTable<'_>,
    environment: Environment<'_>,
    secrets: &mut Vec<Secret>,
) -> Vec<(usize, String)> {
    let mut wrong = Vec::new();
    for (_, value) in table.iter_mut() {
        let offset = value.span().start;
        substitute_value(value.get_mut(), offset, environment, secrets, &mut wrong);
    }
    wrong
}

fn substitute_value(
    value: &mut DeValue<'_>,
    offset: usize,
    environment: Environment<'_>,
    secrets: &mut Vec<Secret>,
    wrong: &mut Vec<(usize, String)>,
) {
    match value {
        DeValue::String(text) if text.contains("${") => match replaced(text, environment, secrets) {
            Ok(new) => *text = new.into(),
            Err(what) => wrong.push((offset, what)),
        },
        DeValue::Array(array) => {
            for element in array.iter_mut() {
                let offset = element.span().start;
                substitute_value(element.get_mut(), offset, environment, secrets, wrong);
            }
        }
        DeValue::Table(table) => wrong.extend(substitute(table, environment, secrets)),
        _ => {}
    }
}

fn replaced(text: &str, environment: Environment<'_>, secrets: &mut Vec<Secret>) -> Result<String, String> {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        result.push_str(&rest[..start]);
        let after = &rest[start + 2..];
        let Some((name, after)) = after.split_once('}') else {
            return Err("`${` without its `}`".to_owned());
        };
        if !is_variable(name) {
            return Err(format!("`${{{name}}}` does not name an environment variable"));
        }
        let Some(value) = environment(name) else {
            return Err(format!("environment variable {name} is not set"));
        };
        result.push_str(&value);
        secrets.push(Secret {
            written: format!("${{{name}}}"),
            value,
        });
        rest = after;
    }
    result.push_str(rest);
    Ok(result)
}

/// Puts `${VAR}` back wherever a message would show its value.
pub(crate) fn mask(message: &str, secrets: &[Secret]) -> String {
    let mut masked = message.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.value.is_empty()) {
        masked = masked.replace(&secret.value, &secret.written);
        // Messages quote strings as Rust writes them.
        let quoted = secret.value.escape_debug().to_string();
        masked = masked.replace(&quoted, &secret.written);
    }
    masked
}

fn is_variable(name: &str) -> bool {
    let mut letters = name.chars();
    letters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}
