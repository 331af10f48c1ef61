-- Statements that remove all that scripts may have made in the database.
SELECT statement FROM (
    SELECT 1 AS rank, pg_catalog.format('DROP EVENT TRIGGER %I', evtname) AS statement FROM pg_catalog.pg_event_trigger
    WHERE oid NOT IN (SELECT objid FROM pg_catalog.pg_depend WHERE classid = 'pg_catalog.pg_event_trigger'::regclass AND deptype = 'e')
    UNION ALL
    SELECT 2, pg_catalog.format('DROP PUBLICATION %I', pubname) FROM pg_catalog.pg_publication
    UNION ALL
    SELECT 3, pg_catalog.format('DROP EXTENSION %I CASCADE', extname) FROM pg_catalog.pg_extension WHERE extname <> 'plpgsql'
    UNION ALL
    SELECT 4, pg_catalog.format('DROP SCHEMA %I CASCADE', nspname) FROM pg_catalog.pg_namespace
    WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
      AND oid NOT IN (SELECT objid FROM pg_catalog.pg_depend WHERE classid = 'pg_catalog.pg_namespace'::regclass AND deptype = 'e')
    UNION ALL
    SELECT 5, pg_catalog.format('DROP FOREIGN DATA WRAPPER %I CASCADE', fdwname) FROM pg_catalog.pg_foreign_data_wrapper
    WHERE oid NOT IN (SELECT objid FROM pg_catalog.pg_depend WHERE classid = 'pg_catalog.pg_foreign_data_wrapper'::regclass AND deptype = 'e')
) s ORDER BY rank
