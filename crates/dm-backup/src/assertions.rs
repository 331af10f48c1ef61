//! Questions of the application's own to a restored database, and the answers that are right.
//!
//! A restore that came back equal to its backup may still be of no use: the wrong database, a day too old, empty. Only
//! the application's owner knows what must hold; an [`Assertion`] says it as a statement and what is expected of its
//! answer. Each runs in a read-only transaction of its own, within a time limit, and one that cannot be run has failed.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use dm_core::{
    AccessMode, Error, ErrorKind, Isolation, OpContext, QueryPort, Result, Row, Statement,
    TransactionOptions, Value,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::run::millis;

/// How long one statement may take, unless it says otherwise.
pub const ASSERTION_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest text of a found value that a report keeps, in characters.
const LONGEST_FOUND: usize = 200;

/// A statement and what is expected of its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assertion {
    /// What it is called in reports.
    pub name: String,
    /// The statement; one that reads.
    pub sql: String,
    /// What its answer must be.
    #[serde(default)]
    pub expect: Expect,
    /// How long it may take, in seconds; [`ASSERTION_TIMEOUT`] when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u64>,
}

impl Assertion {
    /// An assertion whose answer must be true.
    pub fn new(name: impl Into<String>, sql: impl Into<String>) -> Self {
        Self { name: name.into(), sql: sql.into(), expect: Expect::True, timeout_s: None }
    }

    /// The same with another expectation.
    #[must_use]
    pub fn expecting(mut self, expect: Expect) -> Self {
        self.expect = expect;
        self
    }

    fn timeout(&self) -> Duration {
        self.timeout_s.map_or(ASSERTION_TIMEOUT, Duration::from_secs)
    }
}

/// What is expected of a statement's answer. As text: nothing or `true`, `empty`, `not empty`, a comparison
/// (`>= 10`, `!= paid`), or the value itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Expect {
    /// The first column of the first row is true: neither false, zero, NULL nor missing.
    #[default]
    True,
    /// There is no row.
    Empty,
    /// There is a row.
    NotEmpty,
    /// The first column of the first row compares so with a value: as numbers where both are, otherwise as text.
    Compare {
        /// How.
        how: Comparator,
        /// With what.
        value: String,
    },
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Comparator {
    /// `=`
    Equal,
    /// `!=`
    Unequal,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    More,
    /// `>=`
    AtLeast,
}

impl Comparator {
    /// The signs, the longer ones first.
    const SIGNS: [(&'static str, Self); 8] = [
        (">=", Self::AtLeast),
        ("<=", Self::AtMost),
        ("!=", Self::Unequal),
        ("<>", Self::Unequal),
        ("==", Self::Equal),
        (">", Self::More),
        ("<", Self::Less),
        ("=", Self::Equal),
    ];

    fn sign(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::Unequal => "!=",
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::More => ">",
            Self::AtLeast => ">=",
        }
    }

    fn holds(self, order: std::cmp::Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::Unequal => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::AtMost => order.is_le(),
            Self::More => order.is_gt(),
            Self::AtLeast => order.is_ge(),
        }
    }
}

impl FromStr for Expect {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        match text.to_ascii_lowercase().as_str() {
            "" | "true" => return Ok(Self::True),
            "empty" => return Ok(Self::Empty),
            "not empty" => return Ok(Self::NotEmpty),
            _ => {}
        }
        for (sign, how) in Comparator::SIGNS {
            let Some(rest) = text.strip_prefix(sign) else { continue };
            let value = rest.trim().to_owned();
            if value.is_empty() {
                return Err(Error::invalid(format!("\"{text}\" compares with nothing"))
                    .with_hint("write what it is compared with: \">= 10\""));
            }
            return Ok(Self::Compare { how, value });
        }
        Ok(Self::Compare { how: Comparator::Equal, value: text.to_owned() })
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::True => f.write_str("true"),
            Self::Empty => f.write_str("empty"),
            Self::NotEmpty => f.write_str("not empty"),
            Self::Compare { how, value } => write!(f, "{} {value}", how.sign()),
        }
    }
}

