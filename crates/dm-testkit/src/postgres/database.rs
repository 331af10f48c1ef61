//! Databases and roles of a server, through psql: the harness needs no driver.

use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;

use super::Install;
use crate::Failure;

/// How a server is reached.
#[derive(Clone, Debug)]
pub(super) struct Access {
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) password: String,
}

impl Access {
    pub(super) fn url(&self, database: &str) -> String {
        let user = percent(&self.user);
        let password = percent(&self.password);
        format!("postgres://{user}:{password}@127.0.0.1:{}/{}", self.port, percent(database))
    }
}

/// A role that may log in.
#[derive(Clone, Debug)]
pub struct Role {
    /// Its name; needs no quotes.
    pub name: String,
    /// Its password.
    pub password: String,
}

/// A database of one test. Dropped, together with whoever is connected, when the value goes.
#[derive(Debug)]
pub struct TestDatabase {
    access: Access,
    install: Install,
    name: String,
}

impl TestDatabase {
    /// The superuser's URL.
    #[must_use]
    pub fn url(&self) -> String {
        self.access.url(&self.name)
    }

    /// A role's URL.
    #[must_use]
    pub fn url_as(&self, role: &Role) -> String {
        let access = Access { user: role.name.clone(), password: role.password.clone(), ..self.access };
        access.url(&self.name)
    }

    /// Another database of the same server, as the superuser.
    #[must_use]
    pub fn url_of(&self, database: &str) -> String {
        self.access.url(database)
    }

    /// The database's name; needs no quotes.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder of the server's own client programs.
    #[must_use]
    pub fn bin_dir(&self) -> &Path {
        self.install.bin_dir()
    }

    /// The server's major version.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.install.major()
    }

    /// Runs SQL (or psql commands) as the superuser; gives what psql printed, unaligned, without headers, fields
    /// parted by `|`. Stops at the first error.
    ///
    /// # Errors
    /// With what psql said.
    pub async fn psql(&self, sql: &str) -> Result<String, Failure> {
        psql(&self.install, &self.access, &self.name, sql).await
    }

    /// The same in another database of the server.
    ///
    /// # Errors
    /// As [`psql`](Self::psql).
    pub async fn psql_in(&self, database: &str, sql: &str) -> Result<String, Failure> {
        psql(&self.install, &self.access, database, sql).await
    }

    /// The same as a role.
    ///
    /// # Errors
    /// As [`psql`](Self::psql).
    pub async fn psql_as(&self, role: &Role, sql: &str) -> Result<String, Failure> {
        let access = Access { user: role.name.clone(), password: role.password.clone(), ..self.access };
        psql(&self.install, &access, &self.name, sql).await
    }

    /// Fills the database with `pgbench -i` at this scale (100,000 accounts each).
    ///
    /// # Errors
    /// With what pgbench said; also when the major comes without pgbench.
    pub async fn pgbench(&self, scale: u32) -> Result<(), Failure> {
        let mut command = self.program("pgbench");
        command.args(["-i", "-q", "-s"]).arg(scale.to_string()).stdout(Stdio::null());
        let output = command.output().await.map_err(|e| Failure(format!("cannot run pgbench: {e}")))?;
        if output.status.success() {
            return Ok(());
        }
        Err(Failure(format!("pgbench failed: {}", String::from_utf8_lossy(&output.stderr))))
    }

    /// A client program of the server's major, with the connection to this database in its environment.
    #[must_use]
    pub fn program(&self, name: &str) -> tokio::process::Command {
        client(&self.install, name, &self.access, &self.name)
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        // Best effort: the server is thrown away anyway, this only keeps it small. It may be stopped by now.
        let mut command = client(&self.install, "psql", &self.access, "postgres").into_std();
        let _ = command
            .args(["-X", "-q", "-c"])
            .arg(format!("DROP DATABASE IF EXISTS \"{}\" WITH (FORCE)", self.name))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

pub(super) async fn create(access: Access, install: &Install, name: &str) -> Result<TestDatabase, Failure> {
    let name = unique(name);
    psql(install, &access, "postgres", &format!("CREATE DATABASE \"{name}\"")).await?;
    Ok(TestDatabase { access, install: install.clone(), name })
}

pub(super) async fn create_role(
    access: &Access,
    install: &Install,
    name: &str,
    attributes: &str,
) -> Result<Role, Failure> {
    let role = Role { name: unique(name), password: format!("{:032x}", rand::random::<u128>()) };
    let sql = format!("CREATE ROLE \"{}\" LOGIN PASSWORD '{}' {attributes}", role.name, role.password);
    psql(install, access, "postgres", &sql).await?;
    Ok(role)
}

pub(super) async fn psql(
    install: &Install,
    access: &Access,
    database: &str,
    sql: &str,
) -> Result<String, Failure> {
    let failed = |e: std::io::Error| Failure(format!("cannot run psql: {e}"));
    let mut child = client(install, "psql", access, database)
        .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // psql stops reading at the first error; its exit status says what happened, not this pipe.
            let _ = stdin.write_all(sql.as_bytes()).await;
        }
    };
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    let output = output.map_err(failed)?;
    if output.status.success() {
        let text = String::from_utf8_lossy(&output.stdout);
        return Ok(text.trim_end_matches('\n').to_owned());
    }
    Err(Failure(format!("psql: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

pub(super) fn client(
    install: &Install,
    name: &str,
    access: &Access,
    database: &str,
) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(install.program(name));
    for variable in ["PGOPTIONS", "PGSERVICE", "PGSSLMODE", "PGPASSFILE", "PGHOSTADDR"] {
        command.env_remove(variable);
    }
    command
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", access.port.to_string())
        .env("PGUSER", &access.user)
        .env("PGPASSWORD", &access.password)
        .env("PGDATABASE", database)
        .env("PGCLIENTENCODING", "UTF8")
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null());
    command
}

/// A name that needs no quotes, from any text, that nobody else has.
fn unique(name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' })
        .take(40)
        .collect();
    format!("t_{plain}_{:012x}", rand::random::<u64>() >> 16)
}

fn percent(text: &str) -> String {
    text.bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~') {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}
