//! `dm status`: one page, the verdict first.

use std::time::Duration;

use data_manager::backup::TargetLog;
use data_manager::{DataManager, ProofKind, RecoveryProof, Result, StatusReport, TargetStatus, Verdict};

use super::backup::short;
use crate::exit::Exit;
use crate::output::text;
use crate::session::Session;

pub(crate) async fn run(session: &mut Session, dm: &DataManager) -> Result<Exit> {
    let ctx = session.quiet_context(dm);
    let report = dm.status(&ctx).await?;
    session.out.document("status", &[("status", &report)])?;
    tell(session, &report)?;
    Ok(match report.verdict {
        Verdict::Proven | Verdict::Protected => Exit::Done,
        Verdict::AtRisk | Verdict::Unprotected => Exit::CheckFailed,
    })
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Proven => "PROVEN: there is a recent backup, and a restore was proven equal",
        Verdict::Protected => "PROTECTED: there is a recent backup that nobody has restored yet",
        Verdict::AtRisk => "AT RISK: something is wrong with the backups",
        Verdict::Unprotected => "UNPROTECTED: there is no backup",
    }
}

fn tell(session: &mut Session, report: &StatusReport) -> Result<()> {
    session.out.heading(word(report.verdict))?;
    for target in &report.targets {
        session.out.say("")?;
        session.out.heading(target.target.as_str())?;
        tell_target(session, report, target)?;
    }
    let audit = &report.audit;
    let degraded = audit.anchors.iter().any(|a| a.failure.is_some()) || audit.unsigned.is_some();
    if degraded || !audit.anchors.is_empty() {
        session.out.say("")?;
        session.out.heading(if degraded { "audit trail: DEGRADED" } else { "audit trail" })?;
        if let Some(why) = &audit.unsigned {
            session.out.say(format!("  - not signed: {}", text::printable(why)))?;
        }
        for anchor in &audit.anchors {
            let has = match anchor.at {
                Some(at) => format!("{} lines, {}", anchor.size, text::ago(report.at, at)),
                None => "nothing yet".to_owned(),
            };
            let failure =
                anchor.failure.as_ref().map_or_else(String::new, |why| format!(", and fails now: {why}"));
            session.out.say(format!("  - {} has {has}{}", anchor.anchor, text::printable(&failure)))?;
        }
    }
    for place in &report.places {
        session.out.say("")?;
        session.out.heading(&format!("copy {} ({})", place.place, place.location))?;
        let lacks = match place.missing {
            0 => "nothing".to_owned(),
            n => format!("{}: run \"dm backup copy\"", text::count(n, "backup")),
        };
        session.out.facts(&[("backups", text::grouped(place.backups)), ("lacks", lacks)])?;
        for problem in &place.problems {
            session.out.say(format!("  - {}", text::printable(problem)))?;
        }
    }
    if let Some(keys) = &report.keys {
        session.out.say("")?;
        session.out.heading(&format!("keys, generation {} of recipients", keys.generation))?;
        let behind = match (keys.backups_behind, keys.log_keys_behind) {
            (0, 0) => "everything can be read by every recipient".to_owned(),
            (backups, log_keys) => format!(
                "{} of {} and {} cannot be read by every recipient: run \"dm backup key rewrap\"",
                text::grouped(backups),
                text::count(keys.backups, "backup"),
                text::count(log_keys, "key of the log")
            ),
        };
        session.out.say(format!("  - {behind}"))?;
    }
    if !report.problems.is_empty() {
        session.out.say("")?;
        session.out.findings(&report.problems)?;
    }
    Ok(())
}

fn tell_target(session: &mut Session, report: &StatusReport, target: &TargetStatus) -> Result<()> {
    let last = target.last_backup.as_ref().map_or_else(
        || "none".to_owned(),
        |b| {
            format!(
                "{} ({}, {}), {}, {}",
                text::ago(report.at, b.consistent_at),
                b.kind,
                short(b.id),
                text::bytes(b.bytes),
                text::time(b.consistent_at)
            )
        },
    );
    let verified = target.last_verified_at.map_or_else(|| "never".to_owned(), |at| text::ago(report.at, at));
    let proven = target.last_good_proof.as_ref().map_or_else(|| "never".to_owned(), |p| proof(report, p));
    let drill = target.last_drill.as_ref().map_or_else(|| "never".to_owned(), |p| drill(report, p));
    session.out.facts(&[
        ("last backup", last),
        ("backups", target.backups.to_string()),
        ("last verified", verified),
        ("restore proven", proven),
        ("last drill", drill),
        ("log", target.log.as_ref().map_or_else(String::new, |log| shipped(report, log))),
    ])?;
    for reason in &target.reasons {
        session.out.say(format!("  - {}", text::printable(reason)))?;
    }
    Ok(())
}

/// Up to when every instant can be restored.
fn shipped(report: &StatusReport, log: &TargetLog) -> String {
    let newest = log.streams.iter().filter_map(|s| s.complete_until).max();
    let gaps: usize = log.streams.iter().map(|s| s.gaps.len()).sum();
    let missing = if gaps == 0 { String::new() } else { format!(", {}", text::count(gaps as u64, "gap")) };
    match newest {
        Some(at) => format!("complete until {} ({}){missing}", text::time(at), text::ago(report.at, at)),
        None => format!("nothing shipped{missing}"),
    }
}

fn drill(report: &StatusReport, proof: &RecoveryProof) -> String {
    let when = text::ago(report.at, proof.at);
    match (proof.ok, proof.restore_time_ms) {
        (true, Some(ms)) => {
            let time = text::duration(Duration::from_millis(ms));
            format!("{when}, passed; a recovery takes {time} ({})", short(proof.backup_id))
        }
        (true, None) => format!("{when}, passed ({})", short(proof.backup_id)),
        (false, _) => format!("{when}, FAILED ({})", short(proof.backup_id)),
    }
}

fn proof(report: &StatusReport, proof: &RecoveryProof) -> String {
    let how = match proof.kind {
        ProofKind::Verify => "verified",
        ProofKind::Restore => "restored",
        ProofKind::Drill => "drilled",
    };
    format!("{} ({how}, {})", text::ago(report.at, proof.at), short(proof.backup_id))
}
