//! Settings of the server that recovers, and of the one that only answers questions.

use std::collections::BTreeMap;
use std::path::Path;

use chrono::{DateTime, Utc};
use dm_core::{Error, OpContext, RecoveryPoint, Result};

use super::place::failed;
use super::plan::Plan;
use super::programs::Programs;
use super::wal::{history_name, lsn};

/// What `pg_controldata` says of a data directory.
#[derive(Clone, Debug)]
pub(super) struct Control(BTreeMap<String, String>);

impl Control {
    pub(super) async fn read(ctx: &OpContext, programs: &Programs, plan: &Plan, data: &Path) -> Result<Self> {
        let finished = programs
            .run(ctx, "pg_controldata", plan.user.as_ref(), [data])
            .await?
            .or_fail("pg_controldata")?;
        let text = String::from_utf8_lossy(&finished.stdout).into_owned();
        let pairs = text.lines().filter_map(|l| l.split_once(':'));
        Ok(Self(pairs.map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned())).collect()))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn is_shut_down(&self) -> bool {
        self.get("Database cluster state") == Some("shut down")
    }

    /// The timeline of the last checkpoint.
    pub(super) fn timeline(&self) -> Result<u32> {
        self.get("Latest checkpoint's TimeLineID")
            .and_then(|t| t.parse().ok())
            .ok_or_else(|| Error::internal("pg_controldata does not tell the timeline"))
    }

    /// The settings that a server which replays this cluster's log must have at least as high.
    pub(super) fn limits(&self) -> Vec<(&'static str, String)> {
        [
            ("max_connections", "max_connections setting"),
            ("max_worker_processes", "max_worker_processes setting"),
            ("max_wal_senders", "max_wal_senders setting"),
            ("max_prepared_transactions", "max_prepared_xacts setting"),
            ("max_locks_per_transaction", "max_locks_per_xact setting"),
            ("wal_level", "wal_level setting"),
        ]
        .into_iter()
        .filter_map(|(name, line)| Some((name, self.get(line)?.to_owned())))
        .collect()
    }
}

/// What keeps the restored server to itself, whatever its configuration says.
pub(super) fn quiet(major: u32, libraries: Option<&str>) -> Vec<(String, String)> {
    let mut settings = vec![
        ("listen_addresses", ""),
        ("unix_socket_permissions", "0700"),
        ("external_pid_file", ""),
        ("ssl", "off"),
        ("bonjour", "off"),
        ("archive_mode", "off"),
        ("primary_conninfo", ""),
        ("primary_slot_name", ""),
        ("recovery_end_command", ""),
        ("archive_cleanup_command", ""),
        ("synchronous_standby_names", ""),
        // Subscriptions would go on where the source is, and take its changes away from it.
        ("max_logical_replication_workers", "0"),
        ("session_preload_libraries", ""),
        ("local_preload_libraries", ""),
        // Made durable once, at the end.
        ("fsync", "off"),
        ("autovacuum", "off"),
        ("shared_buffers", "128MB"),
        ("huge_pages", "off"),
        ("logging_collector", "off"),
        ("log_destination", "stderr"),
        ("log_min_messages", "warning"),
        ("log_line_prefix", ""),
        ("log_timezone", "UTC"),
        ("log_statement", "none"),
        ("log_min_duration_statement", "-1"),
        ("log_startup_progress_interval", "1s"),
        ("lc_messages", "C"),
        ("restart_after_crash", "off"),
    ];
    if major >= 17 {
        settings.extend([("summarize_wal", "off"), ("event_triggers", "off")]);
    }
    settings.push(("shared_preload_libraries", libraries.unwrap_or("")));
    settings.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}

