
DECLARE
    captured dm_capture.tables;
    before jsonb;
    after jsonb;
    changed text[];
    place bigint := coalesce(nullif(current_setting('dm_capture.ordinal', true), ''), '0')::bigint + 1;
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
    IF TG_NARGS > 1 THEN
        IF TG_OP = 'UPDATE' THEN
            changed := ARRAY(SELECT key FROM jsonb_each(after) WHERE value IS DISTINCT FROM before -> key);
        END IF;
        SELECT * INTO captured FROM dm_capture.tables t WHERE t.id = TG_ARGV[0]::integer;
        before := dm_capture.without(before, captured);
        after := dm_capture.without(after, captured);
    END IF;
    PERFORM set_config('dm_capture.ordinal', place::text, true);
    INSERT INTO dm_capture.changes (ordinal, captured, relation, operation, before, after, changed, acting, role)
    VALUES (place, TG_ARGV[0]::integer, TG_RELID, lower(TG_OP), before, after, changed,
            nullif(current_setting('dm.actor', true), ''),
            session_user || CASE current_setting('role') WHEN 'none' THEN '' ELSE ' as ' || current_setting('role') END);
    RETURN NULL;
END
