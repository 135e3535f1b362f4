-- Outcomes in less room: a cell is a short key and one value, in partitions by time, and cells are merged over all nodes by minute,
-- hour and day. Rows of the former table are moved by the server right after this migration, in the same transaction.
ALTER TABLE flow_cell RENAME TO flow_cell_before;
ALTER TABLE flow_cell_before RENAME CONSTRAINT flow_cell_pkey TO flow_cell_before_pkey;

-- What flows can have had: a rule of a revision or an arm of an epoch. Rows are never changed.
CREATE TABLE outcome_choice (
    choice_id integer GENERATED ALWAYS AS IDENTITY CONSTRAINT outcome_choice_pkey PRIMARY KEY,
    layer     text COLLATE "C" NOT NULL,
    revision  bigint NOT NULL,
    choice    text COLLATE "C" NOT NULL,
    CONSTRAINT outcome_choice_once UNIQUE (layer, revision, choice)
);

-- Who reports: the kernel tables of a node.
ALTER TABLE flow_report_head
    ADD COLUMN source_id integer GENERATED ALWAYS AS IDENTITY CONSTRAINT flow_report_head_source UNIQUE,
    -- Cells that came when those of their time had been deleted.
    ADD COLUMN cells_too_late bigint NOT NULL DEFAULT 0;

-- Sums over flow records with the same key on one node in one interval, cumulative: a later report replaces them. Partitions of six
-- hours, flow_cell_{first second}: made by a task ahead of time, and when a late report needs one.
CREATE TABLE flow_cell (
    interval_start_s  bigint NOT NULL,
    -- Of the report these totals came with.
    sequence          bigint NOT NULL,
    choice_id         integer NOT NULL,
    source_id         integer NOT NULL,
    interval_length_s integer NOT NULL,
    -- Numbers of sockpilot.v1.Direction and SizeClass.
    direction         smallint NOT NULL,
    size_class        smallint NOT NULL,
    -- An encoded sockpilot.v1.FlowCell without the fields of its key.
    value             bytea NOT NULL,
    CONSTRAINT flow_cell_pkey PRIMARY KEY (
        interval_start_s, choice_id, source_id, direction, size_class, interval_length_s
    )
) PARTITION BY RANGE (interval_start_s);

-- Cells of all nodes whose intervals begin in [start_s, start_s + length_s), merged. Made anew whenever one of them changes.
CREATE TABLE flow_rollup (
    length_s   integer NOT NULL,
    start_s    bigint NOT NULL,
    choice_id  integer NOT NULL,
    direction  smallint NOT NULL,
    size_class smallint NOT NULL,
    -- As in flow_cell.
    value      bytea NOT NULL,
    CONSTRAINT flow_rollup_pkey PRIMARY KEY (length_s, start_s, choice_id, direction, size_class),
    CONSTRAINT flow_rollup_length CHECK (length_s IN (60, 3600, 86400))
);

-- The stretches of time that were merged; one without rows in flow_rollup had no flows.
CREATE TABLE flow_rollup_made (
    length_s integer NOT NULL,
    start_s  bigint NOT NULL,
    CONSTRAINT flow_rollup_made_pkey PRIMARY KEY (length_s, start_s)
);

-- The stretches of time that are to be merged anew: each report adds the minutes of its cells. Only inserted and deleted, so that
-- reports do not wait for each other.
CREATE TABLE flow_rollup_stale (
    length_s integer NOT NULL,
    start_s  bigint NOT NULL
);
CREATE INDEX flow_rollup_stale_at ON flow_rollup_stale (start_s, length_s);

-- One row: since when outcomes are kept, in which detail. Cells, minutes and hours before were deleted; what comes for that time later
-- is counted and left out, because it might be in the sums already.
CREATE TABLE outcome_kept (
    singleton      boolean CONSTRAINT outcome_kept_pkey PRIMARY KEY DEFAULT true,
    cells_from_s   bigint NOT NULL DEFAULT 0,
    minutes_from_s bigint NOT NULL DEFAULT 0,
    hours_from_s   bigint NOT NULL DEFAULT 0,
    CONSTRAINT outcome_kept_is_one_row CHECK (singleton)
);
INSERT INTO outcome_kept DEFAULT VALUES;
