//! One server for all tests: of a process, or of a whole run of `scripts/test`.
//!
//! A runner that gives each test its own process would make a cluster for each test. So `scripts/test` names a folder
//! in `DM_TEST_SHARED_DIR` and keeps its file `alive` locked; the first process that needs a major starts it there and
//! writes down how to reach it, the others read that.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use serde_json::json;

use super::server::broken;
use super::{Install, Options, Server};
use crate::throwaway::{Folder, Servant};
use crate::{Failure, Unavailable};

type Answers = BTreeMap<u32, Result<&'static Server, Unavailable>>;

static SERVERS: LazyLock<Mutex<Answers>> = LazyLock::new(Mutex::default);

pub(super) fn server(major: u32) -> Result<&'static Server, Unavailable> {
    let mut servers = SERVERS.lock().unwrap_or_else(PoisonError::into_inner);
    servers
        .entry(major)
        // Leaked on purpose: it lives as long as the process, and the watchdog ends it.
        .or_insert_with(|| start(major).map(|server| &*Box::leak(Box::new(server))))
        .clone()
}

fn start(major: u32) -> Result<Server, Unavailable> {
    let install = Install::find(major)?;
    let servant = Servant::find()?;
    match std::env::var_os("DM_TEST_SHARED_DIR") {
        Some(dir) => of_the_run(install, servant, &PathBuf::from(dir)).map_err(broken),
        None => {
            let folder = Folder::new(&format!("pg{major}"), servant).map_err(broken)?;
            Server::create(install, folder, &Options::default()).map_err(broken)
        }
    }
}

fn of_the_run(install: Install, servant: Option<Servant>, dir: &Path) -> Result<Server, Failure> {
    let major = install.major();
    let io = |e: std::io::Error| Failure(format!("the shared folder {}: {e}", dir.display()));
    let turn = File::create(dir.join(format!("pg{major}.lock"))).map_err(io)?;
    turn.lock().map_err(io)?;
    let note = dir.join(format!("pg{major}.json"));
    if let Ok(text) = fs::read_to_string(&note) {
        return attach(install, &text).ok_or_else(|| Failure(format!("{} is not readable", note.display())));
    }
    let folder = Folder::kept_by(&dir.join("alive"), &format!("pg{major}"), servant)?;
    let server = Server::create(install, folder, &Options::default())?;
    let home = server.home().ok_or_else(|| Failure("a new server has a folder".into()))?;
    let text = json!({ "port": server.port(), "password": server.password(), "home": home });
    let draft = note.with_extension("draft");
    fs::write(&draft, text.to_string()).map_err(io)?;
    fs::rename(&draft, &note).map_err(io)?;
    Ok(server)
}

fn attach(install: Install, text: &str) -> Option<Server> {
    let note: serde_json::Value = serde_json::from_str(text).ok()?;
    let port = u16::try_from(note["port"].as_u64()?).ok()?;
    Some(Server::attach(
        install,
        port,
        note["password"].as_str()?.to_owned(),
        Path::new(note["home"].as_str()?),
    ))
}
