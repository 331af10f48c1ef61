
-- In plpgsql, whose plans are kept: as a function in SQL it would be planned anew at every change.
BEGIN
    IF whole IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN coalesce(
        (SELECT jsonb_object_agg(key, CASE
            WHEN value = 'null' THEN value
            WHEN key = ANY (captured.digested) THEN to_jsonb('sha256:' || encode(sha256(
                (SELECT salt FROM dm_capture.installation) || sha256(convert_to(value #>> '{}', 'UTF8'))), 'hex'))
            WHEN key = ANY (captured.columns) AND key <> ALL (captured.masked) THEN value
            ELSE '"***"' END)
           FROM jsonb_each(whole) WHERE key <> ALL (captured.excluded)), '{}');
END
