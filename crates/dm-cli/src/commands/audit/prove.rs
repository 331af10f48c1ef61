//! `dm audit checkpoint`, `prove`, `key` and `erase`.

use data_manager::audit_trail::{Checkpoint, EventProof};
use data_manager::{DataManager, Error, Result};

use crate::args::{AuditKeyArgs, CheckpointArgs, EraseArgs, ProveArgs};
use crate::commands::files;
use crate::exit::Exit;
use crate::session::Session;

pub(super) async fn checkpoint(
    session: &mut Session,
    dm: &DataManager,
    args: CheckpointArgs,
) -> Result<Exit> {
    let ctx = session.quiet_context(dm);
    let checkpoint = dm.audit().checkpoint(&ctx).await?;
    session.out.document("audit-checkpoint", &[("checkpoint", &checkpoint), ("out", &args.out)])?;
    match &args.out {
        Some(path) => {
            files::write_new(path, &checkpoint.note)?;
            session.out.say(format!("wrote {} for {} lines", path.display(), checkpoint.size))?;
        }
        None => session.out.say(checkpoint.note.trim_end())?,
    }
    Ok(Exit::Done)
}

pub(super) async fn prove(session: &mut Session, dm: &DataManager, args: ProveArgs) -> Result<Exit> {
    let kept = args.checkpoint.as_deref().map(files::read_text).transpose()?;
    if let (Some(file), Some(key)) = (&args.check, &args.key) {
        let proof =
            EventProof::read(&files::read_text(file)?).map_err(|e| e.about(file.display().to_string()))?;
        let kept = kept.map(|note| Checkpoint::open(&note, key)).transpose();
        let kept = kept.map_err(|e| match &args.checkpoint {
            Some(file) => e.about(file.display().to_string()),
            None => e,
        })?;
        let head = proof.check(key, kept.as_ref()).map_err(|e| e.about(file.display().to_string()))?;
        session.out.document("audit-proof-check", &[("proof", &proof), ("proven", &true)])?;
        session.out.heading("the proof holds")?;
        let event = &proof.event;
        session.out.facts(&[
            ("line", format!("no. {} of {} in {}", proof.index + 1, head.size, head.origin)),
            ("event", event.event_id.clone()),
            ("who", event.actor.clone()),
            ("what", event.action.clone()),
            ("on", event.resource.clone()),
            ("outcome", event.outcome.clone()),
            ("details", event.payload.as_ref().map(|p| p.details.clone()).unwrap_or_default()),
        ])?;
        return Ok(Exit::Done);
    }
    let ctx = session.quiet_context(dm);
    if let Some(file) = &args.since {
        let kept = files::read_text(file)?;
        let proof = dm.audit().prove_consistency(&ctx, &kept).await;
        let proof = proof.map_err(|e| e.about(file.display().to_string()))?;
        session.out.document("audit-consistency", &[("proof", &proof)])?;
        session.out.say(format!(
            "the trail of {} lines continues the checkpoint of {} lines",
            proof.checkpoint.size, proof.old_size
        ))?;
        return Ok(Exit::Done);
    }
    let Some(event) = &args.event else {
        return Err(Error::internal("the command line names nothing to prove"));
    };
    let proof = dm.audit().prove(&ctx, event, kept.as_deref(), args.payload).await?;
    let text = proof.to_text()?;
    session.out.document("audit-proof", &[("proof", &proof), ("text", &text), ("out", &args.out)])?;
    match &args.out {
        Some(path) => {
            files::write_new(path, &text)?;
            session.out.say(format!("wrote {}", path.display()))?;
        }
        None => session.out.say(text.trim_end())?,
    }
    Ok(Exit::Done)
}

pub(super) async fn key(session: &mut Session, dm: &DataManager, args: AuditKeyArgs) -> Result<Exit> {
    let ctx = session.quiet_context(dm);
    let key = if args.replace {
        session.questions.confirm("Let a new key sign the audit trail from now on?", args.yes)?;
        dm.audit().replace_key(&ctx).await?
    } else {
        dm.audit().key(&ctx).await?
    };
    session.out.document("audit-key", &[("key", &key)])?;
    session
        .out
        .facts(&[("public key", key.vkey.clone()), ("private key", key.file.display().to_string())])?;
    session
        .out
        .say("Give the public key to whoever verifies, and keep a copy of the private one elsewhere.")?;
    Ok(Exit::Done)
}

pub(super) async fn erase(session: &mut Session, dm: &DataManager, args: EraseArgs) -> Result<Exit> {
    let ctx = session.quiet_context(dm);
    session.questions.confirm(&format!("Erase the details of {} for good?", args.event), args.yes)?;
    let event_id = dm.audit().erase(&ctx, &args.event).await?;
    session.out.document("audit-erasure", &[("event_id", &event_id)])?;
    session.out.say(format!("erased the details of {event_id}; the line and every proof stay"))?;
    Ok(Exit::Done)
}
