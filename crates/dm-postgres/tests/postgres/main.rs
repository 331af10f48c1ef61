//! The PostgreSQL adapter against real servers. One program, so that the servers are started once.

mod capture;
mod closure;
mod conformance;
mod log;
mod log_support;
mod log_trouble;
mod merge;
mod physical_backup;
mod physical_backup_churn;
mod physical_backup_faults;
mod physical_backup_incremental;
mod physical_backup_speed;
mod physical_backup_support;
mod physical_points;
mod physical_restore;
mod physical_sealed;
mod physical_support;
mod query;
mod round_trip;
mod schema;
mod support;
mod tables;
mod tenant;
mod trouble;
