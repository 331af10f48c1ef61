-- What has to be known of a server before its files are copied.
SELECT pg_catalog.current_setting('server_version_num')::int4 AS version_num,
       number.block_size AS block_bytes,
       number.wal_block_size AS wal_block_bytes,
       number.wal_segment_size AS wal_segment_bytes,
       number.segment_size AS segment_blocks,
       pg_catalog.current_setting('data_checksums') = 'on' AS data_checksums,
       pg_catalog.current_setting('data_checksums') = 'on'
           OR pg_catalog.current_setting('wal_log_hints')::bool AS hints_logged,
       pg_catalog.current_setting('full_page_writes')::bool AS full_page_writes,
       pg_catalog.current_setting('wal_level') AS wal_level,
       pg_catalog.pg_is_in_recovery() AS in_recovery,
       pg_catalog.pg_postmaster_start_time()::text AS started,
       (SELECT system_identifier::text FROM pg_catalog.pg_control_system()) AS system_identifier,
       number.wal_keep_size AS wal_keep_megabytes,
       COALESCE(pg_catalog.current_setting('summarize_wal', true)::bool, false) AS summarize_wal,
       pg_catalog.pg_backend_pid() AS pid,
       (SELECT rolsuper OR rolreplication FROM pg_catalog.pg_roles WHERE rolname = current_user) AS replication
  FROM (SELECT max(setting::int8) FILTER (WHERE name = 'block_size') AS block_size,
               max(setting::int8) FILTER (WHERE name = 'wal_block_size') AS wal_block_size,
               max(setting::int8) FILTER (WHERE name = 'wal_segment_size') AS wal_segment_size,
               max(setting::int8) FILTER (WHERE name = 'segment_size') AS segment_size,
               max(setting::int8) FILTER (WHERE name = 'wal_keep_size') AS wal_keep_size
          FROM pg_catalog.pg_settings
         WHERE name IN ('block_size', 'wal_block_size', 'wal_segment_size', 'segment_size', 'wal_keep_size')) AS number
