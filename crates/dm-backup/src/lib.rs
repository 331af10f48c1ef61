//! Backup, verification, restore and retention of backups.
