SELECT place, id, transaction, ordinal, at, operation, before, after, changed, acting, role,
       schema, name, partition_schema, partition_name
  FROM (
    SELECT c.ctid::text AS place, c.id::text AS id, c.transaction::text AS transaction, c.ordinal,
           CASE WHEN isfinite(c.at) THEN trunc(extract(epoch FROM c.at) * 1000000)::text END AS at,
           c.operation, c.before::text AS before, c.after::text AS after, c.changed, c.acting, c.role,
           t.schema, t.name,
           CASE WHEN r.oid <> t.relation THEN n.nspname::text END AS partition_schema,
           CASE WHEN r.oid <> t.relation THEN r.relname::text END AS partition_name,
           sum(coalesce(octet_length(c.before::text), 0) + coalesce(octet_length(c.after::text), 0))
               OVER (ORDER BY c.transaction, c.ordinal, c.ctid) AS bytes,
           row_number() OVER (ORDER BY c.transaction, c.ordinal, c.ctid) AS number
      FROM (SELECT ctid, * FROM dm_capture.changes ORDER BY transaction, ordinal LIMIT $1) c
      LEFT JOIN dm_capture.tables t ON t.id = c.captured
      LEFT JOIN pg_catalog.pg_class r ON r.oid = c.relation
      LEFT JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
  ) w
 WHERE bytes <= $2 OR number = 1
 ORDER BY number
