-- As in 0017, the form that `AuditEntry` in admin.proto says. In PL/pgSQL, because functions in SQL are planned anew in every transaction that calls
-- them: fifteen of them took as long as everything else that a change does.
CREATE OR REPLACE FUNCTION audit_hash(entry audit) RETURNS bytea LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
DECLARE
    field  text;
    hashed bytea := '';
BEGIN
    FOREACH field IN ARRAY ARRAY[
        'sockpilot audit 1', entry.sequence::text,
        -- Microseconds since 1970, in whole numbers.
        (extract(epoch FROM date_trunc('second', entry.at))::bigint * 1000000
         + extract(microseconds FROM entry.at)::bigint % 1000000)::text,
        entry.actor, entry.proof, entry.role, entry.method, entry.name, entry.revision::text, entry.generation::text, entry.reason,
        entry.request_id, entry.request_json::text, entry.difference_json::text, encode(entry.previous_hash, 'hex')
    ] LOOP
        -- Its length in bytes, and its bytes.
        hashed := hashed || int8send(octet_length(convert_to(field, 'UTF8'))) || convert_to(field, 'UTF8');
    END LOOP;
    RETURN sha256(hashed);
END $$;
DROP FUNCTION audit_field(text);
