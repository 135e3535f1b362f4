-- The replicas of the server that share this database.
CREATE TABLE server (
    -- Made anew at every start.
    server_id    uuid CONSTRAINT server_pkey PRIMARY KEY,
    -- An encoded sockpilot.v1.Server, without what the columns say: where it is, and what its tasks last did.
    announcement bytea NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- One row: which replica acts for the whole fleet. Times are of the database's clock. A transaction that acts for the fleet locks the
-- row (FOR SHARE) and compares the epoch, so that nobody can become leader before it has ended, and a leader that
-- stalled past its lease writes nothing when it wakes.
CREATE TABLE leader (
    singleton boolean CONSTRAINT leader_pkey PRIMARY KEY DEFAULT true,
    -- Grows whenever the lease is taken, but for its holder's renewals in time.
    epoch     bigint NOT NULL DEFAULT 0,
    -- NULL: nobody yet, or the last one has resigned.
    server_id uuid,
    until     timestamptz NOT NULL DEFAULT '-infinity',
    CONSTRAINT leader_is_one_row CHECK (singleton)
);
INSERT INTO leader DEFAULT VALUES;
