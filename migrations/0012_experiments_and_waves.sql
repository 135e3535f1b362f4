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
