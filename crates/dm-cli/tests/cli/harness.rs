//! A place apart: a folder with a small database and a configuration, and programs run in it.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use dm_cli::{Exit, Program, Surroundings, run};
use tempfile::TempDir;

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) exit: Exit,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Fails the test unless it ended like this.
    #[track_caller]
    pub(crate) fn expect(self, exit: Exit) -> Self {
        assert_eq!(self.exit, exit, "\nstdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// The document on stdout.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("{e}:\n{}\n{}", self.stdout, self.stderr))
    }
}

/// Bytes that several hands write.
#[derive(Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A reader that went away.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

/// A folder and an environment.
pub(crate) struct Place {
    folder: TempDir,
    env: BTreeMap<String, String>,
}

impl Place {
    /// An empty folder.
    pub(crate) fn empty() -> Self {
        let folder = tempfile::Builder::new().prefix("dm-cli-").tempdir().unwrap();
        let home = folder.path().join("home");
        std::fs::create_dir(&home).unwrap();
        let env = [("HOME", home.to_str().unwrap()), ("USER", "tester")];
        Self { env: env.map(|(k, v)| (k.to_owned(), v.to_owned())).into(), folder }
    }

    /// A folder with a database `shop.db` of a few rows, and a configuration for it.
    pub(crate) fn with_shop() -> Self {
        let place = Self::empty();
        place.write("dm.toml", &place.configuration(""));
        place.statement("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)");
        place.statement("INSERT INTO users (name) VALUES ('Ada'), ('Grace'), ('Edsger')");
        place.statement(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL, cents INTEGER)",
        );
        place
            .statement("INSERT INTO orders (user_id, cents) VALUES (1, 450), (1, NULL), (2, 990), (3, 1250)");
        place
    }

    /// The configuration of the shop with more lines at its end.
    pub(crate) fn configuration(&self, more: &str) -> String {
        format!(
            "[engines.shop]\nurl = \"sqlite:{}?mode=rwc\"\n[repository]\nurl = \"./backups\"\n{more}",
            self.path("shop.db").display()
        )
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn set(&mut self, variable: &str, value: &str) {
        self.env.insert(variable.to_owned(), value.to_owned());
    }

    #[track_caller]
    pub(crate) fn statement(&self, sql: &str) {
        self.dm(&["query", "--write", sql]).expect(Exit::Done);
    }

    /// Makes a backup and gives its id.
    #[track_caller]
    pub(crate) fn backup(&self, kind: &str) -> String {
        let ran = self.dm(&["backup", "run", "--kind", kind, "--json"]).expect(Exit::Done);
        ran.json()["backup_id"].as_str().unwrap().to_owned()
    }

    /// Runs `dm` with nobody at the terminal.
    pub(crate) fn dm(&self, args: &[&str]) -> Ran {
        self.program(Program::All, args, None)
    }

    /// Runs `dm` with somebody at the terminal who answers with these lines.
    pub(crate) fn dm_answering(&self, args: &[&str], answers: &str) -> Ran {
        self.program(Program::All, args, Some(answers))
    }

    pub(crate) fn program(&self, program: Program, args: &[&str], answers: Option<&str>) -> Ran {
        let (stdout, stderr) = (Shared::default(), Shared::default());
        let mut around = self.surroundings(program, args, Box::new(stdout.clone()), Box::new(stderr.clone()));
        if let Some(answers) = answers {
            around.stdin = Box::new(Cursor::new(answers.to_owned().into_bytes()));
            around.stdin_is_terminal = true;
        }
        let exit = run(program, around);
        Ran { exit, stdout: stdout.text(), stderr: stderr.text() }
    }

    /// Runs `dm` for a reader that went away.
    pub(crate) fn dm_into_closed_pipe(&self, args: &[&str]) -> (Exit, String) {
        let stderr = Shared::default();
        let around = self.surroundings(Program::All, args, Box::new(Closed), Box::new(stderr.clone()));
        (run(Program::All, around), stderr.text())
    }

    fn surroundings(
        &self,
        program: Program,
        args: &[&str],
        stdout: Box<dyn Write + Send>,
        stderr: Box<dyn Write + Send>,
    ) -> Surroundings {
        let name = match program {
            Program::All => "dm".to_owned(),
            Program::Task(task) => format!("dm-{task}"),
        };
        let line = std::iter::once(name).chain(args.iter().map(|a| (*a).to_owned()));
        let mut around = Surroundings::apart(line, self.folder.path(), stdout, stderr);
        around.env.clone_from(&self.env);
        around
    }
}

