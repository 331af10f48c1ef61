
-- Whole rows. It runs at every change, so it sets no search path of its own (that costs as much as the rest of it) and names
-- everything by its schema instead, operators too: whoever calls it chooses the path.
BEGIN
    IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' AND OLD OPERATOR(pg_catalog.*=) NEW THEN
        RETURN NULL;
    END IF;
    INSERT INTO dm_capture.changes (ordinal, captured, relation, operation, before, after, acting, role)
    VALUES (pg_catalog.set_config('dm_capture.ordinal', pg_catalog.int8pl(pg_catalog.concat(
                '0', pg_catalog.current_setting('dm_capture.ordinal', true))::bigint, 1)::text, true)::bigint,
            TG_ARGV[0]::integer, TG_RELID, TG_OP,
            CASE WHEN TG_OP OPERATOR(pg_catalog.=) ANY (ARRAY['UPDATE', 'DELETE']) THEN pg_catalog.row_to_json(OLD) END,
            CASE WHEN TG_OP OPERATOR(pg_catalog.=) ANY (ARRAY['UPDATE', 'INSERT']) THEN pg_catalog.row_to_json(NEW) END,
            pg_catalog.current_setting('dm.actor', true),
            pg_catalog.concat(session_user, ' as ', pg_catalog.current_setting('role')));
    RETURN NULL;
END
