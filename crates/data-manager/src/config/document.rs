//! dm.toml as a list of leaves with their lines, checked against the table of keys.

use dm_core::{EngineId, Error, Result, TargetName};
use toml::de::{DeTable, DeValue};

use super::keys::{self, Key};
use super::kind::Raw;
use super::nearest::nearest;

/// A setting's full name, name by name (an engine's name may hold a dot).
pub(super) type KeyPath = Vec<String>;

/// A setting of the file.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    pub(super) path: KeyPath,
    pub(super) key: &'static Key,
    pub(super) raw: Raw,
    pub(super) line: usize,
}

/// The file, or one profile section of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer {
    pub(super) leaves: Vec<Leaf>,
    /// The named sections that are opened (`engines.main`), with their lines, even empty ones.
    pub(super) sections: Vec<(KeyPath, usize)>,
}

/// The whole file.
#[derive(Clone, Debug, Default)]
pub(super) struct Document {
    /// How the file is called in messages.
    pub(super) name: String,
    pub(super) base: Layer,
    /// Profile sections in the order of the alphabet.
    pub(super) profiles: Vec<(String, Layer)>,
    /// Lines of the profile sections' names.
    pub(super) profile_lines: Vec<usize>,
}

/// Something wrong with the file.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) line: usize,
    pub(super) text: String,
}

impl Document {
    /// Parses and checks. Every problem is found, not only the first.
    pub(super) fn parse(name: &str, text: &str) -> Result<Self> {
        let lines = Lines::of(text);
        let root = DeTable::parse(text).map_err(|error| {
            let line = error.span().map_or(1, |span| lines.at(span.start));
            // Not the parser's own rendering: it quotes the line, and a secret may stand in it.
            Error::invalid(error.message().to_lowercase())
                .about(format!("{name}:{line}"))
                .with_hint("this is not TOML; `name = \"text\"`, sections in [brackets]")
        })?;
        let mut walk = Walk { lines, problems: Vec::new() };
        let mut document = Self { name: name.to_owned(), ..Self::default() };
        for (key, value) in root.get_ref() {
            let line = walk.lines.at(key.span().start);
            if key.get_ref() != "profile" {
                walk.entry(
                    &mut document.base,
                    &mut Vec::new(),
                    &mut Vec::new(),
                    key.get_ref(),
                    line,
                    value.get_ref(),
                );
                continue;
            }
            let DeValue::Table(profiles) = value.get_ref() else {
                walk.problem(line, "profile is a section: write [profile.production]");
                continue;
            };
            for (profile, section) in profiles {
                let line = walk.lines.at(profile.span().start);
                let DeValue::Table(section) = section.get_ref() else {
                    let name = profile.get_ref();
                    walk.problem(line, &format!("profile.{name} is a section: write [profile.{name}]"));
                    continue;
                };
                let mut layer = Layer::default();
                for (key, value) in section {
                    let line = walk.lines.at(key.span().start);
                    walk.entry(
                        &mut layer,
                        &mut Vec::new(),
                        &mut Vec::new(),
                        key.get_ref(),
                        line,
                        value.get_ref(),
                    );
                }
                document.profiles.push((profile.get_ref().to_string(), layer));
                document.profile_lines.push(line);
            }
        }
        // Wrong forms are found in every profile, also in those that are not chosen today.
        let layers = std::iter::once(&document.base).chain(document.profiles.iter().map(|(_, layer)| layer));
        for leaf in layers.flat_map(|layer| &layer.leaves) {
            if let Err(refusal) = check(leaf) {
                walk.problems.push(Problem { line: leaf.line, text: refusal });
            }
        }
        report(name, walk.problems)?;
        Ok(document)
    }
}

/// Turns problems into one error.
pub(super) fn report(name: &str, mut problems: Vec<Problem>) -> Result<()> {
    problems.sort_by_key(|p| p.line);
    let error = match &problems[..] {
        [] => return Ok(()),
        [one] => Error::invalid(one.text.clone()).about(format!("{name}:{}", one.line)),
        many => {
            let texts: Vec<String> = many.iter().map(|p| format!("line {}: {}", p.line, p.text)).collect();
            Error::invalid(format!("{} problems: {}", many.len(), texts.join("; "))).about(name)
        }
    };
    Err(error.with_hint("every key is described in docs/configuration.md; `dm init` writes a commented file"))
}

/// Whether a leaf has its form, as far as that shows before references are followed.
fn check(leaf: &Leaf) -> std::result::Result<(), String> {
    if let Raw::Text(text) = &leaf.raw
        && (text.contains("${") || (leaf.key.kind.takes_references() && text.starts_with("file:")))
    {
        return Ok(());
    }
    leaf.key.kind.read(&leaf.raw, false).map(drop).map_err(|r| refused(&leaf.path, &r))
}

