-- How revisions reach the fleet: plans, rollouts, and what may stop them.

-- Plans that were changed or added; those that every server knows are not here until somebody changes them.
CREATE TABLE rollout_plan (
    -- `rolloutPlans/{id}`.
    name       text COLLATE "C" CONSTRAINT rollout_plan_pkey PRIMARY KEY,
    uid        uuid NOT NULL DEFAULT gen_random_uuid(),
    revision   bigint NOT NULL,
    -- An encoded sockpilot.v1.RolloutPlan, without output-only fields.
    document   bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    creator    text NOT NULL,
    CONSTRAINT rollout_plan_name CHECK (name LIKE 'rolloutPlans/%'),
    CONSTRAINT rollout_plan_revision CHECK (revision > 0)
);

-- What holds for all rollouts.
CREATE TABLE rollout_settings (
    singleton boolean CONSTRAINT rollout_settings_pkey PRIMARY KEY DEFAULT true,
    version   bigint NOT NULL DEFAULT 1,
    -- An encoded sockpilot.v1.RolloutSettings, without output-only fields.
    document  bytea NOT NULL DEFAULT '',
    CONSTRAINT rollout_settings_is_one_row CHECK (singleton)
);
INSERT INTO rollout_settings DEFAULT VALUES;

CREATE TABLE rollout (
    -- `rollouts/{id}`.
    name              text COLLATE "C" CONSTRAINT rollout_pkey PRIMARY KEY,
    -- Grows with every change; the etag is made of it.
    version           bigint NOT NULL DEFAULT 1,
    policy            text COLLATE "C" NOT NULL,
    revision          bigint NOT NULL,
    -- What everyone had before; NULL: nothing.
    good_revision     bigint,
    -- An encoded sockpilot.v1.RolloutPlan, as it was when the rollout was made.
    plan              bytea NOT NULL,
    -- Of the waves' shares of nodes and the steps' shares of connections.
    salt              text NOT NULL,
    -- Numbers of sockpilot.v1.RolloutState and RolloutPhase.
    state             smallint NOT NULL,
    phase             smallint NOT NULL,
    -- From 1; wave 0 is an A/A.
    wave              smallint NOT NULL,
    step              smallint NOT NULL,
    -- Since when it is in this state and phase, since when the step is tried, and in force. Seconds since 1970.
    state_s           bigint NOT NULL,
    step_s            bigint NOT NULL,
    in_force_s        bigint,
    -- 0: no; 1: the wait of the present step is over because somebody said so; 2: its gates too.
    promoted          smallint NOT NULL,
    -- Goes back unless it is confirmed by then; NULL: it is, or needs not be.
    confirm_by_s      bigint,
    -- The generation that gave the present step: who has this or a later one in force has the step.
    step_generation   bigint NOT NULL DEFAULT 0,
    reason            text NOT NULL,
    -- What the gates said last: encoded sockpilot.v1.RolloutTransition of which only `gates` is set.
    gates             bytea NOT NULL DEFAULT '',
    creator           text NOT NULL,
    digest            bytea NOT NULL,
    -- Empty: nobody has.
    approver          text NOT NULL DEFAULT '',
    created_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at          timestamptz,
    CONSTRAINT rollout_of_revision FOREIGN KEY (policy, revision) REFERENCES revision (name, revision),
    CONSTRAINT rollout_promoted CHECK (promoted BETWEEN 0 AND 2),
    CONSTRAINT rollout_over CHECK ((state IN (5, 6, 7, 8)) = (ended_at IS NOT NULL))
);
-- A draft stands beside one that runs, and takes its place when it starts.
CREATE UNIQUE INDEX rollout_one_running ON rollout (policy) WHERE state IN (2, 3, 4);
CREATE INDEX rollout_active ON rollout (name) WHERE ended_at IS NULL;
CREATE INDEX rollout_by_policy ON rollout (policy, created_at);

-- Every change of a rollout's state. Rows are never changed.
CREATE TABLE rollout_transition (
    transition_id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT rollout_transition_pkey PRIMARY KEY,
    rollout       text COLLATE "C" NOT NULL,
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- An encoded sockpilot.v1.RolloutTransition without `time`.
    transition    bytea NOT NULL,
    CONSTRAINT rollout_transition_of_rollout FOREIGN KEY (rollout) REFERENCES rollout (name)
);
CREATE INDEX rollout_transition_by_rollout ON rollout_transition (rollout, transition_id);

-- Canaries that the circuit breaker of a node has ended.
CREATE TABLE breaker_trip (
    node_id     text COLLATE "C" NOT NULL,
    rollout     text COLLATE "C" NOT NULL,
    -- An encoded sockpilot.v1.BreakerTrip.
    trip        bytea NOT NULL,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT breaker_trip_pkey PRIMARY KEY (rollout, node_id),
    CONSTRAINT breaker_trip_of_rollout FOREIGN KEY (rollout) REFERENCES rollout (name)
);

-- What is switched off past every rollout: a policy, an experiment, or (`-`) everything.
CREATE TABLE kill_switch (
    target  text COLLATE "C" CONSTRAINT kill_switch_pkey PRIMARY KEY,
    reason  text NOT NULL,
    actor   text NOT NULL,
    since   timestamptz NOT NULL DEFAULT clock_timestamp()
);

ALTER TABLE assignment
    -- Of a canary: of the connections on the nodes of its last wave, in basis points. Those of the waves before have all.
    ADD COLUMN flow_share_bp integer NOT NULL DEFAULT 10000,
    ADD CONSTRAINT assignment_flow_share CHECK (flow_share_bp BETWEEN 1 AND 10000);

-- As before, without what is switched off.
CREATE OR REPLACE VIEW node_assignment AS
SELECT node.node_id,
       layer_object.name AS layer,
       chosen.revision,
       chosen.assignment_id,
       chosen.target,
       chosen.reason,
       chosen.actor,
       chosen.started_at,
       chosen.wave
FROM node
CROSS JOIN layer_object
CROSS JOIN LATERAL (
    SELECT assignment.revision,
           assignment.assignment_id,
           assignment.target,
           assignment.reason,
           assignment.actor,
           assignment.started_at,
           first.wave
    FROM assignment
    JOIN revision USING (name, revision)
    LEFT JOIN LATERAL (
        SELECT min(assignment_wave.wave) AS wave
        FROM assignment_wave
        WHERE assignment_wave.assignment_id = assignment.assignment_id
          AND (
              wave_position(assignment.salt, node.node_id, node.share_position) < assignment_wave.share_bp
              OR node.labels @> assignment_wave.labels
              OR EXISTS (
                  SELECT FROM assignment_wave_node
                  WHERE assignment_wave_node.assignment_id = assignment.assignment_id
                    AND assignment_wave_node.node_id = node.node_id
                    AND assignment_wave_node.wave = assignment_wave.wave
              )
          )
    ) AS first ON assignment.target <> 'everyone'
    WHERE assignment.name = layer_object.name
      AND assignment.ended_at IS NULL
      AND node.labels @> revision.node_labels
      AND (assignment.target = 'everyone' OR first.wave IS NOT NULL)
    ORDER BY assignment.target = 'everyone'
    LIMIT 1
) AS chosen
WHERE layer_object.deleted_at IS NULL
  AND NOT EXISTS (SELECT FROM kill_switch WHERE target IN (layer_object.name, '-'));
