-- Foreign keys as they were declared: those that the server keeps for single partitions besides are left out.
SELECT k.conname::text AS name,
       k.conrelid::int8 AS child,
       k.confrelid::int8 AS parent,
       (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                   'column', f.attname, 'referenced', p.attname,
                   -- A period refers to all rows that it overlaps; everything else is equality.
                   'operator', CASE WHEN COALESCE((pg_catalog.to_jsonb(k) ->> 'conperiod')::bool, false)
                                     AND u.place = pg_catalog.cardinality(k.conkey)
                                    THEN 'OPERATOR(pg_catalog.&&)'
                                    ELSE pg_catalog.format('OPERATOR(%I.%s)', n.nspname, o.oprname) END,
                   'collation', CASE WHEN f.attcollation <> p.attcollation THEN
                       (SELECT pg_catalog.format('COLLATE %I.%I', cn.nspname, c.collname)
                          FROM pg_catalog.pg_collation c JOIN pg_catalog.pg_namespace cn ON cn.oid = c.collnamespace
                         WHERE c.oid = p.attcollation) END) ORDER BY u.place)
          FROM ROWS FROM (pg_catalog.unnest(k.conkey), pg_catalog.unnest(k.confkey), pg_catalog.unnest(k.conpfeqop))
               WITH ORDINALITY u(child, parent, operator, place)
          JOIN pg_catalog.pg_attribute f ON f.attrelid = k.conrelid AND f.attnum = u.child
          JOIN pg_catalog.pg_attribute p ON p.attrelid = k.confrelid AND p.attnum = u.parent
          JOIN pg_catalog.pg_operator o ON o.oid = u.operator
          JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace)::text AS pairs
  FROM pg_catalog.pg_constraint k
 WHERE k.contype = 'f' AND k.conparentid = 0
 ORDER BY k.conrelid, k.conname
