INSERT INTO % (version, description, state, checksum, text_checksum, migration_sql, rollback_sql, applied_at, applied_by,
               execution_time_ms, direction, finished_statements, started_statement, started_mark, error, remark)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)
ON CONFLICT (version) DO UPDATE SET
    description = excluded.description, state = excluded.state, checksum = excluded.checksum,
    text_checksum = excluded.text_checksum, migration_sql = excluded.migration_sql, rollback_sql = excluded.rollback_sql,
    applied_at = excluded.applied_at, applied_by = excluded.applied_by, execution_time_ms = excluded.execution_time_ms,
    direction = excluded.direction, finished_statements = excluded.finished_statements,
    started_statement = excluded.started_statement, started_mark = excluded.started_mark,
    error = excluded.error, remark = excluded.remark