impl Serialize for Expect {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Expect {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// As people write it: `expect = 3` as well as `expect = ">= 3"`.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Bool(bool),
            Int(i64),
            Float(f64),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Bool(yes) => yes.to_string(),
            Written::Int(number) => number.to_string(),
            Written::Float(number) => number.to_string(),
            Written::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What came of an assertion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssertionResult {
    /// Its name.
    pub name: String,
    /// Whether it holds.
    pub ok: bool,
    /// What was expected.
    pub expected: Expect,
    /// What was found in the first column of the first row, as text and cut short; `None` for NULL, for no row, and when
    /// the statement failed.
    pub found: Option<String>,
    /// Why it could not be asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

impl AssertionResult {
    /// What is wrong, in a sentence.
    #[must_use]
    pub fn complaint(&self) -> String {
        match (&self.error, &self.found) {
            (Some(error), _) => format!("the check \"{}\" could not be made: {error}", self.name),
            (None, Some(found)) => {
                format!("the check \"{}\" found {found} where {} is expected", self.name, self.expected)
            }
            (None, None) => {
                format!("the check \"{}\" found nothing where {} is expected", self.name, self.expected)
            }
        }
    }
}

/// Asks one after the other. Where nothing answers statements, none of them could be made.
///
/// # Errors
/// `Interrupted`, `Timeout` of the context; whatever else goes wrong is in the results.
pub(crate) async fn ask(
    ctx: &OpContext,
    port: Option<&dyn QueryPort>,
    assertions: &[Assertion],
) -> Result<Vec<AssertionResult>> {
    let mut results = Vec::with_capacity(assertions.len());
    for assertion in assertions {
        ctx.check()?;
        let began = Instant::now();
        let answer = match port {
            Some(port) => {
                let limited = ctx.child().with_timeout(assertion.timeout());
                limited.run(first_row(&limited, port, &assertion.sql)).await
            }
            None => Err(Error::unsupported("nothing answers statements there")),
        };
        // Stopped from outside is no answer; an assertion that ran out of its own time is one.
        ctx.check()?;
        let (ok, found, error) = match answer {
            Ok(row) => {
                let value = row.as_ref().and_then(|row| row.values.first());
                (holds(&assertion.expect, row.as_ref()), value.and_then(shown), None)
            }
            Err(error) if error.kind() == ErrorKind::Timeout => {
                (false, None, Some(format!("it took longer than {} s", assertion.timeout().as_secs())))
            }
            Err(error) => (false, None, Some(error.full_message())),
        };
        let result = AssertionResult {
            name: assertion.name.clone(),
            ok,
            expected: assertion.expect.clone(),
            found,
            error,
            duration_ms: millis(began.elapsed()),
        };
        if !ok {
            tracing::info!(assertion = %result.name, "{}", result.complaint());
        }
        results.push(result);
    }
    Ok(results)
}

async fn first_row(ctx: &OpContext, port: &dyn QueryPort, sql: &str) -> Result<Option<Row>> {
    let options = TransactionOptions { isolation: Isolation::RepeatableRead, access: AccessMode::ReadOnly };
    let mut transaction = port.begin(ctx, options).await?;
    let answer = transaction.query(ctx, Statement::new(bounded(sql))).await;
    // Nothing was written; how the transaction ends changes no answer.
    if let Err(error) = transaction.rollback(ctx).await {
        tracing::debug!(%error, "the transaction of an assertion was not ended in good order");
    }
    Ok(answer?.into_iter().next())
}

/// One row is all that is looked at: a query is cut to it, so that one that selects a large table fills no memory. What is
/// no query (`SHOW`, `PRAGMA`) runs as it is.
fn bounded(sql: &str) -> String {
    let text = sql.trim().trim_end_matches(';').trim_end();
    let word: String = text.chars().take_while(char::is_ascii_alphabetic).collect();
    match word.to_ascii_lowercase().as_str() {
        "select" | "with" | "values" => format!("SELECT * FROM (\n{text}\n) AS dm_assertion LIMIT 1"),
        _ => text.to_owned(),
    }
}

fn holds(expect: &Expect, row: Option<&Row>) -> bool {
    let value = row.and_then(|row| row.values.first());
    match expect {
        Expect::Empty => row.is_none(),
        Expect::NotEmpty => row.is_some(),
        Expect::True => value.is_some_and(is_true),
        Expect::Compare { how, value: wanted } => match value.and_then(text_of) {
            Some(found) => compare(&found, wanted).is_some_and(|order| how.holds(order)),
            None => *how == Comparator::Equal && wanted.eq_ignore_ascii_case("null") && row.is_some(),
        },
    }
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Bool(yes) => *yes,
        Value::Int(number) => *number != 0,
        Value::Float(number) => *number != 0.0,
        Value::Text(text) => match text.to_ascii_lowercase().as_str() {
            "t" | "true" | "yes" | "on" => true,
            other => other.parse::<f64>().is_ok_and(|number| number != 0.0),
        },
        _ => false,
    }
}

/// As whole numbers where both are (of any size that fits), as numbers where both are, otherwise as text.
fn compare(found: &str, wanted: &str) -> Option<std::cmp::Ordering> {
    if let (Ok(found), Ok(wanted)) = (found.parse::<i128>(), wanted.parse::<i128>()) {
        return Some(found.cmp(&wanted));
    }
    if let (Ok(found), Ok(wanted)) = (found.parse::<f64>(), wanted.parse::<f64>()) {
        return found.partial_cmp(&wanted);
    }
    Some(found.cmp(wanted))
}

fn text_of(value: &Value) -> Option<String> {
    match value.to_json() {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

fn shown(value: &Value) -> Option<String> {
    let text = text_of(value)?;
    Some(match text.char_indices().nth(LONGEST_FOUND) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(value: Value) -> Row {
        Row { columns: std::sync::Arc::from([String::from("x")]), values: vec![value] }
    }

    #[test]
    fn every_form_of_an_expectation_is_understood_and_written_back() {
        for (text, written) in [
            ("", "true"),
            ("TRUE", "true"),
            ("empty", "empty"),
            ("Not Empty", "not empty"),
            (">= 10", ">= 10"),
            (">=10", ">= 10"),
            ("<> x", "!= x"),
            ("3", "= 3"),
            ("= paid in full", "= paid in full"),
        ] {
            let expect: Expect = text.parse().unwrap();
            assert_eq!(expect.to_string(), written, "{text}");
            assert_eq!(expect.to_string().parse::<Expect>().unwrap(), expect);
        }
        assert_eq!(">=".parse::<Expect>().unwrap_err().kind(), ErrorKind::Invalid);
        let written = r#"[{"name":"a","sql":"s","expect":3},{"name":"b","sql":"s","expect":true},{"name":"c","sql":"s"}]"#;
        let read: Vec<Assertion> = serde_json::from_str(written).unwrap();
        assert_eq!(read[0].expect.to_string(), "= 3");
        assert_eq!((&read[1].expect, &read[2].expect), (&Expect::True, &Expect::True));
    }

    #[test]
    fn an_answer_is_judged_by_its_first_value() {
        let of =
            |expect: &str, value: Option<Value>| holds(&expect.parse().unwrap(), value.map(row).as_ref());
        assert!(of("", Some(true.into())) && of("", Some(1i64.into())) && of("", Some("t".into())));
        for no in [Some(false.into()), Some(0i64.into()), Some(Value::Null), Some("no".into()), None] {
            assert!(!of("", no.clone()), "{no:?}");
        }
        assert!(of("empty", None) && !of("empty", Some(0i64.into())));
        assert!(of("not empty", Some(Value::Null)) && !of("not empty", None));
        assert!(of(">= 10", Some(10i64.into())) && !of(">= 10", Some(9i64.into())));
        // Numbers as numbers, not as text; decimals come as text.
        assert!(of("> 9", Some("10.5".into())) && of("= 10", Some("10.0".into())));
        assert!(of("< 9007199254740993", Some(9_007_199_254_740_992i64.into())));
        assert!(of("paid", Some("paid".into())) && !of("paid", Some("open".into())));
        assert!(!of(">= 10", None) && !of(">= 10", Some(Value::Null)));
        assert!(of("null", Some(Value::Null)) && !of("null", None));
    }

    #[test]
    fn a_query_is_cut_to_one_row_and_nothing_else_is() {
        assert_eq!(
            bounded(" SELECT 1 -- one\n;"),
            "SELECT * FROM (\nSELECT 1 -- one\n) AS dm_assertion LIMIT 1"
        );
        assert!(bounded("with a as (select 1) select * from a").ends_with("LIMIT 1"));
        assert_eq!(bounded("PRAGMA user_version;"), "PRAGMA user_version");
    }

    #[test]
    fn found_values_are_cut_short() {
        let long = shown(&"ü".repeat(500).into()).unwrap();
        assert_eq!(long.chars().count(), LONGEST_FOUND + 1);
        assert_eq!(shown(&Value::Null), None);
    }
}
