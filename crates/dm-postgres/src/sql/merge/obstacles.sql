-- What stands between a role and the rows of these tables.
SELECT c.oid::int8 AS relation,
       pg_catalog.has_table_privilege(c.oid, 'SELECT') AND pg_catalog.has_table_privilege(c.oid, 'INSERT')
       AND pg_catalog.has_table_privilege(c.oid, 'UPDATE') AND pg_catalog.has_table_privilege(c.oid, 'DELETE') AS may_write,
       pg_catalog.pg_has_role(c.relowner, 'USAGE') AS is_owner,
       CASE WHEN c.relrowsecurity THEN pg_catalog.row_security_active(c.oid) ELSE false END AS filtered,
       EXISTS (SELECT FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type <> '1' AND r.ev_enabled <> 'D') AS has_rules,
       COALESCE((SELECT pg_catalog.array_agg(a.attname::text) FROM pg_catalog.pg_attribute a
                  WHERE a.attrelid = c.oid AND a.attidentity = 'a' AND NOT a.attisdropped), '{}'::text[]) AS always_generated,
       COALESCE((SELECT pg_catalog.array_agg(t.tgenabled::text || t.tgname::text ORDER BY t.tgname)
                   FROM pg_catalog.pg_trigger t
                  WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D'), '{}'::text[]) AS triggers
  FROM pg_catalog.pg_class c
 WHERE c.oid = ANY ($1::int8[]::oid[])