/// The sentence for a value in the wrong form.
pub(super) fn refused(path: &[String], refusal: &super::kind::Refusal) -> String {
    format!("{} is {}, expected {}", dotted(path), refusal.found, refusal.expected)
}

/// The name as the file would write it.
pub(super) fn dotted(path: &[String]) -> String {
    let plain = |name: &String| name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let names: Vec<String> =
        path.iter().map(|n| if plain(n) && !n.is_empty() { n.clone() } else { format!("\"{n}\"") }).collect();
    names.join(".")
}

/// Line numbers of byte offsets.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at).collect())
    }

    fn at(&self, offset: usize) -> usize {
        self.0.partition_point(|end| *end < offset) + 1
    }
}

struct Walk {
    lines: Lines,
    problems: Vec<Problem>,
}

impl Walk {
    fn problem(&mut self, line: usize, text: &str) {
        self.problems.push(Problem { line, text: text.to_owned() });
    }

    /// One entry of a table. `pattern` is the path in the words of the table of keys.
    fn entry(
        &mut self,
        layer: &mut Layer,
        path: &mut KeyPath,
        pattern: &mut Vec<&'static str>,
        name: &str,
        line: usize,
        value: &DeValue<'_>,
    ) {
        let children = keys::children(pattern);
        let known = children.iter().find(|(word, _)| *word == name);
        let Some((word, is_setting)) = known.or_else(|| children.iter().find(|(word, _)| *word == "*"))
        else {
            let text = unknown(path, name, &children);
            return self.problem(line, &text);
        };
        path.push(name.to_owned());
        pattern.push(word);
        if *word == "*"
            && let Err(error) = check_name(pattern, name)
        {
            self.problem(line, &error.to_string());
        } else if *is_setting {
            if let Some(key) = keys::find(path) {
                layer.leaves.push(Leaf { path: path.clone(), key, raw: raw(value), line });
            }
        } else if let DeValue::Table(table) = value {
            if *word == "*" {
                layer.sections.push((path.clone(), line));
            }
            for (key, value) in table {
                let line = self.lines.at(key.span().start);
                self.entry(layer, path, pattern, key.get_ref(), line, value.get_ref());
            }
        } else {
            let name = dotted(path);
            let named =
                keys::children(pattern).first().is_some_and(|(word, is_setting)| *word == "*" && !is_setting);
            let header = if named { format!("{name}.<name>") } else { name.clone() };
            self.problem(
                line,
                &format!("{name} is {}, expected a section: write [{header}]", raw(value).describe()),
            );
        }
        path.pop();
        pattern.pop();
    }
}

fn check_name(pattern: &[&str], name: &str) -> Result<()> {
    match pattern {
        ["engines", _] => EngineId::new(name).map(drop),
        // A role may be called what people call it; every other name may become part of a file name.
        ["access", ..] if !name.trim().is_empty() => Ok(()),
        _ => TargetName::new(name).map(drop),
    }
}

/// The sentence for a key that does not exist, with the right one where it can be guessed.
fn unknown(path: &[String], name: &str, children: &[(&'static str, bool)]) -> String {
    let mut full = path.to_vec();
    full.push(name.to_owned());
    let full = dotted(&full);
    let mut siblings: Vec<&str> =
        children.iter().map(|(word, _)| *word).filter(|word| *word != "*").collect();
    if path.is_empty() {
        siblings.push("profile");
    }
    if let Some(near) = nearest(name, siblings.iter().copied()) {
        return format!("unknown key {full}, did you mean {near}?");
    }
    let elsewhere = keys::all().find_map(|key| {
        let (section, last) = key.path.rsplit_once('.')?;
        (last == name).then(|| section.replace('*', "<name>"))
    });
    if let Some(section) = elsewhere {
        return format!("unknown key {full}, {name} belongs in [{section}]");
    }
    format!("unknown key {full}, known here: {}", siblings.join(", "))
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Raw::Other("a number out of range"), Raw::Integer),
        DeValue::Boolean(on) => Raw::Flag(*on),
        DeValue::Array(items) => Raw::List(items.iter().map(|item| raw(item.get_ref())).collect()),
        DeValue::Table(table) => {
            Raw::Table(table.iter().map(|(k, v)| (k.get_ref().to_string(), raw(v.get_ref()))).collect())
        }
        DeValue::Float(_) => Raw::Other("a fraction"),
        DeValue::Datetime(_) => Raw::Other("a date"),
    }
}
