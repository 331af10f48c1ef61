//! The profiles that come with the program.

/// What a profile that comes with the program sets; a file and the environment may say otherwise.
pub(super) const PROFILES: &[(&str, &[(&str, &str)])] = &[
    (
        "development",
        &[("engines.*.pool_max", "5"), ("backup.enabled", "false"), ("monitoring.enabled", "false")],
    ),
    (
        "staging",
        &[
            ("engines.*.pool_max", "10"),
            ("backup.enabled", "true"),
            ("repository.retention.daily", "3"),
            ("repository.retention.weekly", "0"),
            ("repository.retention.monthly", "0"),
            ("repository.retention.yearly", "0"),
            ("repository.retention.within", "3 days"),
            ("repository.retention.incremental_within", "3 days"),
        ],
    ),
    (
        "production",
        &[
            ("engines.*.pool_max", "auto"),
            ("backup.enabled", "true"),
            ("repository.retention.within", "7 days"),
            ("migrate.production", "true"),
            ("monitoring.enabled", "true"),
        ],
    ),
];
