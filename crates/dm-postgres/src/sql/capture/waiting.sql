SELECT place, id, transaction, ordinal, at, operation, before, after, changed, acting, role,
       schema, name, partition_schema, partition_name
  FROM (
    SELECT c.place, c.id, c.transaction::text AS transaction, c.ordinal,
           CASE WHEN isfinite(c.at) THEN trunc(extract(epoch FROM c.at) * 1000000)::text END AS at,
           lower(c.operation) AS operation, c.before, c.after, c.changed, nullif(c.acting, '') AS acting,
           CASE WHEN c.role LIKE '% as none' THEN left(c.role, -length(' as none')) ELSE c.role END AS role,
           t.schema, t.name,
           CASE WHEN r.oid <> t.relation THEN n.nspname::text END AS partition_schema,
           CASE WHEN r.oid <> t.relation THEN r.relname::text END AS partition_name,
           sum(coalesce(octet_length(c.before), 0) + coalesce(octet_length(c.after), 0)) OVER in_order AS bytes,
           row_number() OVER in_order AS number
      FROM (SELECT ctid, ctid::text AS place, id::text AS id, transaction, ordinal, at, captured, relation, operation,
                   before::text AS before, after::text AS after, changed, acting, role
              FROM dm_capture.changes ORDER BY transaction, ordinal LIMIT $1) c
      LEFT JOIN dm_capture.tables t ON t.id = c.captured
      LEFT JOIN pg_catalog.pg_class r ON r.oid = c.relation
      LEFT JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
    WINDOW in_order AS (ORDER BY c.transaction, c.ordinal, c.ctid)
  ) w
 WHERE bytes <= $2 OR number = 1
 ORDER BY number
