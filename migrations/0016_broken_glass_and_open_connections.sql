-- Who has a rollout go past freeze windows, locks and limits, and how many connections are open under which revision.

ALTER TABLE rollout
    -- Empty and NULL: nobody has broken the glass.
    ADD COLUMN glass_actor  text NOT NULL DEFAULT '',
    ADD COLUMN glass_reason text NOT NULL DEFAULT '',
    -- Seconds since 1970.
    ADD COLUMN glass_s      bigint,
    ADD CONSTRAINT rollout_glass CHECK ((glass_s IS NULL) = (glass_actor = ''));

ALTER TABLE node
    -- An encoded sockpilot.v1.OpenConnections, and when the look at them was over; NULL: the node does not say.
    ADD COLUMN open_connections bytea,
    ADD COLUMN open_looked_at   timestamptz,
    ADD CONSTRAINT node_open_looked CHECK ((open_connections IS NULL) = (open_looked_at IS NULL));
