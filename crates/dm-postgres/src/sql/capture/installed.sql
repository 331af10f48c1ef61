SELECT t.id, t.relation, t.schema, t.name, t.columns, t.excluded, t.masked, t.digested,
       (extract(epoch FROM t.since) * 1000000)::bigint AS since,
       n.nspname::text AS schema_now, c.relname::text AS name_now,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
              WHERE a.attrelid = t.relation AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum) AS columns_now
  FROM dm_capture.tables t
  LEFT JOIN pg_catalog.pg_class c ON c.oid = t.relation
  LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT t.removed
 ORDER BY t.schema, t.name