/// Every file below a folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Compares with the golden text, in which what differs from run to run is replaced.
macro_rules! golden {
    ($place:expr, $name:expr, $text:expr) => {{
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path("golden");
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        let folder = $place.path("");
        settings.add_filter(regex_escape(folder.to_str().unwrap()).as_str(), "[folder]/");
        settings.add_filter(r"data-manager/[0-9a-f-]+(\+[0-9a-f]{8}\+[0-9A-Za-z+/=]+)?", "[trail]");
        settings.add_filter(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "[id]");
        settings.add_filter(r"\b[0-9a-f]{8}-[0-9a-f]{4}\b", "[id]");
        settings.add_filter(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?Z", "[time]");
        settings.add_filter(r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}(\.\d+)? UTC", "[time]");
        settings.add_filter(r"\b\d{8}T\d{6}Z\b", "[stamp]");
        settings.add_filter(r"\.restore-[0-9a-f]{8}\b", ".restore-[n]");
        settings.add_filter(r"/\S*/dm-drill-[0-9a-f]{12}\b", "[scratch]/dm-drill-[n]");
        settings.add_filter(r"\d{4}-\d{2}-\d{2}\b", "[date]");
        settings.add_filter(r"\d{4}-W\d{2}\b", "[week]");
        settings.add_filter(r#"(monthly |"month": ")\d{4}-\d{2}\b"#, "$1[month]");
        settings.add_filter(r#"(yearly |"year": ")\d{4}\b"#, "$1[year]");
        settings.add_filter(r"[0-9a-f]{64}", "[digest]");
        settings.add_filter(r"[0-9a-f]{32}", "[digest]");
        settings.add_filter(r"age1[0-9a-z]{58}", "[public key]");
        settings.add_filter(
            r#""(\w*bytes|\w+_ms|\w+_us|bytes_per_second|size|free|objects|proof_age_s)": \d+"#,
            r#""$1": "[n]""#,
        );
        settings.add_filter(r"\d+(\.\d+)? (B|KiB|MiB|GiB|TiB)\b", "[size]");
        settings.add_filter(r"\b\d+(\.\d+)? (ms|s)\b", "[duration]");
        // What differs from machine to machine.
        settings.add_filter(r#"[^\s"]+ has \[size\] free"#, "[scratch] has [size] free");
        settings.add_filter(r"at \S+ for temporary files", "at [scratch] for temporary files");
        settings.add_filter(
            r"\d+ of \d+ connections in use, \d+ jobs",
            "[n] of [n] connections in use, [n] jobs",
        );
        settings.add_filter(r#""jobs": \d+"#, r#""jobs": "[n]""#);
        settings.add_filter(r#""text": "3\.\d+\.\d+""#, r#""text": "[version]""#);
        settings.add_filter(r"sqlite 3\.\d+\.\d+", "sqlite [version]");
        settings.add_filter(r#""engine_version": "3\.\d+\.\d+""#, r#""engine_version": "[version]""#);
        // Widths of columns follow from sizes.
        settings.add_filter(r"(\S)  +", "$1  ");
        settings.bind(|| insta::assert_snapshot!($name, $text));
    }};
}
pub(crate) use golden;

/// A text as a pattern that matches only itself.
pub(crate) fn regex_escape(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_alphanumeric() || c == '/' { vec![c] } else { vec!['\\', c] }).collect()
}
