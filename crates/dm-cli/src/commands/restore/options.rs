//! From the command line to what the facade is asked for.

use std::collections::BTreeMap;

use data_manager::backup::{Hook, Hooks, Unproven};
use data_manager::{CheckDepth, DataManager, RecoveryPoint, RestoreOptions, Result};

use crate::args::{DepthArg, PointArgs, RestoreArgs, UnprovenArg};
use crate::instant;

impl From<UnprovenArg> for Unproven {
    fn from(unproven: UnprovenArg) -> Self {
        match unproven {
            UnprovenArg::KeepSealed => Self::KeepSealed,
            UnprovenArg::Discard => Self::Discard,
            UnprovenArg::Release => Self::Release,
        }
    }
}

impl From<DepthArg> for CheckDepth {
    fn from(depth: DepthArg) -> Self {
        match depth {
            DepthArg::None => Self::None,
            DepthArg::Standard => Self::Standard,
            DepthArg::Deep => Self::Deep,
        }
    }
}

/// The point that was asked for; `None` for the moment of the backup.
pub(crate) fn until(point: &PointArgs, dm: &DataManager) -> Result<Option<RecoveryPoint>> {
    let PointArgs { at, lsn, name, xid, .. } = point;
    if let Some(at) = at {
        if at.trim().eq_ignore_ascii_case("end") {
            return Ok(Some(RecoveryPoint::End));
        }
        let at = instant::parse(at, &dm.config().zone, dm.context().now())?;
        return Ok(Some(RecoveryPoint::Time(at)));
    }
    Ok(lsn
        .clone()
        .map(RecoveryPoint::Position)
        .or_else(|| name.clone().map(RecoveryPoint::Name))
        .or_else(|| xid.map(|id| RecoveryPoint::Transaction(id.to_string()))))
}

/// The rest of what was asked for. What is not said here the facade takes from the configuration.
pub(super) fn of(args: RestoreArgs, which: String, dm: &DataManager) -> Result<RestoreOptions> {
    let until = until(&args.point, dm)?.unwrap_or_default();
    let failed_at =
        args.failed_at.map(|at| instant::parse(&at, &dm.config().zone, dm.context().now())).transpose()?;
    let mut settings: BTreeMap<String, String> = args.settings.into_iter().collect();
    if let Some(user) = args.run_as {
        settings.insert("run_as".to_owned(), user);
    }
    for (oid, dir) in args.tablespaces {
        settings.insert(format!("tablespace.{oid}"), dir);
    }
    let depth = if args.proof.no_start { Some(DepthArg::None) } else { args.proof.checks };
    Ok(RestoreOptions {
        engine: args.engine,
        target: args.target,
        which,
        to: args.to,
        in_place: args.in_place,
        tables: args.tables,
        tenant: args.tenant,
        jobs: args.jobs.map(Into::into),
        verified_only: args.verified_only,
        until,
        exclusive: args.point.exclusive,
        timeline: args.point.timeline.map(|t| t.to_string()),
        delta: args.delta,
        checks: depth.map(Into::into),
        settings,
        unproven: args.proof.unproven.into(),
        keep_sealed: args.proof.keep_sealed,
        rehearse: args.proof.rehearse,
        assertions: args.proof.questions,
        hooks: Hooks {
            stop: args.stop_command.map(Hook::shell),
            start: args.start_command.map(Hook::shell),
            ..Hooks::default()
        },
        failed_at,
        ..RestoreOptions::default()
    })
}
