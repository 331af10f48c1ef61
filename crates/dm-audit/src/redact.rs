//! Secrets out of what is about to be kept for good.
//!
//! Callers should not put any in; this is the last fence. It knows URLs with a password, `password=…` pairs, and
//! JSON fields named like a secret. It would rather cut too much than too little.

use dm_core::redact_url;
use serde_json::Value;

const SECRET_WORDS: [&str; 7] =
    ["password", "passwd", "passphrase", "secret", "token", "private_key", "access_key"];

/// A text with the secrets of its URLs and of its `name=value` pairs replaced by `***`.
#[must_use]
pub fn redact_text(text: &str) -> String {
    // Nearly every text: what is cut stands behind one of these.
    if !text.contains([':', '=']) {
        return text.to_owned();
    }
    let mut rest = text;
    let mut out = String::with_capacity(text.len());
    while let Some(found) = rest.find("://") {
        let start = scheme_start(rest, found);
        out.push_str(&redact_pairs(&rest[..start]));
        let (url, end) = redact_first_url(&rest[start..], found - start);
        out.push_str(&url);
        rest = &rest[start + end..];
    }
    out.push_str(&redact_pairs(rest));
    out
}

/// A JSON value with every string redacted, and every string in a field named like a secret replaced.
#[must_use]
pub fn redact_json(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(redact_text(text)),
        Value::Array(items) => Value::Array(items.iter().map(redact_json).collect()),
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .map(|(name, value)| match value {
                    Value::String(_) if is_secret(name) => (name.clone(), Value::String("***".into())),
                    other => (redact_text(name), redact_json(other)),
                })
                .collect(),
        ),
        other => other.clone(),
    }
}

/// Where the scheme in front of `://` begins.
fn scheme_start(text: &str, colon: usize) -> usize {
    let scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    text[..colon].rfind(|c| !scheme(c)).map_or(0, |i| i + text[i..].chars().next().map_or(1, char::len_utf8))
}

/// Redacts the URL that `text` begins with; gives it and how far it went.
fn redact_first_url(text: &str, colon: usize) -> (String, usize) {
    let behind = colon + 3;
    let word_end = |from: usize| text[from..].find(char::is_whitespace).map_or(text.len(), |i| from + i);
    let mut end = word_end(behind);
    // Another URL in the same word is another one.
    if let Some(next) = text[behind..end].find("://") {
        end = behind + scheme_start(&text[behind..end], next);
    }
    let cut = || format!("{}://[redacted]", &text[..colon]);
    let url = text[..end].trim_end_matches([
        '"', '\'', '`', '(', ')', '[', ']', '{', '}', '<', '>', ',', ';', ':', '.', '!', '?',
    ]);
    if url.len() < behind {
        return (text[..end].to_owned(), end);
    }
    let authority = url[behind..].split(['/', '?', '#']).next().unwrap_or("");
    let port = authority.rsplit_once(':').map(|(_, port)| port.trim_end_matches(']'));
    if !url.contains('@') {
        // A password with a space in it: its '@' comes in a later word.
        if port.is_some_and(|p| !p.bytes().all(|c| c.is_ascii_digit()))
            && let Some(at) = text[end..].find('@')
        {
            return (cut(), word_end(end + at));
        }
        return match url::Url::parse(url) {
            Ok(_) => (redact_url(url), url.len()),
            Err(_) => (redact_pairs(url), url.len()),
        };
    }
    match url::Url::parse(url) {
        // A password with a slash in it is taken for a port and a path.
        Ok(parsed) if parsed.password().is_none() && port.is_some() => (cut(), url.len()),
        Ok(_) => (redact_url(url), url.len()),
        Err(_) => (cut(), url.len()),
    }
}

/// `password=x`, `password: x`, `token='x y'` in running text.
fn redact_pairs(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['=', ':']) {
        let (name, behind) = (&rest[..at], &rest[at + 1..]);
        let word = name.trim_end().rsplit(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-')).next();
        out.push_str(&rest[..=at]);
        rest = behind;
        if word.is_some_and(is_secret) {
            let value = behind.trim_start();
            out.push_str(&behind[..behind.len() - value.len()]);
            let end = match value.chars().next() {
                Some(quote @ ('"' | '\'')) => value[1..].find(quote).map_or(value.len(), |i| i + 2),
                _ => value
                    .find(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '&'))
                    .unwrap_or(value.len()),
            };
            if end > 0 {
                out.push_str("***");
            }
            rest = &value[end..];
        }
    }
    out.push_str(rest);
    out
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn no_secret_survives_and_the_rest_does() {
        for (text, expected) in [
            ("nothing to hide: 5 rows", "nothing to hide: 5 rows"),
            (
                "cannot reach postgres://u:s3cret@h:5/d: refused",
                "cannot reach postgres://u:***@h:5/d: refused",
            ),
            ("(postgres://u:s3cret@h/d)", "(postgres://u:***@h/d)"),
            ("\"s3://k:s3cret@b/p\", then", "\"s3://k:***@b/p\", then"),
            ("password=s3cret host=h", "password=*** host=h"),
            ("db_password: 's3 cret' x", "db_password: *** x"),
            ("see https://example.org/a.", "see https://example.org/a."),
        ] {
            assert_eq!(redact_text(text), expected);
        }
        for text in [
            "postgres://u:pa s3cret@h/d",
            "postgres://u:s3cret@h/d,postgres://v:s3cret@i/d",
            "postgres://u:s3cret@h:badport/d",
            "a://b?token=s3cret c",
            "ü://u:s3cret@h",
            "mongodb://u:s3cret@h1:1,h2:2/d",
            "postgres://u:12/s3cret@h/d",
            "https://h/?next=postgres://u:s3cret@h/d",
        ] {
            assert!(!redact_text(text).contains("s3cret"), "{}", redact_text(text));
        }
        assert_eq!(
            redact_json(
                &json!({"url": "redis://:s3cret@h/0", "api_token": "s3cret", "n": [1, "x"], "tokens": 3})
            ),
            json!({"url": "redis://:***@h/0", "api_token": "***", "n": [1, "x"], "tokens": 3})
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_taken(text in "(\\PC|://|@|:|=|password| ){0,40}") {
            let once = redact_text(&text);
            proptest::prop_assert!(text.contains("://") || text.contains(['=', ':']) || once == text);
        }
    }
}
