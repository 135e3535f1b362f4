-- Nodes that record their flows one by one for a time, because somebody asked for it.
CREATE TABLE flow_recording (
    node_id     text COLLATE "C" CONSTRAINT flow_recording_pkey PRIMARY KEY,
    -- At most so many in a second.
    flows_per_s integer NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now(),
    ends_at     timestamptz NOT NULL,
    -- Who has asked for it, and why.
    actor       text NOT NULL,
    reason      text NOT NULL,
    CONSTRAINT flow_recording_flows_per_s CHECK (flows_per_s BETWEEN 1 AND 1000),
    CONSTRAINT flow_recording_of_node FOREIGN KEY (node_id) REFERENCES node (node_id) ON DELETE CASCADE
);

-- What they have recorded, the newest; older ones are pruned. As flow_sample, and apart from it: what is looked at closely must not push out what
-- stands for all.
CREATE TABLE flow_recorded (
    sample_id   bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT flow_recorded_pkey PRIMARY KEY,
    fingerprint bytea NOT NULL CONSTRAINT flow_recorded_fingerprint UNIQUE,
    node_id     text COLLATE "C" NOT NULL,
    layers      text[] NOT NULL,
    -- An encoded sockpilot.v1.FlowSample.
    sample      bytea NOT NULL
);
CREATE INDEX flow_recorded_by_node ON flow_recorded (node_id, sample_id);

COMMENT ON TABLE flow_recording IS 'distribution: local; a row for each node that is looked at closely';
COMMENT ON TABLE flow_recorded IS 'distribution: local; as flow_sample';
