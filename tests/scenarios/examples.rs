//! The examples, run as their heads say: whoever copies one gets what works.

use std::path::{Path, PathBuf};
use std::process::Command;

use dm_testkit::postgres::{Options, Place as Ground, Server};
use dm_testkit::{Unavailable, require};

/// A program that cargo has built beside the tests.
fn example(name: &str) -> Result<PathBuf, Unavailable> {
    let own = std::env::current_exe().unwrap();
    let path = own.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    match path.is_file() {
        true => Ok(path),
        false => {
            Err(Unavailable::Missing(format!("the example {name} is not built (cargo build --examples)")))
        }
    }
}

/// Runs it to its good end; gives what it printed.
fn printed(mut command: Command) -> String {
    let ran = command.output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{}\n{said}{}", ran.status, String::from_utf8_lossy(&ran.stderr));
    said
}

#[test]
fn drill_in_cron() {
    let program = require!(example("drill_in_cron"));
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(program);
    command.current_dir(folder.path()).env_remove("DATABASE_URL");
    let said = printed(command);
    assert!(said.contains("there are orders: 3, expected >= 3: ok"), "{said}");
}

#[test]
fn record_changes() {
    let program = require!(example("record_changes"));
    let said = printed(Command::new(program));
    assert!(said.contains("2 changes taken over") && said.contains("change:update by app:alice"), "{said}");
    assert!(said.contains("internally consistent") && !said.contains("4222"), "{said}");
}

#[test]
fn migrate_at_start() {
    let said = printed(Command::new(require!(example("migrate_at_start"))));
    let expected =
        ["applied 20260101090000 users", "applied 20260102090000 unique email", "at the next start: 0"];
    assert!(expected.iter().all(|line| said.contains(line)), "{said}");
}

#[tokio::test]
async fn point_in_time_recovery() {
    let program = require!(example("point_in_time_recovery"));
    let server = require!(Server::private(15, &Options::physical(15)));
    let ground = require!(Ground::new("example"));
    let folder = tempfile::tempdir().unwrap();
    server.psql("CREATE TABLE t AS SELECT generate_series(1, 100) i").await.unwrap();
    let mut command = Command::new(program);
    command
        .current_dir(folder.path())
        .env("DATABASE_URL", server.url("postgres"))
        .env("RESTORE_TO", ground.join("copy"));
    let said = printed(command);
    assert!(said.contains("recovery point") && !said.contains("ALARM"), "{said}");
    let copy =
        Server::on_directory(15, &ground.join("copy"), server.password(), &Options::physical(15)).unwrap();
    assert_eq!(copy.psql("SELECT count(*) FROM t").await.unwrap(), "100");
}
