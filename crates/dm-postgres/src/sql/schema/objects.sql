-- Every object of the application's schemas: kind, name, table that it goes with, facets, and how it is made and removed.
-- Runs with an empty search_path, so that every name in a definition is qualified. `$1`: tables that are left out.
-- `rank` is an order in which objects can be made.
WITH
spaces AS (
    SELECT n.oid, n.nspname, n.nspowner, n.nspacl
    FROM pg_catalog.pg_namespace n
    WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid = 'pg_catalog.pg_namespace'::regclass AND d.objid = n.oid AND d.deptype = 'e')
),
brought AS (
    SELECT classid, objid FROM pg_catalog.pg_depend WHERE deptype = 'e'
),
relations AS (
    SELECT c.*, pg_catalog.format('%I.%I', s.nspname, c.relname) AS full_name,
           CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table'
                          WHEN 'S' THEN 'sequence' WHEN 'c' THEN 'composite type' ELSE 'table' END AS what
    FROM pg_catalog.pg_class c
    JOIN spaces s ON s.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c')
      AND NOT EXISTS (SELECT FROM brought b WHERE b.classid = 'pg_catalog.pg_class'::regclass AND b.objid = c.oid)
      AND NOT (c.relname = ANY ($1) OR s.nspname || '.' || c.relname = ANY ($1))
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class o ON o.oid = d.refobjid
                      JOIN pg_catalog.pg_namespace os ON os.oid = o.relnamespace
                      WHERE c.relkind = 'S' AND d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                        AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.deptype IN ('a', 'i')
                        AND (o.relname = ANY ($1) OR os.nspname || '.' || o.relname = ANY ($1)))
),
granted AS (
    -- What others than the owner may do; the owner's name itself is not part of a schema.
    SELECT g.kind, g.object, g.of,
           CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.pg_get_userbyid(x.grantee) END AS grantee,
           pg_catalog.string_agg(x.privilege_type || CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END,
                                 ', ' ORDER BY x.privilege_type) AS privileges
    FROM (
        SELECT 'SCHEMA' AS kind, pg_catalog.quote_ident(nspname) AS object, NULL::text AS of, nspowner AS owner,
               coalesce(nspacl, pg_catalog.acldefault('n', nspowner)) AS acl FROM spaces
        UNION ALL
        SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, full_name, full_name, relowner,
               coalesce(relacl, pg_catalog.acldefault(CASE relkind WHEN 'S' THEN 's'::"char" ELSE 'r'::"char" END, relowner))
        FROM relations WHERE relkind <> 'c'
        UNION ALL
        SELECT 'COLUMN', pg_catalog.format('%s.%I', r.full_name, a.attname), r.full_name, r.relowner, a.attacl
        FROM relations r JOIN pg_catalog.pg_attribute a ON a.attrelid = r.oid
        WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attacl IS NOT NULL
        UNION ALL
        SELECT CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END, p.oid::regprocedure::text, NULL, p.proowner,
               coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))
        FROM pg_catalog.pg_proc p JOIN spaces s ON s.oid = p.pronamespace
        WHERE NOT EXISTS (SELECT FROM brought b WHERE b.classid = 'pg_catalog.pg_proc'::regclass AND b.objid = p.oid)
    ) g
    CROSS JOIN LATERAL pg_catalog.aclexplode(g.acl) x
    WHERE x.grantee <> g.owner
    GROUP BY 1, 2, 3, 4
),
objects AS (
    SELECT 10 AS rank, 'schema' AS kind, pg_catalog.quote_ident(nspname) AS name, NULL::text AS of,
           pg_catalog.jsonb_build_object() AS facets,
           pg_catalog.format('CREATE SCHEMA %I', nspname) AS made, pg_catalog.format('DROP SCHEMA %I', nspname) AS gone
    FROM spaces WHERE nspname <> 'public'
    UNION ALL
    SELECT 11, 'schema', 'public', NULL, '{}', 'CREATE SCHEMA public', 'DROP SCHEMA public' FROM spaces WHERE nspname = 'public'
    UNION ALL
    SELECT 20, 'extension', pg_catalog.quote_ident(e.extname), NULL,
           pg_catalog.jsonb_build_object('version', e.extversion, 'schema', n.nspname),
           pg_catalog.format('CREATE EXTENSION %I WITH SCHEMA %I', e.extname, n.nspname), pg_catalog.format('DROP EXTENSION %I', e.extname)
    FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
    WHERE e.extname <> 'plpgsql'
    UNION ALL
    SELECT 30, 'collation', c.oid::regcollation::text, NULL,
           pg_catalog.jsonb_strip_nulls(pg_catalog.to_jsonb(c) - 'oid' - 'collname' - 'collnamespace' - 'collowner' - 'collversion'),
           '', 'DROP COLLATION ' || c.oid::regcollation::text
    FROM pg_catalog.pg_collation c JOIN spaces s ON s.oid = c.collnamespace
    WHERE NOT EXISTS (SELECT FROM brought b WHERE b.classid = 'pg_catalog.pg_collation'::regclass AND b.objid = c.oid)
    UNION ALL
    SELECT 31, 'enum', pg_catalog.format_type(t.oid, NULL), NULL,
           pg_catalog.jsonb_build_object('values', v.labels),
           pg_catalog.format('CREATE TYPE %s AS ENUM (%s)', pg_catalog.format_type(t.oid, NULL), v.labels),
           'DROP TYPE ' || pg_catalog.format_type(t.oid, NULL)
    FROM pg_catalog.pg_type t JOIN spaces s ON s.oid = t.typnamespace
    CROSS JOIN LATERAL (SELECT pg_catalog.string_agg(pg_catalog.quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder) AS labels
                        FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid) v
    WHERE t.typtype = 'e' AND NOT EXISTS (SELECT FROM brought b WHERE b.classid = 'pg_catalog.pg_type'::regclass AND b.objid = t.oid)
    UNION ALL
    SELECT 32, 'composite type', r.full_name, NULL, pg_catalog.jsonb_build_object('attributes', v.attributes),
           pg_catalog.format('CREATE TYPE %s AS (%s)', r.full_name, v.attributes), 'DROP TYPE ' || r.full_name
    FROM relations r
    CROSS JOIN LATERAL (SELECT pg_catalog.string_agg(pg_catalog.format('%I %s', a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod)),
                                                     ', ' ORDER BY a.attnum) AS attributes
                        FROM pg_catalog.pg_attribute a WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped) v
    WHERE r.relkind = 'c'
    UNION ALL
    SELECT 33, 'range type', pg_catalog.format_type(t.oid, NULL), NULL,
           pg_catalog.jsonb_build_object('subtype', pg_catalog.format_type(r.rngsubtype, NULL)),
           pg_catalog.format('CREATE TYPE %s AS RANGE (SUBTYPE = %s)', pg_catalog.format_type(t.oid, NULL), pg_catalog.format_type(r.rngsubtype, NULL)),
           'DROP TYPE ' || pg_catalog.format_type(t.oid, NULL)
    FROM pg_catalog.pg_type t JOIN spaces s ON s.oid = t.typnamespace JOIN pg_catalog.pg_range r ON r.rngtypid = t.oid
    WHERE NOT EXISTS (SELECT FROM brought b WHERE b.classid = 'pg_catalog.pg_type'::regclass AND b.objid = t.oid)
    UNION ALL
    SELECT 34, 'domain', pg_catalog.format_type(t.oid, NULL), NULL,
           pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
               'type', pg_catalog.format_type(t.typbasetype, t.typtypmod), 'nullable', CASE WHEN t.typnotnull THEN 'no' ELSE 'yes' END,
               'default', t.typdefault, 'constraints', v.checks)),
           pg_catalog.concat_ws(' ', 'CREATE DOMAIN', pg_catalog.format_type(t.oid, NULL), 'AS', pg_catalog.format_type(t.typbasetype, t.typtypmod),
                     'DEFAULT ' || t.typdefault, CASE WHEN t.typnotnull THEN 'NOT NULL' END, v.checks),
           'DROP DOMAIN ' || pg_catalog.format_type(t.oid, NULL)
    FROM pg_catalog.pg_type t JOIN spaces s ON s.oid = t.typnamespace
    CROSS JOIN LATERAL (SELECT pg_catalog.string_agg(pg_catalog.format('CONSTRAINT %I %s', c.conname, pg_catalog.pg_get_constraintdef(c.oid)),
                                                     ' ' ORDER BY c.conname) AS checks
                        FROM pg_catalog.pg_constraint c WHERE c.contypid = t.oid AND c.contype = 'c') v
    WHERE t.typtype = 'd' AND NOT EXISTS (SELECT FROM brought b WHERE b.classid = 'pg_catalog.pg_type'::regclass AND b.objid = t.oid)
    UNION ALL
    SELECT 40, 'sequence', r.full_name, NULL,
           pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
               'type', pg_catalog.format_type(q.seqtypid, NULL), 'start', q.seqstart::text, 'increment', q.seqincrement::text,
               'minimum', q.seqmin::text, 'maximum', q.seqmax::text, 'cache', q.seqcache::text, 'cycle', q.seqcycle::text,
               'owned by', (SELECT pg_catalog.format('%s.%I', d.refobjid::regclass, a.attname)
                            FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                            WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = r.oid AND d.deptype = 'a'))),
           pg_catalog.format('CREATE SEQUENCE %s AS %s START %s INCREMENT %s MINVALUE %s MAXVALUE %s CACHE %s%s', r.full_name,
                  pg_catalog.format_type(q.seqtypid, NULL), q.seqstart, q.seqincrement, q.seqmin, q.seqmax, q.seqcache,
                  CASE WHEN q.seqcycle THEN ' CYCLE' ELSE '' END),
           'DROP SEQUENCE IF EXISTS ' || r.full_name
    FROM relations r JOIN pg_catalog.pg_sequence q ON q.seqrelid = r.oid
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = r.oid AND d.deptype = 'i')
    UNION ALL
    SELECT 50, CASE p.prokind WHEN 'p' THEN 'procedure' ELSE 'function' END, p.oid::regprocedure::text, NULL,
           pg_catalog.jsonb_build_object('definition', pg_catalog.pg_get_functiondef(p.oid)),
           pg_catalog.pg_get_functiondef(p.oid),
           pg_catalog.format('DROP %s %s', CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END, p.oid::regprocedure)
    FROM pg_catalog.pg_proc p JOIN spaces s ON s.oid = p.pronamespace
    WHERE p.prokind IN ('f', 'p', 'w')
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend i WHERE i.classid = 'pg_catalog.pg_proc'::regclass AND i.objid = p.oid AND i.deptype = 'i')
      AND NOT EXISTS (SELECT FROM brought b WHERE b.classid = 'pg_catalog.pg_proc'::regclass AND b.objid = p.oid)
    UNION ALL
    SELECT 51, 'aggregate', p.oid::regprocedure::text, NULL,
           pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object('transition', a.aggtransfn::text, 'final', a.aggfinalfn::text,
               'state', pg_catalog.format_type(a.aggtranstype, NULL), 'initial', a.agginitval)),
           '', 'DROP AGGREGATE ' || p.oid::regprocedure::text
    FROM pg_catalog.pg_proc p JOIN spaces s ON s.oid = p.pronamespace JOIN pg_catalog.pg_aggregate a ON a.aggfnoid = p.oid
    WHERE NOT EXISTS (SELECT FROM brought b WHERE b.classid = 'pg_catalog.pg_proc'::regclass AND b.objid = p.oid)
    UNION ALL
    SELECT 60, r.what, r.full_name, NULL,
           pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
               'persistence', r.relpersistence::text,
               'partitioned', CASE WHEN r.relkind = 'p' THEN pg_catalog.pg_get_partkeydef(r.oid) END,
               'partition', CASE WHEN r.relispartition THEN pg_catalog.pg_get_expr(r.relpartbound, r.oid) END,
               'parents', (SELECT pg_catalog.string_agg(i.inhparent::regclass::text, ', ' ORDER BY i.inhseqno)
                           FROM pg_catalog.pg_inherits i WHERE i.inhrelid = r.oid),
               'options', pg_catalog.array_to_string(r.reloptions, ', '),
               'of', CASE WHEN r.reloftype <> 0 THEN pg_catalog.format_type(r.reloftype, NULL) END,
               'row security', CASE WHEN r.relforcerowsecurity THEN 'forced' WHEN r.relrowsecurity THEN 'on' END,
               'replica identity', r.relreplident::text,
               'access method', (SELECT m.amname FROM pg_catalog.pg_am m WHERE m.oid = r.relam),
               'tablespace', (SELECT t.spcname FROM pg_catalog.pg_tablespace t WHERE t.oid = r.reltablespace))),
           '', pg_catalog.format('DROP %s %s', CASE r.relkind WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END, r.full_name)
    FROM relations r WHERE r.relkind IN ('r', 'p', 'f')
    UNION ALL
    SELECT 61, 'column', pg_catalog.format('%s.%I', r.full_name, a.attname), r.full_name,
           pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
               'type', pg_catalog.format_type(a.atttypid, a.atttypmod),
               'nullable', CASE WHEN a.attnotnull THEN 'no' ELSE 'yes' END,
               'default', CASE WHEN a.attgenerated = '' THEN pg_catalog.pg_get_expr(d.adbin, d.adrelid) END,
               'generated', CASE WHEN a.attgenerated <> ''
                                 THEN pg_catalog.pg_get_expr(d.adbin, d.adrelid) || CASE a.attgenerated WHEN 's' THEN ' STORED' ELSE ' VIRTUAL' END END,
               'identity', nullif(a.attidentity::text, ''),
               'collation', CASE WHEN a.attcollation <> t.typcollation THEN a.attcollation::regcollation::text END,
               'storage', CASE WHEN a.attstorage <> t.typstorage THEN a.attstorage::text END,
               'compression', nullif(pg_catalog.to_jsonb(a) ->> 'attcompression', ''),
               'statistics', CASE WHEN a.attstattarget > 0 THEN a.attstattarget::text END,
               'options', pg_catalog.array_to_string(a.attoptions, ', '))),
           pg_catalog.concat_ws(' ', pg_catalog.quote_ident(a.attname), pg_catalog.format_type(a.atttypid, a.atttypmod),
               CASE WHEN a.attcollation <> t.typcollation THEN 'COLLATE ' || a.attcollation::regcollation::text END,
               CASE WHEN a.attidentity <> '' THEN 'GENERATED ' || CASE a.attidentity WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END || ' AS IDENTITY' END,
               CASE WHEN a.attgenerated <> '' THEN 'GENERATED ALWAYS AS (' || pg_catalog.pg_get_expr(d.adbin, d.adrelid) || ')'
                    || CASE a.attgenerated WHEN 's' THEN ' STORED' ELSE ' VIRTUAL' END
                    WHEN d.adbin IS NOT NULL THEN 'DEFAULT ' || pg_catalog.pg_get_expr(d.adbin, d.adrelid) END,
               CASE WHEN a.attnotnull THEN 'NOT NULL' END),
           pg_catalog.quote_ident(a.attname)
    FROM relations r
    JOIN pg_catalog.pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = r.oid AND d.adnum = a.attnum
    WHERE r.relkind IN ('r', 'p', 'f')
    UNION ALL
    -- Foreign keys last: their tables have to be there, with their keys.
    SELECT CASE c.contype WHEN 'f' THEN 71 ELSE 70 END, 'constraint', pg_catalog.format('%s.%I', r.full_name, c.conname), r.full_name,
           pg_catalog.jsonb_build_object('definition', pg_catalog.pg_get_constraintdef(c.oid)),
           pg_catalog.format('ALTER TABLE %s ADD CONSTRAINT %I %s', r.full_name, c.conname, pg_catalog.pg_get_constraintdef(c.oid)),
           pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT %I', r.full_name, c.conname)
    FROM pg_catalog.pg_constraint c JOIN relations r ON r.oid = c.conrelid
    WHERE c.contype IN ('c', 'f', 'p', 'u', 'x')
    UNION ALL
    SELECT 72, 'index', i.indexrelid::regclass::text, r.full_name,
           pg_catalog.jsonb_build_object('definition', pg_catalog.pg_get_indexdef(i.indexrelid), 'valid', i.indisvalid::text,
               'clustered', i.indisclustered::text),
           pg_catalog.pg_get_indexdef(i.indexrelid), 'DROP INDEX ' || i.indexrelid::regclass::text
    FROM pg_catalog.pg_index i JOIN relations r ON r.oid = i.indrelid
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_constraint c WHERE c.conindid = i.indexrelid AND c.contype IN ('p', 'u', 'x'))
    UNION ALL
    SELECT 73, 'statistics', pg_catalog.format('%I.%I', s.nspname, e.stxname), r.full_name,
           pg_catalog.jsonb_build_object('definition', pg_catalog.pg_get_statisticsobjdef(e.oid)),
           pg_catalog.pg_get_statisticsobjdef(e.oid), pg_catalog.format('DROP STATISTICS %I.%I', s.nspname, e.stxname)
    FROM pg_catalog.pg_statistic_ext e JOIN relations r ON r.oid = e.stxrelid JOIN spaces s ON s.oid = e.stxnamespace
    UNION ALL
    SELECT 80, r.what, r.full_name, NULL,
           pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object('definition', pg_catalog.pg_get_viewdef(r.oid),
               'options', pg_catalog.array_to_string(r.reloptions, ', '))),
           pg_catalog.format('CREATE %s %s%s AS%s%s', pg_catalog.upper(r.what), r.full_name,
               coalesce(' WITH (' || pg_catalog.array_to_string(r.reloptions, ', ') || ')', ''), E'\n',
               pg_catalog.rtrim(pg_catalog.pg_get_viewdef(r.oid), ';')),
           pg_catalog.format('DROP %s %s', pg_catalog.upper(r.what), r.full_name)
    FROM relations r WHERE r.relkind IN ('v', 'm')
    UNION ALL
    SELECT 90, 'trigger', pg_catalog.format('%s.%I', r.full_name, t.tgname), r.full_name,
           pg_catalog.jsonb_build_object('definition', pg_catalog.pg_get_triggerdef(t.oid), 'enabled', t.tgenabled::text),
           pg_catalog.pg_get_triggerdef(t.oid), pg_catalog.format('DROP TRIGGER %I ON %s', t.tgname, r.full_name)
    FROM pg_catalog.pg_trigger t JOIN relations r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal
    UNION ALL
    SELECT 91, 'rule', pg_catalog.format('%s.%I', r.full_name, w.rulename), r.full_name,
           pg_catalog.jsonb_build_object('definition', pg_catalog.pg_get_ruledef(w.oid), 'enabled', w.ev_enabled::text),
           pg_catalog.pg_get_ruledef(w.oid), pg_catalog.format('DROP RULE %I ON %s', w.rulename, r.full_name)
    FROM pg_catalog.pg_rewrite w JOIN relations r ON r.oid = w.ev_class WHERE w.rulename <> '_RETURN'
    UNION ALL
    SELECT 92, 'policy', pg_catalog.format('%s.%I', r.full_name, p.polname), r.full_name,
           pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object('permissive', p.polpermissive::text, 'command', p.polcmd::text, 'roles', v.roles,
               'using', pg_catalog.pg_get_expr(p.polqual, p.polrelid), 'check', pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid))),
           pg_catalog.concat_ws(' ', pg_catalog.format('CREATE POLICY %I ON %s', p.polname, r.full_name),
               CASE WHEN NOT p.polpermissive THEN 'AS RESTRICTIVE' END,
               'FOR ' || CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
               'TO ' || v.roles, 'USING (' || pg_catalog.pg_get_expr(p.polqual, p.polrelid) || ')',
               'WITH CHECK (' || pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) || ')'),
           pg_catalog.format('DROP POLICY %I ON %s', p.polname, r.full_name)
    FROM pg_catalog.pg_policy p JOIN relations r ON r.oid = p.polrelid
    CROSS JOIN LATERAL (SELECT pg_catalog.string_agg(CASE WHEN o = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(o)) END,
                                                     ', ' ORDER BY o::regrole::text) AS roles FROM pg_catalog.unnest(p.polroles) o) v
    UNION ALL
    SELECT 93, 'event trigger', pg_catalog.quote_ident(e.evtname), NULL,
           pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object('event', e.evtevent, 'function', e.evtfoid::regprocedure::text,
               'enabled', e.evtenabled::text, 'tags', pg_catalog.array_to_string(e.evttags, ', '))),
           '', pg_catalog.format('DROP EVENT TRIGGER %I', e.evtname)
    FROM pg_catalog.pg_event_trigger e
    WHERE NOT EXISTS (SELECT FROM brought b WHERE b.classid = 'pg_catalog.pg_event_trigger'::regclass AND b.objid = e.oid)
    UNION ALL
    SELECT 94, 'publication', pg_catalog.quote_ident(p.pubname), NULL,
           pg_catalog.jsonb_build_object('settings', (pg_catalog.to_jsonb(p) - 'oid' - 'pubowner' - 'pubname')::text,
               'tables', coalesce((SELECT pg_catalog.string_agg(t.prrelid::regclass::text, ', ' ORDER BY t.prrelid::regclass::text)
                                   FROM pg_catalog.pg_publication_rel t WHERE t.prpubid = p.oid), '')),
           '', pg_catalog.format('DROP PUBLICATION %I', p.pubname)
    FROM pg_catalog.pg_publication p
    UNION ALL
    SELECT 95, 'comment', i.type || ' ' || i.identity, CASE WHEN d.classoid = 'pg_catalog.pg_class'::regclass THEN r.full_name END,
           pg_catalog.jsonb_build_object('text', d.description),
           CASE WHEN i.type IN ('table', 'view', 'materialized view', 'sequence', 'index', 'function', 'procedure', 'type', 'schema', 'foreign table')
                THEN pg_catalog.format('COMMENT ON %s %s IS %L', pg_catalog.upper(i.type), i.identity, d.description)
                WHEN i.type = 'table column' THEN pg_catalog.format('COMMENT ON COLUMN %s IS %L', i.identity, d.description) ELSE '' END,
           CASE WHEN i.type IN ('table', 'view', 'materialized view', 'sequence', 'index', 'function', 'procedure', 'type', 'schema', 'foreign table')
                THEN pg_catalog.format('COMMENT ON %s %s IS NULL', pg_catalog.upper(i.type), i.identity)
                WHEN i.type = 'table column' THEN pg_catalog.format('COMMENT ON COLUMN %s IS NULL', i.identity) ELSE '' END
    FROM pg_catalog.pg_description d
    CROSS JOIN LATERAL pg_catalog.pg_identify_object(d.classoid, d.objoid, d.objsubid) i
    LEFT JOIN relations r ON d.classoid = 'pg_catalog.pg_class'::regclass AND r.oid = d.objoid
    WHERE (i.schema IN (SELECT nspname FROM spaces) OR i.type = 'schema' AND i.name IN (SELECT nspname FROM spaces))
      AND (d.classoid <> 'pg_catalog.pg_class'::regclass OR r.oid IS NOT NULL
           OR EXISTS (SELECT FROM pg_catalog.pg_index x JOIN relations o ON o.oid = x.indrelid WHERE x.indexrelid = d.objoid))
      AND NOT EXISTS (SELECT FROM brought b WHERE b.classid = d.classoid AND b.objid = d.objoid)
    UNION ALL
    SELECT 96, 'grant', g.kind || ' ' || g.object || ' TO ' || g.grantee, g.of,
           pg_catalog.jsonb_build_object('privileges', g.privileges),
           CASE WHEN g.kind <> 'COLUMN' AND g.privileges !~ 'GRANT OPTION'
                THEN pg_catalog.format('GRANT %s ON %s %s TO %s', g.privileges, g.kind, g.object, v.grantee) ELSE '' END,
           CASE WHEN g.kind <> 'COLUMN' THEN pg_catalog.format('REVOKE ALL ON %s %s FROM %s', g.kind, g.object, v.grantee) ELSE '' END
    FROM granted g
    CROSS JOIN LATERAL (SELECT CASE g.grantee WHEN 'PUBLIC' THEN 'PUBLIC' ELSE pg_catalog.quote_ident(g.grantee) END AS grantee) v
    UNION ALL
    SELECT 97, 'default privileges',
           pg_catalog.format('%s in %s', d.defaclobjtype, coalesce(n.nspname, 'every schema')), NULL,
           pg_catalog.jsonb_build_object('privileges', coalesce((SELECT pg_catalog.string_agg(
               CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.pg_get_userbyid(x.grantee) END || ' ' || x.privilege_type, ', '
               ORDER BY x.grantee::regrole::text, x.privilege_type)
               FROM pg_catalog.aclexplode(d.defaclacl) x WHERE x.grantee <> d.defaclrole), '')),
           '', ''
    FROM pg_catalog.pg_default_acl d LEFT JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace
)
SELECT rank, kind, name, of, facets::text AS facets, made, gone FROM objects ORDER BY rank, name COLLATE "C"
