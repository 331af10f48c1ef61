//! Everything that a program touches outside itself, as one value.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, BufWriter, IsTerminal, Write};
use std::path::PathBuf;

/// Arguments, environment, working folder and streams.
pub struct Surroundings {
    /// The command line, the program's own name first.
    pub args: Vec<OsString>,
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// The working folder, which relative paths start from.
    pub folder: PathBuf,
    /// Where answers come from.
    pub stdin: Box<dyn BufRead + Send>,
    /// Where data goes.
    pub stdout: Box<dyn Write + Send>,
    /// Where everything else goes.
    pub stderr: Box<dyn Write + Send>,
    /// Whether somebody sits at stdin.
    pub stdin_is_terminal: bool,
    /// Whether stdout is looked at.
    pub stdout_is_terminal: bool,
    /// Whether stderr is looked at.
    pub stderr_is_terminal: bool,
    pub(crate) owns_process: bool,
}

impl Surroundings {
    /// The process's own. Environment variables that are no Unicode are left out: no setting can be one.
    #[must_use]
    pub fn of_process() -> Self {
        let mut env: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .collect();
        // The audit trail should name who the kernel says it is, not what a variable says.
        if let Some(user) = user_of_process() {
            env.insert("USER".to_owned(), user);
        }
        Self {
            args: std::env::args_os().collect(),
            env,
            folder: std::env::current_dir().unwrap_or_else(|_| PathBuf::from(".")),
            stdin: Box::new(BufReader::new(std::io::stdin())),
            stdout: Box::new(BufWriter::new(std::io::stdout())),
            stderr: Box::new(std::io::stderr()),
            stdin_is_terminal: std::io::stdin().is_terminal(),
            stdout_is_terminal: std::io::stdout().is_terminal(),
            stderr_is_terminal: std::io::stderr().is_terminal(),
            owns_process: true,
        }
    }

    /// A place apart: nobody at the terminal, an empty environment, nothing to read; neither signals nor the
    /// process's logging are touched.
    #[must_use]
    pub fn apart(
        args: impl IntoIterator<Item = impl Into<OsString>>,
        folder: impl Into<PathBuf>,
        stdout: Box<dyn Write + Send>,
        stderr: Box<dyn Write + Send>,
    ) -> Self {
        Self {
            args: args.into_iter().map(Into::into).collect(),
            env: BTreeMap::new(),
            folder: folder.into(),
            stdin: Box::new(std::io::empty()),
            stdout,
            stderr,
            stdin_is_terminal: false,
            stdout_is_terminal: false,
            stderr_is_terminal: false,
            owns_process: false,
        }
    }
}

/// The name of the process's effective user, or `uid <n>` for one without a name.
fn user_of_process() -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let uid = std::fs::metadata("/proc/self").ok()?.uid();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse::<u32>().ok()? == uid).then(|| name.to_owned())
    });
    Some(named.unwrap_or_else(|| format!("uid {uid}")))
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The environment and the arguments may hold secrets.
        f.debug_struct("Surroundings").field("folder", &self.folder).finish_non_exhaustive()
    }
}
