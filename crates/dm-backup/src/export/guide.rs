//! What stands beside the files: how to load them with nothing but the engine's own tools.

use std::fmt::Write;

use dm_core::{ByteSize, MemberKind};
use dm_repository::BackupHeader;

use super::files::{FilePlan, is_text_rows};
use super::{ExportFormat, ExportedFile};

/// How the tar files become a cluster.
const TARS: &str = "\
1. Make an empty folder for the cluster, mode 0700, owned by the user that the server runs as; as that user:
   tar -xf base.tar -C FOLDER && tar -xf pg_wal.tar -C FOLDER/pg_wal
2. For each tablespace: tar -xf OID.tar -C ITS_FOLDER. If it is not where it was, put the new folder into
   FOLDER/tablespace_map (a line is: oid, blank, folder).
3. outside.tar has configuration files that lay outside of the cluster's folder; put them where your server looks for them.
4. Start the server: it recovers to the moment of the backup by itself. Do not remove backup_label.
";

/// A psql script that loads the rows; `None` when there are no text rows.
pub(super) fn restore_sql(plans: &[FilePlan]) -> Option<String> {
    let mut script = String::from(
        "-- Loads the rows of this export. Create the tables first; see README.txt.\n\
         -- Run it in this folder: psql -d <database> -f restore.sql\n\
         \\set ON_ERROR_STOP on\n\
         SET session_replication_role = replica; -- no triggers, no foreign key checks while loading\n",
    );
    let mut any = false;
    for plan in plans {
        let Some((member, _)) = plan.members.first().filter(|(m, _)| is_text_rows(m)) else { continue };
        let Some(table) = &plan.table else { continue };
        any = true;
        let text = |name: &str| member.attributes.get(name).and_then(|v| v.as_str());
        let table = match (text("schema"), text("name")) {
            (Some(schema), Some(name)) => format!("{}.{}", quoted(schema), quoted(name)),
            _ => table.clone(),
        };
        let columns: Vec<String> = member
            .attributes
            .get("columns")
            .and_then(|c| c.as_array())
            .map(|list| list.iter().filter_map(|c| c.as_str()).map(quoted).collect())
            .unwrap_or_default();
        let columns = if columns.is_empty() { String::new() } else { format!(" ({})", columns.join(", ")) };
        // A backslash command ends with its line, whatever is quoted in it.
        if table.chars().chain(columns.chars()).any(char::is_control) {
            let _ = writeln!(script, "-- {}: a name has control characters, load it by hand", plan.path);
            continue;
        }
        let _ = writeln!(script, "\\copy {table}{columns} FROM '{}'", plan.path);
    }
    script.push_str("RESET session_replication_role;\nANALYZE;\n");
    any.then_some(script)
}

fn quoted(column: &str) -> String {
    format!("\"{}\"", column.replace('"', "\"\""))
}

/// What is here and what to do with it.
pub(super) fn readme(backup: &BackupHeader, files: &[ExportedFile], format: ExportFormat) -> String {
    let mut text = format!(
        "Backup {} of {} ({} {}, {} {}), as of {}.\n\nNothing but the engine's own tools is needed to load it.\n\n",
        backup.id,
        backup.target,
        backup.engine,
        backup.engine_version.text,
        backup.kind,
        backup.mode,
        backup.consistency.at.to_rfc3339()
    );
    if format == ExportFormat::BaseTar {
        text.push_str(TARS);
        return with_list(text, files);
    }
    let has = |kind| files.iter().any(|f| f.kind == kind);
    let steps = [
        (MemberKind::Globals, "Roles: run the globals file with psql, as a superuser."),
        (
            MemberKind::Schema,
            "Tables: a .dump file goes through pg_restore (--section=pre-data before the rows, --section=post-data\n\
             after them); a .sql file is run as it is.",
        ),
        (MemberKind::Rows, "Rows: in this folder, psql -d <database> -f restore.sql."),
        (MemberKind::Sequences, "Sequences: their file holds the value of each; give it to setval()."),
        (
            MemberKind::LargeObjects,
            "Large objects: their file holds their contents; restore the backup itself where they matter.",
        ),
        (MemberKind::File, "Files: a database file opens as it is; copy it to where it belongs."),
    ];
    for (number, (_, step)) in steps.iter().filter(|(kind, _)| has(*kind)).enumerate() {
        let _ = writeln!(text, "{}. {step}", number + 1);
    }
    with_list(text, files)
}

fn with_list(mut text: String, files: &[ExportedFile]) -> String {
    text.push_str("\nFiles:\n");
    for file in files {
        let _ = writeln!(text, "  {}  ({})", file.path, ByteSize(file.bytes));
    }
    text.push_str("\nmanifest.json says the same for programs; an export without it was not finished.\n");
    text
}
