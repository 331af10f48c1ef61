-- What belongs to which table, by the catalog's oid and the object's oid, as pg_restore's list names them.
-- Indexes have their name besides: attachments of indexes are listed by name alone.
SELECT 1259::int8 AS catalog, i.indexrelid::int8 AS oid, i.indrelid::int8 AS relation, NULL::int8 AS needs,
       n.nspname || ' ' || c.relname AS name
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname NOT IN ('pg_catalog', 'pg_toast')
UNION ALL
SELECT 2606, oid::int8, conrelid::int8, NULLIF(confrelid::int8, 0), NULL
  FROM pg_catalog.pg_constraint WHERE conrelid <> 0
UNION ALL
SELECT 2620, oid::int8, tgrelid::int8, NULL, NULL FROM pg_catalog.pg_trigger
UNION ALL
SELECT 3256, oid::int8, polrelid::int8, NULL, NULL FROM pg_catalog.pg_policy
UNION ALL
SELECT 2604, oid::int8, adrelid::int8, NULL, NULL FROM pg_catalog.pg_attrdef
UNION ALL
SELECT 2618, oid::int8, ev_class::int8, NULL, NULL FROM pg_catalog.pg_rewrite
UNION ALL
SELECT 3381, oid::int8, stxrelid::int8, NULL, NULL FROM pg_catalog.pg_statistic_ext
