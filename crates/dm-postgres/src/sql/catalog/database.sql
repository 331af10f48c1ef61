-- The database itself. The row goes out as JSON because its columns differ from version to version.
SELECT pg_catalog.to_jsonb(d)::text AS row,
       pg_catalog.pg_encoding_to_char(d.encoding)::text AS encoding,
       pg_catalog.pg_get_userbyid(d.datdba)::text AS owner,
       pg_catalog.shobj_description(d.oid, 'pg_database') AS comment,
       COALESCE((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                    'grantee', CASE WHEN a.grantee = 0 THEN NULL ELSE pg_catalog.pg_get_userbyid(a.grantee) END,
                    'privilege', a.privilege_type, 'grantable', a.is_grantable))
                   FROM pg_catalog.aclexplode(d.datacl) a), '[]'::jsonb)::text AS grants,
       COALESCE((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('role', r.rolname, 'settings', s.setconfig))
                   FROM pg_catalog.pg_db_role_setting s LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
                  WHERE s.setdatabase = d.oid), '[]'::jsonb)::text AS settings,
       COALESCE((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                    'name', e.extname, 'version', e.extversion) ORDER BY e.extname)
                   FROM pg_catalog.pg_extension e), '[]'::jsonb)::text AS extensions,
       COALESCE((SELECT pg_catalog.jsonb_agg(DISTINCT pg_catalog.jsonb_build_object(
                    'name', r.rolname, 'use', h.deptype))
                   FROM pg_catalog.pg_shdepend h JOIN pg_catalog.pg_roles r ON r.oid = h.refobjid
                  WHERE h.dbid = d.oid AND h.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass),
                '[]'::jsonb)::text AS roles,
       -- Dependencies on the first superuser are not recorded anywhere; it owns what nobody else does.
       (SELECT r.rolname::text FROM pg_catalog.pg_roles r WHERE r.oid = 10 AND EXISTS (
            SELECT FROM pg_catalog.pg_namespace n
             WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
               AND n.nspname !~ '^pg_(toast_)?temp_'
               AND ((n.nspowner = r.oid AND n.nspname <> 'public')
                    OR EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid AND c.relowner = r.oid)
                    OR EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.pronamespace = n.oid AND p.proowner = r.oid)
                    OR EXISTS (SELECT FROM pg_catalog.pg_type t WHERE t.typnamespace = n.oid AND t.typowner = r.oid))
            )) AS first_superuser
  FROM pg_catalog.pg_database d
 WHERE d.datname = pg_catalog.current_database()
