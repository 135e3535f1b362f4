-- The whole state of a sockpilot fleet. What can be derived is a view; what a node says of itself is kept as it said it.

-- One row. Every transaction that changes anything a node may enforce locks it first and adds 1 to the generation, so
-- generations are in the order of the commits, and the content of a node's snapshot is a function of the generation.
CREATE TABLE control (
    singleton      boolean PRIMARY KEY DEFAULT true,
    -- Another one means: this database was made anew or restored, and generations may have gone back.
    database_epoch uuid NOT NULL DEFAULT gen_random_uuid(),
    -- The cluster, timeline and database that the epoch was made for. A server that finds itself elsewhere makes a new epoch.
    -- After restoring a plain copy of the files, which shows no difference, make one by hand:
    -- UPDATE control SET database_epoch = gen_random_uuid(), generation = generation + 1
    origin         text NOT NULL DEFAULT '',
    generation     bigint NOT NULL DEFAULT 1,
    -- When the generation was made.
    changed_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Lease of canary and experiment layers. Here, because content must be a function of this database alone.
    lease_ms       bigint NOT NULL DEFAULT 600000,
    CONSTRAINT control_is_one_row CHECK (singleton),
    CONSTRAINT control_generation_positive CHECK (generation > 0),
    CONSTRAINT control_lease_positive CHECK (lease_ms > 0)
);
INSERT INTO control DEFAULT VALUES;

-- Policies and experiments, deleted ones too: their revisions and outcomes stay readable, and if the name is used again
-- revisions go on counting, so that outcomes of two things never mix.
CREATE TABLE layer_object (
    -- `policies/{id}` or `experiments/{id}`.
    name            text COLLATE "C" CONSTRAINT layer_object_pkey PRIMARY KEY,
    kind            text NOT NULL GENERATED ALWAYS AS (split_part(name, '/', 1)) STORED,
    uid             uuid NOT NULL DEFAULT gen_random_uuid(),
    -- Grows with every change of the object or its assignments; the etag is made of it.
    version         bigint NOT NULL DEFAULT 1,
    latest_revision bigint NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    deleted_at      timestamptz,
    CONSTRAINT layer_object_kind CHECK (kind IN ('policies', 'experiments')),
    CONSTRAINT layer_object_revision_positive CHECK (latest_revision > 0)
);
CREATE INDEX layer_object_live ON layer_object (kind, name) WHERE deleted_at IS NULL;

-- What a policy or an experiment said at some time. Rows are never changed.
CREATE TABLE revision (
    name        text COLLATE "C" NOT NULL,
    revision    bigint NOT NULL,
    -- The object's uid then.
    uid         uuid NOT NULL,
    -- An encoded sockpilot.v1.Policy or Experiment, without output-only fields.
    document    bytea NOT NULL,
    -- Out of the document, for node_assignment: the nodes it is for.
    node_labels jsonb NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    creator     text NOT NULL,
    CONSTRAINT revision_pkey PRIMARY KEY (name, revision),
    CONSTRAINT revision_of_object FOREIGN KEY (name) REFERENCES layer_object (name),
    CONSTRAINT revision_positive CHECK (revision > 0)
);

-- Decisions about who runs what. At most one for everyone and one canary are in force per object; ended ones stay.
CREATE TABLE assignment (
    assignment_id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT assignment_pkey PRIMARY KEY,
    name          text COLLATE "C" NOT NULL,
    revision      bigint NOT NULL,
    -- 'everyone', or a canary: 'share' (basis points) or 'labels'.
    target        text NOT NULL,
    share_bp      integer,
    labels        jsonb,
    reason        text NOT NULL,
    actor         text NOT NULL,
    started_at    timestamptz NOT NULL DEFAULT now(),
    ended_at      timestamptz,
    CONSTRAINT assignment_of_revision FOREIGN KEY (name, revision) REFERENCES revision (name, revision),
    CONSTRAINT assignment_target CHECK (
        (target = 'everyone' AND share_bp IS NULL AND labels IS NULL)
        OR (target = 'share' AND share_bp IS NOT NULL AND labels IS NULL)
        OR (target = 'labels' AND share_bp IS NULL AND labels IS NOT NULL)
    ),
    CONSTRAINT assignment_share CHECK (share_bp BETWEEN 1 AND 9999)
);
CREATE UNIQUE INDEX assignment_one_for_everyone ON assignment (name) WHERE ended_at IS NULL AND target = 'everyone';
CREATE UNIQUE INDEX assignment_one_canary ON assignment (name) WHERE ended_at IS NULL AND target <> 'everyone';
CREATE INDEX assignment_history ON assignment (name, assignment_id);

