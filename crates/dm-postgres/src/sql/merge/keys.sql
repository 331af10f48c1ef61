-- The columns that tell the rows of each table apart: the primary key, else the narrowest unique index that always holds.
SELECT DISTINCT ON (i.indrelid) i.indrelid::int8 AS relation, k.columns::text AS columns
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
  JOIN pg_catalog.pg_am m ON m.oid = x.relam AND m.amname = 'btree'
 CROSS JOIN LATERAL (
       SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                  'column', a.attname,
                  'operator', pg_catalog.format('OPERATOR(%I.%s)', n.nspname, o.oprname)) ORDER BY g) AS columns,
              pg_catalog.bool_and(a.attnotnull) AS always
         FROM pg_catalog.generate_series(0, i.indnkeyatts - 1) g
         JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[g]
         JOIN pg_catalog.pg_opclass c ON c.oid = i.indclass[g]
         JOIN pg_catalog.pg_amop p ON p.amopfamily = c.opcfamily AND p.amoplefttype = c.opcintype
                                  AND p.amoprighttype = c.opcintype AND p.amopstrategy = 3
         JOIN pg_catalog.pg_operator o ON o.oid = p.amopopr
         JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace) k
 WHERE i.indrelid = ANY ($1::int8[]::oid[])
   AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND k.always
 ORDER BY i.indrelid, i.indisprimary DESC, i.indnkeyatts, x.relname
