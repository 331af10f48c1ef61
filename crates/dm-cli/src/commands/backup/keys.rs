//! `dm backup key`: makes keys, says who can read what, and changes it.

use data_manager::repository::{
    Identity, KeyList, LeftBackup, Recipient, RewrapPlan, RewrapReport, RewrapRequest,
};
use data_manager::{DataManager, Error, NewKey, Result};

use super::views::short;
use crate::args::{NewKeyArgs, RewrapArgs};
use crate::commands::files;
use crate::exit::Exit;
use crate::output::{Table, text};
use crate::session::Session;

pub(super) async fn new_key(session: &mut Session, dm: &DataManager, args: NewKeyArgs) -> Result<Exit> {
    let passphrase = session.passphrase(args.passphrase_file.as_deref())?;
    let ctx = session.quiet_context(dm);
    let key = dm.backup().new_key(&ctx, &session.folder.join(&args.out), passphrase.as_ref()).await?;
    session.out.document("key", &[("key", &key)])?;
    tell_key(session, &key)?;
    session.out.say("")?;
    session.out.heading("For the configuration of a new repository")?;
    session.out.say("  [repository]")?;
    session.out.say(format!("  recipients = [\"{}\"]", key.recipient))?;
    session.out.say(format!("  index_identity_file = \"{}\"", key.index_path.display()))?;
    session
        .out
        .say(format!("  identity_files = [\"{}\"]    # only where restores are made", key.path.display()))?;
    session.out.say(format!(
        "A repository that has recipients gets one more with \"dm backup key rewrap --add {}\".",
        key.path.display()
    ))?;
    Ok(Exit::Done)
}

/// Where the key is, and what to do with it.
pub(crate) fn tell_key(session: &mut Session, key: &NewKey) -> Result<()> {
    let protected =
        if key.protected { "protected by the passphrase" } else { "not protected by a passphrase" };
    session.out.facts(&[
        ("secret key", format!("{} ({protected})", key.path.display())),
        ("index key", key.index_path.display().to_string()),
        ("public key", key.recipient.to_string()),
    ])?;
    session.out.say("Every restore needs the secret key: keep a copy of it where the database is not.")
}

pub(super) async fn list(session: &mut Session, dm: &DataManager) -> Result<Exit> {
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let list = dm.backup().keys(&ctx).await?;
    drop(progress);
    session.out.document("keys", &[("keys", &list)])?;
    tell_list(session, &list)?;
    Ok(Exit::Done)
}

fn tell_list(session: &mut Session, list: &KeyList) -> Result<()> {
    if !list.encrypted {
        return session
            .out
            .say("the repository is not encrypted: whoever can read its store can read its backups");
    }
    let mut table = Table::new(["public key", "generations", ">opens", "secret key here"]);
    for key in &list.recipients {
        let generations = match key.removed_in {
            None => format!("{} to now", key.since),
            Some(removed) => format!("{} to {}, removed", key.since, removed - 1),
        };
        let opens = format!("{} of {}", text::grouped(key.opens), text::grouped(list.backups));
        table.row([key.recipient.to_string(), generations, opens, yes(key.here)]);
    }
    if let Some(index) = &list.index_recipient {
        table.row([index.to_string(), "index key".to_owned(), "maps only".to_owned(), yes(list.index_here)]);
    }
    session.out.table(&table)?;
    for generation in list.generations.iter().skip(1) {
        session.out.say(format!(
            "generation {}: {} by {}, {}{}",
            generation.generation,
            text::time(generation.at),
            text::printable(generation.by.as_deref().unwrap_or("unknown")),
            text::printable(generation.reason.as_deref().unwrap_or("no reason given")),
            if generation.proven { "" } else { " (no key here proves it)" }
        ))?;
    }
    for foreign in &list.foreign {
        session.out.say(format!(
            "the secret key of {foreign} is here and belongs to no generation of this repository"
        ))?;
    }
    if let Some(expected) = &list.expected {
        session.out.say(if list.generations.last().is_some_and(|g| g.proven) {
            "the configuration names others; a key here proves the change, so this host follows the repository:"
        } else {
            "the configuration names others; until the two agree nothing is sealed here:"
        })?;
        for recipient in expected {
            session.out.say(format!("  {recipient}"))?;
        }
    }
    if list.behind.is_empty() && list.log_keys_behind == 0 {
        return session.out.say("everything can be read by the newest recipients");
    }
    for behind in &list.behind {
        let generation =
            behind.generation.map_or_else(|| "no key object".to_owned(), |g| format!("generation {g}"));
        session.out.say(format!("behind: {} of {}, {generation}", short(behind.id), behind.target))?;
    }
    if list.log_keys_behind > 0 {
        session.out.say(format!("behind: {} of the log", text::count(list.log_keys_behind, "key")))?;
    }
    session.out.say("\"dm backup key rewrap\" seals them to the newest recipients; it needs the secret key of one that opens them")
}

fn yes(here: bool) -> String {
    if here { "yes" } else { "no" }.to_owned()
}

