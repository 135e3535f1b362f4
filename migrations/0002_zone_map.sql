-- One row: where addresses are. Matches on zones refer to it.
CREATE TABLE zone_map (
    singleton boolean PRIMARY KEY DEFAULT true,
    -- Grows with every change; the etag is made of it. 0: nobody has written a map yet.
    version   bigint NOT NULL DEFAULT 0,
    -- An encoded sockpilot.v1.ZoneMap of which only `zones` is set.
    document  bytea NOT NULL DEFAULT '',
    CONSTRAINT zone_map_is_one_row CHECK (singleton),
    CONSTRAINT zone_map_version_not_negative CHECK (version >= 0)
);
INSERT INTO zone_map DEFAULT VALUES;