/// Where recovery ends. Every kind of target is named, for a configuration that came along may have one.
pub(super) fn target(plan: &Plan, data: &Path, with_target: bool) -> Vec<(String, String)> {
    let mut settings: Vec<(String, String)> = ["", "_time", "_lsn", "_name", "_xid"]
        .iter()
        .map(|kind| (format!("recovery_target{kind}"), String::new()))
        .collect();
    let mut set = |name: &str, value: String| settings.push((name.to_owned(), value));
    set("hot_standby", "off".to_owned());
    // The log lies in the directory already: whatever is not there does not exist.
    set("restore_command", plan.restore_command.clone().unwrap_or_else(|| "exit 1".to_owned()));
    set("recovery_target_timeline", timeline(plan, data));
    set("recovery_target_action", "promote".to_owned());
    set("recovery_target_inclusive", if plan.exclusive { "off" } else { "on" }.to_owned());
    if let (Some((name, value)), true) = (point(&plan.until), with_target) {
        set(name, value);
    }
    settings
}

fn timeline(plan: &Plan, data: &Path) -> String {
    match (&plan.log, &plan.timeline) {
        (Some(log), _) => {
            let number = log.timeline();
            // A server asks for the record of every timeline but the first.
            match number == 1 || data.join("pg_wal").join(history_name(number)).exists() {
                true => number.to_string(),
                false => "current".to_owned(),
            }
        }
        (None, Some(asked)) => asked.clone(),
        (None, None) if plan.until == RecoveryPoint::Backup => "current".to_owned(),
        (None, None) => "latest".to_owned(),
    }
}

fn point(until: &RecoveryPoint) -> Option<(&'static str, String)> {
    Some(match until {
        RecoveryPoint::Backup => ("recovery_target", "immediate".to_owned()),
        RecoveryPoint::End => return None,
        RecoveryPoint::Time(at) => ("recovery_target_time", timestamp(*at)),
        RecoveryPoint::Position(position) => ("recovery_target_lsn", position.trim().to_owned()),
        RecoveryPoint::Name(name) => ("recovery_target_name", name.clone()),
        RecoveryPoint::Transaction(id) => ("recovery_target_xid", id.clone()),
    })
}

fn timestamp(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S%.6f+00").to_string()
}

/// The lines for whoever starts an unchecked directory by hand.
pub(super) fn lines_by_hand(plan: &Plan, data: &Path) -> String {
    let mut text =
        String::from("# dm restore: recovery settings, take these lines out after the first start\n");
    for (name, value) in target(plan, data, true) {
        let needless = value.is_empty() || name == "hot_standby";
        if !needless {
            text.push_str(&format!("{name} = '{}'\n", value.replace('\\', "\\\\").replace('\'', "''")));
        }
    }
    text.push_str("# dm restore: end\n");
    text
}

/// A configuration for a source that keeps its own elsewhere.
pub(super) fn minimal_configuration(control: Option<&Control>) -> String {
    let mut text = String::from(
        "# Written by dm restore: the source keeps its configuration outside of the data directory.\n",
    );
    for (name, value) in control.map(Control::limits).unwrap_or_default() {
        text.push_str(&format!("{name} = '{value}'\n"));
    }
    text
}

/// Rules of access for the same case: only who has the files gets in.
pub(super) const MINIMAL_HBA: &str = "# Written by dm restore: the source keeps its rules outside of the data directory.\nlocal all all peer\n";

/// The position at which a timeline branched off its parent, out of its record in the log's folder.
pub(super) fn branch(data: &Path, timeline: u32) -> Result<Option<(u32, u64)>> {
    if timeline < 2 {
        return Ok(None);
    }
    let path = data.join("pg_wal").join(history_name(timeline));
    let bytes = std::fs::read(&path).map_err(|e| failed(&path, "read", e))?;
    Ok(super::wal::parse_history(timeline, &bytes)?.last().map(|a| (a.timeline, a.until)))
}

/// The error for a log that recovery took for ended before it was.
pub(super) fn short(reached: u64, expected: u64) -> Error {
    Error::corrupt(format!(
        "the log is damaged at {}: it is recorded up to {}, and nothing behind the damage could be replayed",
        lsn(reached),
        lsn(expected)
    ))
    .with_hint("restore to a point before the damage, or from a later backup")
}
