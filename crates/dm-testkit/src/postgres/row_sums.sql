-- One line for each permanent table and materialised view: name=count:sum. The sum does not depend on the order of rows.
SELECT format(
    'SELECT %L || ''='' || count(*) || '':'' || coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM ONLY %s t',
    format('%I.%I', n.nspname, c.relname), format('%I.%I', n.nspname, c.relname))
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' AND c.relispopulated
  AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'
ORDER BY 1 \gexec
SELECT 'large objects=' || count(*) || ':' || coalesce(sum(hashtextextended(encode(data, 'hex'), pageno)::numeric), 0)
FROM pg_largeobject;