-- Node daemons that ever said hello. Rows change every few seconds (last_seen_at), hence the fill factor.
CREATE TABLE node (
    node_id             text COLLATE "C" CONSTRAINT node_pkey PRIMARY KEY,
    labels              jsonb NOT NULL,
    -- 0..9999: belongs to a share of n basis points if this is below n.
    share_position      integer NOT NULL,
    daemon_version      text NOT NULL,
    -- An encoded sockpilot.v1.KernelFacts.
    kernel              bytea NOT NULL,
    -- The stream it is connected by; another stream takes over by writing its own.
    stream_id           uuid,
    last_seen_at        timestamptz NOT NULL DEFAULT now(),
    in_force_epoch      uuid,
    in_force_generation bigint,
    in_force_hash       bytea,
    CONSTRAINT node_share_position CHECK (share_position BETWEEN 0 AND 9999),
    CONSTRAINT node_in_force_whole CHECK (
        (in_force_epoch IS NULL) = (in_force_generation IS NULL) AND (in_force_epoch IS NULL) = (in_force_hash IS NULL)
    )
) WITH (fillfactor = 70);

-- Contents that a node refused: never sent to it again, until it has another kernel or daemon.
CREATE TABLE node_refusal (
    node_id      text COLLATE "C" NOT NULL,
    content_hash bytea NOT NULL,
    -- An encoded sockpilot.v1.Nack of which only `violations` is set.
    violations   bytea NOT NULL,
    refused_at   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT node_refusal_pkey PRIMARY KEY (node_id, content_hash),
    CONSTRAINT node_refusal_of_node FOREIGN KEY (node_id) REFERENCES node (node_id) ON DELETE CASCADE
);

-- What a node last confirmed and last refused of a layer.
CREATE TABLE node_layer (
    node_id            text COLLATE "C" NOT NULL,
    layer              text COLLATE "C" NOT NULL,
    -- 0: none.
    confirmed_revision bigint NOT NULL DEFAULT 0,
    confirmed_at       timestamptz,
    -- An encoded sockpilot.v1.Ack of which only `effective` is set; null if nothing differs.
    effective          bytea,
    rejected_revision  bigint,
    rejected_at        timestamptz,
    -- An encoded sockpilot.v1.Nack of which only `violations` is set.
    violations         bytea,
    CONSTRAINT node_layer_pkey PRIMARY KEY (node_id, layer),
    CONSTRAINT node_layer_of_node FOREIGN KEY (node_id) REFERENCES node (node_id) ON DELETE CASCADE
);
CREATE INDEX node_layer_by_layer ON node_layer (layer);

-- Who should run what, by which decision, since when: the same rule that the server's resolve.rs follows.
CREATE VIEW node_assignment AS
SELECT node.node_id,
       layer_object.name AS layer,
       chosen.revision,
       chosen.assignment_id,
       chosen.target,
       chosen.reason,
       chosen.actor,
       chosen.started_at
FROM node
CROSS JOIN layer_object
CROSS JOIN LATERAL (
    SELECT assignment.*
    FROM assignment
    JOIN revision USING (name, revision)
    WHERE assignment.name = layer_object.name
      AND assignment.ended_at IS NULL
      AND node.labels @> revision.node_labels
      AND (
          assignment.target = 'everyone'
          OR node.share_position < assignment.share_bp
          OR node.labels @> assignment.labels
      )
    ORDER BY assignment.target = 'everyone'
    LIMIT 1
) AS chosen
WHERE layer_object.deleted_at IS NULL;

-- Nodes that a server has heard of lately. A server that was killed cannot say that its nodes are gone; time does.
CREATE VIEW node_presence AS
SELECT node_id, stream_id IS NOT NULL AND last_seen_at > now() - interval '20 seconds' AS connected FROM node;

-- One layer on one node: what it should run, what it has confirmed, what became of it.
CREATE VIEW node_layer_state AS
SELECT node_id,
       layer,
       coalesce(node_assignment.revision, 0) AS assigned_revision,
       coalesce(node_layer.confirmed_revision, 0) AS confirmed_revision,
       node_layer.confirmed_at,
       node_layer.effective,
       node_layer.rejected_at,
       node_layer.violations,
       CASE
           WHEN NOT node_presence.connected THEN 'unavailable'
           WHEN node_layer.rejected_revision = node_assignment.revision THEN 'rejected'
           WHEN node_layer.confirmed_revision = node_assignment.revision THEN 'in_force'
           ELSE 'pending'
       END AS state,
       coalesce(node_layer.rejected_revision = node_assignment.revision, false) AS rejected
