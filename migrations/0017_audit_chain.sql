-- The audit log shows by itself whether somebody has changed it: every entry has the hash of the one before it. What is hashed, and in which
-- form, is said at `AuditEntry` in admin.proto; `sockpilot audit verify` does it anew.

ALTER TABLE audit
    -- By what it was known who did it: certificate, token, identity_provider, server, nothing. Empty: of an older version.
    ADD COLUMN proof           text COLLATE "C" NOT NULL DEFAULT '',
    -- What they were allowed then.
    ADD COLUMN role            text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN request_id      text COLLATE "C" NOT NULL DEFAULT '',
    -- [{"path": …, "before": …, "after": …}, …]
    ADD COLUMN difference_json json NOT NULL DEFAULT '[]',
    ADD COLUMN previous_hash   bytea,
    ADD COLUMN hash            bytea;

-- A field as it is hashed: its length in bytes, and its bytes.
CREATE FUNCTION audit_field(content text) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT int8send(octet_length(convert_to(content, 'UTF8'))) || convert_to(content, 'UTF8')
$$;

CREATE FUNCTION audit_hash(entry audit) RETURNS bytea LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT sha256(
        audit_field('sockpilot audit 1') || audit_field(entry.sequence::text)
        -- Microseconds since 1970, in whole numbers.
        || audit_field((extract(epoch FROM date_trunc('second', entry.at))::bigint * 1000000
                        + extract(microseconds FROM entry.at)::bigint % 1000000)::text)
        || audit_field(entry.actor) || audit_field(entry.proof) || audit_field(entry.role)
        || audit_field(entry.method) || audit_field(entry.name) || audit_field(entry.revision::text)
        || audit_field(entry.generation::text) || audit_field(entry.reason) || audit_field(entry.request_id)
        || audit_field(entry.request_json::text) || audit_field(entry.difference_json::text)
        || audit_field(encode(entry.previous_hash, 'hex')))
$$;

DO $$
DECLARE
    entry audit;
    head  bytea := decode(repeat('00', 32), 'hex');
BEGIN
    FOR entry IN SELECT * FROM audit ORDER BY sequence LOOP
        entry.previous_hash := head;
        head := audit_hash(entry);
        UPDATE audit SET previous_hash = entry.previous_hash, hash = head WHERE sequence = entry.sequence;
    END LOOP;
END $$;

ALTER TABLE audit ALTER COLUMN previous_hash SET NOT NULL, ALTER COLUMN hash SET NOT NULL;
-- The words for "not known" are of older entries only.
ALTER TABLE audit ALTER COLUMN proof DROP DEFAULT, ALTER COLUMN role DROP DEFAULT, ALTER COLUMN request_id DROP DEFAULT,
    ALTER COLUMN difference_json DROP DEFAULT;

-- Whoever adds an entry says neither where in the chain it stands nor when it was. They hold the lock of `control`; without it the key lets
-- only one of two in.
CREATE FUNCTION audit_chain() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    head record;
BEGIN
    SELECT sequence, hash INTO head FROM audit ORDER BY sequence DESC LIMIT 1;
    NEW.sequence := coalesce(head.sequence, 0) + 1;
    NEW.at := clock_timestamp();
    NEW.previous_hash := coalesce(head.hash, decode(repeat('00', 32), 'hex'));
    NEW.hash := audit_hash(NEW);
    RETURN NEW;
END $$;
CREATE TRIGGER audit_chain BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION audit_chain();

-- For whoever has the right to, by mistake or otherwise; who owns the table can take this away, and then the chain says so.
CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'entries of the audit log are neither changed nor removed' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();

-- A server makes and drops no tables itself, so that it need not own any: these three are done for it, as the owner.
CREATE FUNCTION make_flow_cells(start_s bigint, end_s bigint) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    EXECUTE format('CREATE TABLE flow_cell_%s PARTITION OF flow_cell FOR VALUES FROM (%s) TO (%s)', start_s, start_s, end_s);
END $$;
CREATE FUNCTION lock_flow_cells(start_s bigint) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    EXECUTE format('LOCK TABLE flow_cell_%s IN EXCLUSIVE MODE', start_s);
END $$;
CREATE FUNCTION drop_flow_cells(start_s bigint) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    EXECUTE format('DROP TABLE flow_cell_%s', start_s);
END $$;
REVOKE ALL ON FUNCTION make_flow_cells(bigint, bigint), lock_flow_cells(bigint), drop_flow_cells(bigint) FROM PUBLIC;

-- They mean the tables of this schema, whatever whoever calls them has put before it.
DO $$
DECLARE
    function text;
BEGIN
    FOREACH function IN ARRAY ARRAY['audit_chain()', 'make_flow_cells(bigint, bigint)', 'lock_flow_cells(bigint)',
                                    'drop_flow_cells(bigint)'] LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', function, current_schema());
    END LOOP;
END $$;
