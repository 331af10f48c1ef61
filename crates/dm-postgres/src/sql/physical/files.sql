-- Everything below the data directory, folders with size NULL. In scalar columns: a composite in the recursive part fails
-- with "record type has not been registered". The folders of $1 are listed themselves, not what is in them.
WITH RECURSIVE entry AS (
    SELECT '.'::text AS path, true AS is_folder, 0::int8 AS size
    UNION ALL
    SELECT found.path, facts.isdir, facts.size
      FROM entry
           CROSS JOIN LATERAL (
               SELECT CASE entry.path WHEN '.' THEN name ELSE entry.path || '/' || name END AS path
                 FROM pg_catalog.pg_ls_dir(entry.path, true, false) AS name
           ) AS found
           CROSS JOIN LATERAL pg_catalog.pg_stat_file(found.path, true) AS facts
     WHERE entry.is_folder AND facts.isdir IS NOT NULL AND entry.path <> ALL ($1::text[])
)
SELECT path, CASE WHEN is_folder THEN NULL ELSE size END AS size FROM entry WHERE path <> '.'
