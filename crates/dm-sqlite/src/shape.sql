-- Objects with a definition of their own, tables first; the parts of a virtual table's storage come with it.
SELECT s.type, s.name, s.tbl_name, s.sql
  FROM main.sqlite_schema s
 WHERE s.sql IS NOT NULL AND s.name NOT LIKE 'sqlite\_%' ESCAPE '\'
   AND NOT EXISTS (SELECT 1 FROM pragma_table_list l WHERE l.schema = 'main' AND l.name = s.tbl_name AND l.type = 'shadow')
 ORDER BY CASE s.type WHEN 'table' THEN 1 WHEN 'view' THEN 2 WHEN 'index' THEN 3 ELSE 4 END, s.rowid
