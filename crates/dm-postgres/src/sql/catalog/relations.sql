-- Every relation of the database that is not the server's own, with what decides whether its rows are dumped.
SELECT c.oid::int8 AS oid,
       n.nspname::text AS schema,
       c.relname::text AS name,
       pg_catalog.format('%I.%I', n.nspname, c.relname) AS display,
       c.relkind::text AS kind,
       c.relispopulated AS is_populated,
       GREATEST(c.relpages, 0)::int8 AS pages,
       COALESCE((SELECT pg_catalog.array_agg(a.attname::text ORDER BY a.attnum)
                   FROM pg_catalog.pg_attribute a
                  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''),
                '{}'::text[]) AS columns,
       COALESCE(pg_catalog.has_table_privilege(c.oid, 'SELECT')
                AND pg_catalog.has_schema_privilege(n.oid, 'USAGE'), false) AS readable,
       CASE WHEN c.relrowsecurity THEN pg_catalog.row_security_active(c.oid) ELSE false END AS filtered,
       COALESCE((SELECT pg_catalog.array_agg(i.inhparent::int8) FROM pg_catalog.pg_inherits i
                  WHERE i.inhrelid = c.oid), '{}'::int8[]) AS parents,
       (SELECT d.refobjid::int8 FROM pg_catalog.pg_depend d
         WHERE c.relkind = 'S' AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
           AND d.objsubid = 0 AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
           AND d.deptype IN ('a', 'i') LIMIT 1) AS owned_by,
       e.extname::text AS extension,
       (SELECT u.condition FROM ROWS FROM (unnest(e.extconfig), pg_catalog.unnest(e.extcondition)) u(relation, condition)
         WHERE u.relation = c.oid) AS configuration
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_depend x
         ON x.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND x.objid = c.oid AND x.objsubid = 0
        AND x.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND x.deptype = 'e'
  LEFT JOIN pg_catalog.pg_extension e ON e.oid = x.refobjid
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
   AND c.relpersistence <> 't'
   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
   AND n.nspname !~ '^pg_(toast_)?temp_'
 ORDER BY n.nspname, c.relname
