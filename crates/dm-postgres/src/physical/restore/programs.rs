//! The server's own programs, and the user that they run as.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use dm_core::{EngineKind, Error, ErrorKind, OpContext, Result};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::tools::{self, Finished};

/// An installation of the server. Unlike client programs it must be of the very major version that wrote the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Programs {
    folder: PathBuf,
    pub(super) version: String,
}

impl Programs {
    /// Looks for a major: in the named folder alone when one is named, else where the engine's client programs are, on
    /// `PATH` and where distributions put versions side by side.
    ///
    /// # Errors
    /// `Unsupported`, with what was found instead and the way out.
    pub(super) async fn find(
        ctx: &OpContext,
        named: Option<&Path>,
        likely: Option<&Path>,
        major: u32,
    ) -> Result<Self> {
        let folders = match named {
            Some(folder) => vec![folder.to_owned()],
            None => likely.map(Path::to_owned).into_iter().chain(tools::usual_folders()).collect(),
        };
        let mut others = Vec::new();
        for folder in folders {
            let server = folder.join("postgres");
            if !server.is_file() || !folder.join("pg_controldata").is_file() {
                continue;
            }
            match tools::version_of(ctx, &server).await {
                Ok((found, version)) if found == major => return Ok(Self { folder, version }),
                Ok((found, _)) => others.push(format!("{found} in {}", folder.display())),
                Err(error) if named.is_some() => return Err(error),
                Err(error) => {
                    ctx.check()?;
                    tracing::debug!(%error, program = %server.display(), "not a usable server");
                }
            }
        }
        others.dedup();
        let found = match (others.is_empty(), named) {
            (false, _) => format!("; found were {}", others.join(", ")),
            (true, Some(folder)) => format!(" in {}", folder.display()),
            (true, None) => String::new(),
        };
        Err(Error::unsupported(format!(
            "the programs of a PostgreSQL {major} server are not there{found}"
        ))
        .with_hint(format!(
            "install postgresql-{major}, or name the folder of its programs with --set bin_dir=...; without them a \
             restore can only be written unchecked (checks none)"
        ))
        .on_engine(EngineKind::Postgres))
    }

    pub(super) fn path(&self, program: &str) -> PathBuf {
        self.folder.join(program)
    }

    /// Whether this installation has a program.
    pub(super) fn has(&self, program: &str) -> bool {
        self.path(program).is_file()
    }

    /// A program that runs as a user, with nothing of our own surroundings that PostgreSQL would listen to.
    pub(super) fn command(&self, program: &str, user: Option<&RunAs>) -> Command {
        let mut command = Command::new(self.path(program));
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("PG") {
                command.env_remove(key);
            }
        }
        command.env("LC_ALL", "C").env("TZ", "UTC").current_dir("/").stdin(Stdio::null()).kill_on_drop(true);
        if let Some(user) = user {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    /// Runs a program to its end.
    pub(super) async fn run(
        &self,
        ctx: &OpContext,
        program: &'static str,
        user: Option<&RunAs>,
        arguments: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>,
    ) -> Result<Finished> {
        let mut command = self.command(program, user);
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        tools::run(ctx, program, command).await
    }
}

/// The user that owns the files and runs the server, where that is not the one we run as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunAs {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl RunAs {
    /// Who it will be. PostgreSQL refuses to run as root, so root hands over: to the user that is asked for, to the owner
    /// of the folder, or to `postgres`.
    ///
    /// # Errors
    /// `NotFound` for a user that does not exist; `Denied` when somebody else is asked for and we are not root.
    pub(super) async fn find(ctx: &OpContext, asked: Option<&str>, parent: &Path) -> Result<Option<Self>> {
        let own = rustix::process::geteuid();
        if !own.is_root() {
            return match asked {
                None => Ok(None),
                Some(name) => match Self::look_up(ctx, name).await? {
                    user if user.uid == own.as_raw() => Ok(None),
                    _ => Err(Error::new(ErrorKind::Denied, format!("only root can restore as {name}"))
                        .with_hint("run the restore as that user, or leave out run_as")),
                },
            };
        }
        if let Some(name) = asked {
            let user = Self::look_up(ctx, name).await?;
            return match user.uid {
                0 => Err(Error::invalid("PostgreSQL does not run as root")
                    .with_hint("name another user with --set run_as=...")),
                _ => Ok(Some(user)),
            };
        }
        if let Ok(metadata) = std::fs::metadata(parent)
            && metadata.uid() != 0
        {
            let (uid, gid) = (metadata.uid(), metadata.gid());
            let name =
                id(ctx, &["-n", "-u", "--", &uid.to_string()]).await.unwrap_or_else(|_| uid.to_string());
            return Ok(Some(Self { name, uid, gid }));
        }
        Self::look_up(ctx, "postgres").await.map(Some).map_err(|e| {
            e.with_hint("PostgreSQL does not run as root: name the user that shall own the files with --set run_as=...")
        })
    }

    async fn look_up(ctx: &OpContext, name: &str) -> Result<Self> {
        let number = async |flag: &'static str| {
            let text = id(ctx, &[flag, "--", name]).await?;
            text.parse().map_err(|_| Error::internal(format!("id does not give a number but \"{text}\"")))
        };
        Ok(Self { name: name.to_owned(), uid: number("-u").await?, gid: number("-g").await? })
    }

    /// Whether the user can get into a folder.
    pub(super) async fn enters(&self, ctx: &OpContext, folder: &Path) -> Result<bool> {
        let mut command = Command::new("test");
        command.arg("-x").arg(folder).uid(self.uid).gid(self.gid).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        Ok(tools::run(ctx, "test", command).await?.success)
    }
}

/// The system's own answer: users may come from elsewhere than a file.
async fn id(ctx: &OpContext, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("id");
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let finished = tools::run(ctx, "id", command).await?;
    match finished.success {
        true => Ok(String::from_utf8_lossy(&finished.stdout).trim().to_owned()),
        false => Err(Error::not_found(format!("there is no user {}", arguments.last().unwrap_or(&"")))),
    }
}
