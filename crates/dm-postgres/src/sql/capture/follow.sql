
DECLARE
    partition record;
BEGIN
    -- The triggers of rows come by themselves to a partition; those of TRUNCATE do not.
    FOR partition IN
        SELECT n.nspname, c.relname, t.id
          FROM dm_capture.tables t, LATERAL pg_partition_tree(t.relation) p
          JOIN pg_class c ON c.oid = p.relid
          JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE NOT t.removed AND p.level > 0 AND c.relkind IN ('r', 'p')
           AND NOT EXISTS (SELECT FROM pg_trigger g
                            WHERE g.tgrelid = p.relid AND g.tgname = 'dm_capture_truncate')
    LOOP
        EXECUTE format('CREATE TRIGGER dm_capture_truncate AFTER TRUNCATE ON %I.%I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION dm_capture.record_all(%L)',
                       partition.nspname, partition.relname, partition.id);
        EXECUTE format('ALTER TABLE %I.%I ENABLE ALWAYS TRIGGER dm_capture_truncate',
                       partition.nspname, partition.relname);
    END LOOP;
EXCEPTION WHEN OTHERS THEN
    -- The application's own change of its schema must not fail by this; the status says what is missing.
    RAISE WARNING 'dm_capture: a new partition is not watched for TRUNCATE: %', SQLERRM;
END