/// A recipient as it was typed: a public key, or a file with one or with a secret key.
fn recipient(session: &Session, typed: &str) -> Result<Recipient> {
    if typed.starts_with("age1") {
        return typed.parse();
    }
    let path = session.folder.join(typed);
    if typed.starts_with("AGE-SECRET-KEY") || !path.exists() {
        return Err(Error::invalid("that is neither a public key (age1…) nor a file")
            .with_hint("\"dm backup key new\" makes a key and prints its public half; secret keys stand in files, never on a command line"));
    }
    let bytes = files::read_text(&path)?;
    let about = |e: Error| e.about(path.display().to_string());
    if bytes.starts_with("age-encryption.org/") {
        return Err(about(
            Error::invalid("the file is a secret key that is protected by a passphrase")
                .with_hint("give its public half, age1…, as it was printed when the key was made"),
        ));
    }
    match bytes.lines().map(str::trim).find(|line| line.starts_with("age1")) {
        Some(line) => line.parse().map_err(about),
        None => Identity::from_text(&bytes).map(|identity| identity.recipient()).map_err(about),
    }
}

pub(super) async fn rewrap(session: &mut Session, dm: &DataManager, args: RewrapArgs) -> Result<Exit> {
    let read = |typed: &[String]| typed.iter().map(|t| recipient(session, t)).collect::<Result<Vec<_>>>();
    let request = RewrapRequest {
        recipients: read(&args.recipients)?,
        add: read(&args.add)?,
        remove: read(&args.remove)?,
        renew: args.renew,
        delete_old: args.delete_old,
        reason: args.reason.clone(),
    };
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let plan = dm.backup().plan_rewrap(&ctx, request).await?;
    drop(progress);
    if args.apply.dry_run {
        session.out.document("rewrap-plan", &[("plan", &plan)])?;
        if session.out.is_human() {
            session.show_plan(&plan_lines(&plan))?;
        }
        return Ok(if plan.left.is_empty() { Exit::Done } else { Exit::CheckFailed });
    }
    session.show_plan(&plan_lines(&plan))?;
    if !plan.is_empty() {
        let question = if plan.generation == plan.current {
            "Do this?".to_owned()
        } else {
            format!("Seal to {} from now on?", text::count(plan.recipients.len() as u64, "recipient"))
        };
        session.questions.confirm(&question, args.apply.yes)?;
    }
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let report = dm.backup().apply_rewrap(&ctx, &plan).await?;
    drop(progress);
    session.out.document("rewrap-run", &[("run_id", &ctx.run_id()), ("report", &report)])?;
    tell_report(session, &plan, &report)?;
    Ok(if report.is_whole() { Exit::Done } else { Exit::Partial })
}

fn plan_lines(plan: &RewrapPlan) -> Vec<String> {
    let mut table = Table::new(["recipient", "what becomes of it"]);
    for recipient in &plan.recipients {
        let what = if plan.added.contains(recipient) { "added" } else { "stays" };
        table.row([recipient.to_string(), what.to_owned()]);
    }
    for recipient in &plan.removed {
        table.row([recipient.to_string(), "REMOVED".to_owned()]);
    }
    let mut lines = table.lines();
    lines.extend(plan.warnings.iter().map(|warning| format!("note: {warning}")));
    lines.extend(left_lines(&plan.left));
    if plan.log_keys_left > 0 {
        lines.push(format!(
            "{} of the log: none of the keys here opens it",
            text::count(plan.log_keys_left, "key")
        ));
    }
    lines.push(if plan.is_empty() {
        format!("nothing to do: everything that can be is sealed to generation {}", plan.current)
    } else {
        format!(
            "generation {}: {} and {} of the log get a key object more, {} have it; nothing else is written",
            plan.generation,
            text::count(plan.backups.len() as u64, "backup"),
            text::count(plan.log_keys, "key"),
            text::grouped(plan.present)
        )
    });
    lines
}

fn left_lines(left: &[LeftBackup]) -> Vec<String> {
    left.iter()
        .map(|left| {
            format!("{} of {} stays as it is: {}", short(left.id), left.target, text::printable(&left.reason))
        })
        .collect()
}

fn tell_report(session: &mut Session, plan: &RewrapPlan, report: &RewrapReport) -> Result<()> {
    session.out.say(format!(
        "generation {} counts: {} and {} of the log sealed to it, {} deleted",
        report.generation,
        text::count(report.rewrapped.len() as u64, "backup"),
        text::count(report.log_keys, "key"),
        text::count(report.deleted, "older key object"),
    ))?;
    for line in left_lines(&report.left) {
        session.out.say(line)?;
    }
    if plan.generation == plan.current {
        return Ok(());
    }
    session.out.say("")?;
    session.out.heading("For the configuration of every host that backs up")?;
    let quoted: Vec<String> = report.recipients.iter().map(|r| format!("\"{r}\"")).collect();
    session.out.say("  [repository]")?;
    session.out.say(format!("  recipients = [{}]", quoted.join(", ")))?;
    session.out.say("Copies of the repository get the new keys with the next \"dm backup copy\".")
}
