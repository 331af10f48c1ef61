//! A pooler in front of a server: pgbouncer.

use std::fs;

use super::server::{SUPERUSER, broken};
use super::{Server, database};
use crate::throwaway::{Folder, Servant, find_program, free_port, wait_for_port};
use crate::{Failure, Unavailable};

/// How long a client keeps the server's connection that it was lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lending {
    /// For as long as it is connected.
    Session,
    /// For a transaction.
    Transaction,
}

/// A running pgbouncer. Ends with the value, or with the process.
#[derive(Debug)]
pub struct Pooler {
    access: database::Access,
    _folder: Folder,
}

impl Pooler {
    /// Starts one on a free loopback port, for all databases of the server and its superuser.
    ///
    /// # Errors
    /// [`Unavailable`]: missing or broken.
    pub fn start(server: &Server, lending: Lending) -> Result<Self, Unavailable> {
        let program = find_program("DM_TEST_PGBOUNCER", "pgbouncer/usr/sbin/pgbouncer", "pgbouncer")?;
        let servant = Servant::find()?;
        let mut said = String::new();
        for _ in 0..4 {
            let folder = Folder::new("pgbouncer", servant).map_err(broken)?;
            let port = free_port().map_err(broken)?;
            let users = folder.path().join("users.txt");
            let configuration = folder.path().join("pgbouncer.ini");
            let mode = match lending {
                Lending::Session => "session",
                Lending::Transaction => "transaction",
            };
            let text = format!(
                "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
                 unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\npool_mode = {mode}\n\
                 ignore_startup_parameters = extra_float_digits,options\n",
                server.port(),
                users.display()
            );
            let write = |path, text: String| {
                fs::write(path, text).map_err(|e| broken(Failure(format!("cannot write for pgbouncer: {e}"))))
            };
            // The folder is closed to everybody else.
            write(&users, format!("\"{SUPERUSER}\" \"{}\"\n", server.password()))?;
            write(&configuration, text)?;
            folder
                .watch(&[program.display().to_string(), configuration.display().to_string()], true)
                .map_err(broken)?;
            if wait_for_port(port, || folder.watched_is_dead()) {
                let access = database::Access {
                    port,
                    user: SUPERUSER.to_owned(),
                    password: server.password().to_owned(),
                };
                return Ok(Self { access, _folder: folder });
            }
            said = folder.output();
        }
        Err(Unavailable::broken(format!("pgbouncer does not start: {said}")))
    }

    /// The superuser's URL of a database, through the pooler.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.access.url(database)
    }
}
