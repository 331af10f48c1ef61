-- Every relation of a table with partitions, and which of the two triggers it has in force.
SELECT n.nspname::text, c.relname::text,
       coalesce(bool_or(g.tgname = 'dm_capture_rows' AND g.tgenabled = 'A' AND f.oid IS NOT NULL), false),
       coalesce(bool_or(g.tgname = 'dm_capture_truncate' AND g.tgenabled = 'A' AND f.oid IS NOT NULL), false)
  FROM (SELECT $1::oid AS relid, 0 AS level
         UNION ALL SELECT t.relid, t.level FROM pg_catalog.pg_partition_tree($1::oid::regclass) t WHERE t.level > 0) p
  JOIN pg_catalog.pg_class c ON c.oid = p.relid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_trigger g ON g.tgrelid = p.relid
  LEFT JOIN pg_catalog.pg_proc f ON f.oid = g.tgfoid AND f.proname IN ('record_all', 'record_some')
                                AND f.pronamespace = pg_catalog.to_regnamespace('dm_capture')
 WHERE c.relkind IN ('r', 'p')
 GROUP BY n.nspname, c.relname, p.level
 ORDER BY p.level, n.nspname, c.relname
