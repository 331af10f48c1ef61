INSERT INTO % AS h (version, description, state, checksum, text_checksum, migration_sql, rollback_sql, applied_at, applied_by,
                    execution_time_ms, direction, finished_statements, started_statement, started_mark, error, remark)
VALUES ($1, $2, $3, $4, $5, $6, $7, 'epoch'::timestamptz + $8::int8 * interval '1 microsecond', $9,
        $10, $11, $12, $13, $14, $15, $16)
ON CONFLICT (version) DO UPDATE SET
    description = EXCLUDED.description, state = EXCLUDED.state, checksum = EXCLUDED.checksum,
    text_checksum = EXCLUDED.text_checksum, migration_sql = EXCLUDED.migration_sql, rollback_sql = EXCLUDED.rollback_sql,
    applied_at = EXCLUDED.applied_at, applied_by = EXCLUDED.applied_by, execution_time_ms = EXCLUDED.execution_time_ms,
    direction = EXCLUDED.direction, finished_statements = EXCLUDED.finished_statements,
    started_statement = EXCLUDED.started_statement, started_mark = EXCLUDED.started_mark,
    error = EXCLUDED.error, remark = EXCLUDED.remark
