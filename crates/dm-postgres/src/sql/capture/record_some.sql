
-- Rows of which something is kept out.
DECLARE
    captured dm_capture.tables;
    before jsonb;
    after jsonb;
    changed text[];
BEGIN
    IF TG_OP = 'UPDATE' AND OLD *= NEW THEN
        RETURN NULL;
    END IF;
    IF TG_OP IN ('UPDATE', 'DELETE') THEN
        before := to_jsonb(OLD);
    END IF;
    IF TG_OP IN ('UPDATE', 'INSERT') THEN
        after := to_jsonb(NEW);
    END IF;
    IF TG_OP = 'UPDATE' THEN
        changed := ARRAY(SELECT key FROM jsonb_each(after) WHERE value IS DISTINCT FROM before -> key);
    END IF;
    SELECT * INTO captured FROM dm_capture.tables t WHERE t.id = TG_ARGV[0]::integer;
    INSERT INTO dm_capture.changes (ordinal, captured, relation, operation, before, after, changed, acting, role)
    VALUES (set_config('dm_capture.ordinal',
                (concat('0', current_setting('dm_capture.ordinal', true))::bigint + 1)::text, true)::bigint,
            TG_ARGV[0]::integer, TG_RELID, TG_OP, dm_capture.without(before, captured)::json,
            dm_capture.without(after, captured)::json, changed, current_setting('dm.actor', true),
            concat(session_user, ' as ', current_setting('role')));
    RETURN NULL;
END
