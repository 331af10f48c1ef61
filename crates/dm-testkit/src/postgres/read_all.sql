-- Reads every table, without an answer.
SELECT format('SELECT NULL FROM (SELECT count(*) FROM ONLY %s) x WHERE false', format('%I.%I', n.nspname, c.relname))
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm', 't') AND c.relispopulated AND c.relpersistence <> 't' \gexec
