-- Who has a rollout go past freeze windows, locks and limits, and how many connections are open under which revision.

ALTER TABLE rollout
    -- Empty and NULL: nobody has broken the glass.
    ADD COLUMN glass_actor  text NOT NULL DEFAULT '',
    ADD COLUMN glass_reason text NOT NULL DEFAULT '',
    -- Seconds since 1970.
    ADD COLUMN glass_s      bigint,
    ADD CONSTRAINT rollout_glass CHECK ((glass_s IS NULL) = (glass_actor = ''));
