-- An experiment is a design, words and a lifecycle. Other words make no new epoch, so they stand beside the document.
ALTER TABLE revision
    -- An encoded sockpilot.v1.Experiment of which only the words are set, in the place of those in `document`; NULL: never changed.
    -- All else of a revision never changes.
    ADD COLUMN words bytea;

-- A revision with what is known of its object.
CREATE VIEW layer_document AS
SELECT revision.name,
       revision.revision,
       revision.uid,
       revision.document,
       revision.words,
       revision.created_at,
       revision.creator,
       layer_object.kind,
       layer_object.uid AS object_uid,
       layer_object.version,
       layer_object.latest_revision,
       layer_object.deleted_at,
       -- Of an experiment, from whom it is and was for; NULL: a policy.
       CASE
           WHEN layer_object.kind <> 'experiments' THEN NULL
           WHEN EXISTS (
               SELECT FROM assignment WHERE assignment.name = revision.name AND assignment.ended_at IS NULL
           ) THEN 'running'
           WHEN EXISTS (
               SELECT FROM assignment
               JOIN revision AS assigned USING (name, revision)
               WHERE assignment.name = revision.name AND assigned.uid = layer_object.uid
           ) THEN 'stopped'
           ELSE 'draft'
       END AS state
FROM revision
JOIN layer_object USING (name);

-- An experiment has no canary: those in force end, as if somebody had rolled them back, and the audit log says so.
WITH ended AS (
    UPDATE assignment SET ended_at = clock_timestamp()
    WHERE name LIKE 'experiments/%' AND target <> 'everyone' AND ended_at IS NULL
    RETURNING assignment_id, name, revision, target, share_bp, labels
), touched AS (
    UPDATE layer_object SET version = version + 1 FROM ended WHERE layer_object.name = ended.name
), bumped AS (
    UPDATE control SET generation = generation + 1, changed_at = clock_timestamp() WHERE EXISTS (SELECT FROM ended)
    RETURNING generation, pg_notify('sockpilot_generation', '')
)
INSERT INTO audit (sequence, actor, method, name, revision, reason, request_json, generation)
SELECT (SELECT coalesce(max(sequence), 0) FROM audit) + row_number() OVER (ORDER BY ended.assignment_id),
       'sockpilot-server',
       'Migrate',
       ended.name,
       ended.revision,
       'experiments have no canary any more, so this one was ended; assign the epoch to everyone to run it',
       json_build_object('endedTarget', ended.target, 'shareBp', ended.share_bp, 'labels', ended.labels),
       bumped.generation
FROM ended, bumped;

-- Servers of an earlier version that still run cannot make one either.
ALTER TABLE assignment ADD CONSTRAINT assignment_canary_of_policy CHECK (
    target = 'everyone' OR ended_at IS NOT NULL OR name LIKE 'policies/%'
);

-- A canary is the union of waves, each a selector, with positions among the shares that are its own.
ALTER TABLE assignment
    -- Input of the positions; empty: those of the nodes, as in every canary that was made before there were waves.
    ADD COLUMN salt text NOT NULL DEFAULT '';

CREATE TABLE assignment_wave (
    assignment_id bigint NOT NULL,
    -- From 1. A node is in the first wave that admits it.
    wave          smallint NOT NULL,
    -- One of the two, or neither: the nodes of assignment_wave_node.
    share_bp      integer,
    labels        jsonb,
    CONSTRAINT assignment_wave_pkey PRIMARY KEY (assignment_id, wave),
    CONSTRAINT assignment_wave_of_assignment FOREIGN KEY (assignment_id) REFERENCES assignment (assignment_id),
    CONSTRAINT assignment_wave_number CHECK (wave BETWEEN 1 AND 64),
    CONSTRAINT assignment_wave_share CHECK (share_bp BETWEEN 1 AND 9999),
    CONSTRAINT assignment_wave_selector CHECK (share_bp IS NULL OR labels IS NULL)
);

-- Nodes that a wave names, whether or not there are such. The key is that of the question: is this node named, and where.
CREATE TABLE assignment_wave_node (
    assignment_id bigint NOT NULL,
    node_id       text COLLATE "C" NOT NULL,
    wave          smallint NOT NULL,
    CONSTRAINT assignment_wave_node_pkey PRIMARY KEY (assignment_id, node_id),
    CONSTRAINT assignment_wave_node_of_wave FOREIGN KEY (assignment_id, wave)
        REFERENCES assignment_wave (assignment_id, wave)
);

INSERT INTO assignment_wave (assignment_id, wave, share_bp, labels)
SELECT assignment_id, 1, share_bp, labels FROM assignment WHERE target <> 'everyone';

-- Where a node stands among the shares of a canary: the same rule that the server's wave.rs follows. 0..9999: it belongs to a
-- share of n basis points if this is below n.
CREATE FUNCTION wave_position(salt text, node_id text, share_position integer) RETURNS integer
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
    WHEN salt = '' THEN share_position
    ELSE (('x' || substr(encode(sha256(convert_to(salt || '/' || node_id, 'UTF8')), 'hex'), 1, 8))::bit(32)::bigint % 10000)::integer
END;

-- Who should run what, by which decision, since when, and of a canary in which wave: the same rule that the server's resolve.rs
-- follows.
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
WHERE layer_object.deleted_at IS NULL;

-- 'everyone' or 'canary'; the waves say which nodes. Servers of an earlier version that still run can change nothing from here on,
-- which is better than canaries without waves.
ALTER TABLE assignment
    DROP CONSTRAINT assignment_target,
    DROP COLUMN share_bp,
    DROP COLUMN labels;
UPDATE assignment SET target = 'canary' WHERE target <> 'everyone';
ALTER TABLE assignment
    ADD CONSTRAINT assignment_target CHECK (target = 'canary' OR (target = 'everyone' AND salt = ''));