FROM node_assignment
FULL JOIN node_layer USING (node_id, layer)
JOIN node_presence USING (node_id)
WHERE node_assignment.revision IS NOT NULL OR node_layer.confirmed_revision > 0;

-- Sums over flow records with the same key on one node in one interval, cumulative: a later report replaces them. The
-- order of the key is that of the queries: by layer, revision and time.
CREATE TABLE flow_cell (
    layer             text COLLATE "C" NOT NULL,
    revision          bigint NOT NULL,
    interval_start_s  bigint NOT NULL,
    interval_length_s integer NOT NULL,
    node_id           text COLLATE "C" NOT NULL,
    boot_id           text COLLATE "C" NOT NULL,
    choice            text COLLATE "C" NOT NULL,
    -- Numbers of sockpilot.v1.Direction and SizeClass.
    direction         smallint NOT NULL,
    size_class        smallint NOT NULL,
    -- Of the report these totals came with.
    sequence          bigint NOT NULL,
    flows             bigint NOT NULL,
    established       bigint NOT NULL,
    failed            bigint NOT NULL,
    reset             bigint NOT NULL,
    timed_out         bigint NOT NULL,
    bytes_sent        bigint NOT NULL,
    bytes_received    bigint NOT NULL,
    segments_out      bigint NOT NULL,
    segments_in       bigint NOT NULL,
    retransmits       bigint NOT NULL,
    syn_retransmits   bigint NOT NULL,
    rtos              bigint NOT NULL,
    set_failures      bigint NOT NULL,
    -- Encoded sockpilot.v1.Distribution: count, mean, squared deviations, range and sketch; empty if of no flow. One value
    -- each, because they are merged by the server only, and 24 columns more would halve the speed of a report.
    connect_time_us   bytea NOT NULL,
    srtt_us           bytea NOT NULL,
    duration_us       bytea NOT NULL,
    established_cwnd  bytea NOT NULL,
    CONSTRAINT flow_cell_pkey PRIMARY KEY (
        layer, revision, interval_start_s, node_id, boot_id, choice, direction, size_class, interval_length_s
    )
);

-- Where the reports of a node's kernel tables (a boot id) have got to.
CREATE TABLE flow_report_head (
    node_id         text COLLATE "C" NOT NULL,
    boot_id         text COLLATE "C" NOT NULL,
    sequence        bigint NOT NULL,
    records_total   bigint NOT NULL,
    records_dropped bigint NOT NULL,
    first_at        timestamptz NOT NULL DEFAULT now(),
    reported_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT flow_report_head_pkey PRIMARY KEY (node_id, boot_id)
);

-- A bounded sample of single flow records, the newest; older ones are pruned.
CREATE TABLE flow_sample (
    sample_id   bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT flow_sample_pkey PRIMARY KEY,
    -- Of node, boot id and content, so that a repeated report adds none.
    fingerprint bytea NOT NULL CONSTRAINT flow_sample_fingerprint UNIQUE,
    node_id     text COLLATE "C" NOT NULL,
    layers      text[] NOT NULL,
    -- An encoded sockpilot.v1.FlowSample.
    sample      bytea NOT NULL
);

-- Who changed what. Rows are only added.
CREATE TABLE audit (
    sequence     bigint CONSTRAINT audit_pkey PRIMARY KEY,
    at           timestamptz NOT NULL DEFAULT now(),
    actor        text NOT NULL,
    method       text NOT NULL,
    name         text COLLATE "C" NOT NULL,
    revision     bigint NOT NULL,
    reason       text NOT NULL,
    request_json json NOT NULL,
    -- The generation that the change made.
    generation   bigint NOT NULL
);
CREATE INDEX audit_by_name ON audit (name, sequence);

-- Answers given under a request id, kept for 24 hours.
CREATE TABLE answered_request (
    request_id   uuid CONSTRAINT answered_request_pkey PRIMARY KEY,
    method       text NOT NULL,
    -- SHA-256 of the request as JSON.
    request_hash bytea NOT NULL,
    -- The encoded answer.
    response     bytea NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX answered_request_by_age ON answered_request (created_at);
