-- How many objects of each sort there are, and how many are not in order. Extensions bring their own and are left out.
WITH mine AS (
    SELECT c.oid, c.relkind FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND n.nspname !~ '^pg_(toast_)?temp_'
       AND c.relpersistence <> 't'
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                        WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
                          AND d.deptype = 'e'))
SELECT (SELECT count(*) FROM mine WHERE relkind IN ('r', 'p')) AS tables,
       (SELECT count(*) FROM mine WHERE relkind IN ('v', 'm')) AS views,
       (SELECT count(*) FROM mine WHERE relkind = 'S') AS sequences,
       (SELECT count(*) FROM pg_catalog.pg_index i JOIN mine ON mine.oid = i.indrelid) AS indexes,
       (SELECT count(*) FROM pg_catalog.pg_index i JOIN mine ON mine.oid = i.indrelid
         WHERE NOT i.indisvalid OR NOT i.indisready) AS invalid_indexes,
       (SELECT count(*) FROM pg_catalog.pg_constraint k JOIN mine ON mine.oid = k.conrelid
         WHERE k.contype <> 'n') AS constraints,
       (SELECT count(*) FROM pg_catalog.pg_constraint k JOIN mine ON mine.oid = k.conrelid
         WHERE NOT k.convalidated) AS unvalidated_constraints,
       (SELECT count(*) FROM pg_catalog.pg_trigger t JOIN mine ON mine.oid = t.tgrelid
         WHERE NOT t.tgisinternal) AS triggers,
       (SELECT count(*) FROM pg_catalog.pg_policy p JOIN mine ON mine.oid = p.polrelid) AS policies
