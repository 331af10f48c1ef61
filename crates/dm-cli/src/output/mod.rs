//! What goes to stdout: tables and sentences for people, documents for programs.

pub(crate) mod table;
pub(crate) mod text;

use data_manager::{Error, Finding, Level, Result};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

use crate::console::Stdout;

pub(crate) use table::Table;

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// A person.
    Human,
    /// A program that takes one document.
    Json,
    /// A program that takes one document a line.
    JsonLines,
}

/// The program's answer.
pub(crate) struct Output {
    stdout: Stdout,
    format: Format,
    colour: bool,
}

impl Output {
    pub(crate) fn new(stdout: Stdout, format: Format, colour: bool) -> Self {
        Self { stdout, format, colour }
    }

    /// Whether a person reads.
    pub(crate) fn is_human(&self) -> bool {
        self.format == Format::Human
    }

    /// The format asked for.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Lists take one document a line from here on.
    pub(crate) fn set_format(&mut self, format: Format) {
        self.format = format;
    }

    /// The stream itself.
    pub(crate) fn stdout(&mut self) -> &mut Stdout {
        &mut self.stdout
    }

    /// Writes a line for a person; nothing when a program reads.
    pub(crate) fn say(&mut self, line: impl AsRef<str>) -> Result<()> {
        if self.is_human() { self.stdout.line(line.as_ref().trim_end()) } else { Ok(()) }
    }

    /// Writes a heading for a person.
    pub(crate) fn heading(&mut self, text: &str) -> Result<()> {
        if self.colour { self.say(format!("\u{1b}[1m{text}\u{1b}[0m")) } else { self.say(text) }
    }

    /// Writes a table for a person.
    pub(crate) fn table(&mut self, table: &Table) -> Result<()> {
        for (number, line) in table.lines().iter().enumerate() {
            if number == 0 && table.has_head() { self.heading(line)? } else { self.say(line)? }
        }
        Ok(())
    }

    /// Writes pairs of a name and a value, aligned.
    pub(crate) fn facts(&mut self, facts: &[(&str, String)]) -> Result<()> {
        let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
            self.say(format!("  {name:width$}  {}", text::printable(value)))?;
        }
        Ok(())
    }

    /// Writes findings for a person, each with its mend.
    pub(crate) fn findings(&mut self, findings: &[Finding]) -> Result<()> {
        let width = findings.iter().map(|f| f.check.chars().count()).max().unwrap_or(0);
        for finding in findings {
            let sign = self.sign(finding.level);
            let check = &finding.check;
            self.say(format!("  {sign}  {check:width$}  {}", text::printable(&finding.message)))?;
            if let Some(mend) = &finding.mend {
                self.say(format!("  {:7}  {:width$}  mend: {}", "", "", text::printable(mend)))?;
            }
        }
        Ok(())
    }

    fn sign(&self, level: Level) -> String {
        let (word, code) = match level {
            Level::Ok => ("ok", 32),
            Level::Info => ("info", 36),
            Level::Warning => ("warning", 33),
            Level::Error => ("error", 31),
        };
        if self.colour { format!("\u{1b}[{code}m{word:7}\u{1b}[0m") } else { format!("{word:7}") }
    }

    /// Writes one document, `{"schema": "dm.<noun>/1", ...fields}`; nothing when a person reads.
    pub(crate) fn document(&mut self, noun: &str, fields: &[(&str, &dyn ToJson)]) -> Result<()> {
        if self.is_human() {
            return Ok(());
        }
        let schema = format!("dm.{noun}/1");
        let fields =
            fields.iter().map(|(name, value)| Ok((*name, value.to_json()?))).collect::<Result<Vec<_>>>()?;
        self.json(&Document { schema: &schema, fields: &fields })
    }

    /// Writes a list: under its noun in one document, or one document a line.
    pub(crate) fn list(&mut self, noun: &str, items: &[Value], more: &[(&str, &dyn ToJson)]) -> Result<()> {
        if self.format != Format::JsonLines {
            let items: &dyn ToJson = &items;
            let mut fields = vec![(noun, items)];
            fields.extend_from_slice(more);
            return self.document(noun, &fields);
        }
        for item in items {
            self.json(item)?;
            if self.stdout.is_closed() {
                break;
            }
        }
        Ok(())
    }

    /// Writes a value: laid out for `--json`, on one line for `--json-lines`.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<()> {
        let text = if self.format == Format::JsonLines {
            serde_json::to_string(value)
        } else {
            serde_json::to_string_pretty(value)
        };
        self.stdout
            .line(&text.map_err(|e| Error::internal("the answer cannot be serialised").with_source(e))?)
    }
}

/// A document: what it is comes first, then its fields in the order in which they were given.
struct Document<'a> {
    schema: &'a str,
    fields: &'a [(&'a str, Value)],
}

impl Serialize for Document<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.fields.len() + 1))?;
        map.serialize_entry("schema", self.schema)?;
        for (name, value) in self.fields {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// Anything that can stand in a document.
pub(crate) trait ToJson {
    /// The value.
    fn to_json(&self) -> Result<Value>;
}

impl<T: Serialize> ToJson for T {
    fn to_json(&self) -> Result<Value> {
        serde_json::to_value(self)
            .map_err(|e| Error::internal("the answer cannot be serialised").with_source(e))
    }
}

/// The values of a list.
pub(crate) fn values<T: Serialize>(items: impl IntoIterator<Item = T>) -> Result<Vec<Value>> {
    items.into_iter().map(|item| item.to_json()).collect()
}
