-- Counts every table twice, by an index-only scan and by a sequential one. Prints "compared|differences".
SET max_parallel_workers_per_gather = 0;
SET enable_bitmapscan = off;
SET client_min_messages = warning;
DO $$
DECLARE
    one record;
    line text;
    plan text;
    by_index bigint;
    by_table bigint;
    compared int := 0;
    wrong text := '';
BEGIN
    FOR one IN
        SELECT format('%I.%I', n.nspname, c.relname) AS name
        FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' AND c.relispopulated AND n.nspname NOT LIKE 'pg\_toast%'
          AND EXISTS (
              SELECT FROM pg_index i
              WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL)
        ORDER BY 1
    LOOP
        PERFORM set_config('enable_seqscan', 'off', true);
        plan := '';
        FOR line IN EXECUTE 'EXPLAIN (COSTS off) SELECT count(*) FROM ONLY ' || one.name LOOP
            plan := plan || line;
        END LOOP;
        CONTINUE WHEN plan NOT LIKE '%Index Only Scan%';
        EXECUTE 'SELECT count(*) FROM ONLY ' || one.name INTO by_index;
        PERFORM set_config('enable_seqscan', 'on', true);
        PERFORM set_config('enable_indexonlyscan', 'off', true);
        PERFORM set_config('enable_indexscan', 'off', true);
        EXECUTE 'SELECT count(*) FROM ONLY ' || one.name INTO by_table;
        PERFORM set_config('enable_indexonlyscan', 'on', true);
        PERFORM set_config('enable_indexscan', 'on', true);
        compared := compared + 1;
        IF by_index <> by_table THEN
            wrong := wrong || format('%s: %s by the index, %s in the table; ', one.name, by_index, by_table);
        END IF;
    END LOOP;
    PERFORM set_config('judge.said', compared || '|' || wrong, false);
END $$;
SELECT current_setting('judge.said');
