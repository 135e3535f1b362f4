-- Experiments end by themselves, are judged, and are concluded.

-- When what an assignment gives ends by itself; NULL: it does not.
ALTER TABLE assignment ADD COLUMN ends_at timestamptz;

-- Verdicts, each with all that it was drawn from. Rows are never changed.
CREATE TABLE verdict (
    verdict_id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT verdict_pkey PRIMARY KEY,
    name       text COLLATE "C" NOT NULL,
    revision   bigint NOT NULL,
    drawn_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Number of a sockpilot.v1.VerdictKind, and the arm that it names.
    kind       smallint NOT NULL,
    arm        text COLLATE "C" NOT NULL,
    -- An encoded sockpilot.v1.Evidence, and the sockpilot.v1.ExperimentResults that follow from it.
    evidence   bytea NOT NULL,
    results    bytea NOT NULL,
    CONSTRAINT verdict_of_revision FOREIGN KEY (name, revision) REFERENCES revision (name, revision)
);
CREATE INDEX verdict_by_name ON verdict (name, verdict_id);

-- The least p-values of all looks at the arms' shares, by stage: a sequential test forgets no alarm.
CREATE TABLE experiment_look (
    name          text COLLATE "C" NOT NULL,
    revision      bigint NOT NULL,
    least_share_p double precision[] NOT NULL,
    CONSTRAINT experiment_look_pkey PRIMARY KEY (name, revision),
    CONSTRAINT experiment_look_of_revision FOREIGN KEY (name, revision) REFERENCES revision (name, revision)
);

-- Experiments that were concluded. Who starts one again takes it back.
CREATE TABLE experiment_conclusion (
    name         text COLLATE "C" NOT NULL,
    uid          uuid NOT NULL,
    concluded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Empty: none was shipped.
    shipped_arm  text COLLATE "C" NOT NULL,
    CONSTRAINT experiment_conclusion_pkey PRIMARY KEY (name, uid),
    CONSTRAINT experiment_conclusion_of_object FOREIGN KEY (name) REFERENCES layer_object (name)
);

CREATE OR REPLACE VIEW layer_document AS
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
           WHEN conclusion.name IS NOT NULL THEN 'concluded'
           WHEN EXISTS (
               SELECT FROM assignment
               JOIN revision AS assigned USING (name, revision)
               WHERE assignment.name = revision.name AND assigned.uid = layer_object.uid
           ) THEN 'stopped'
           ELSE 'draft'
       END AS state,
       running.started_at,
       running.ends_at,
       coalesce(conclusion.shipped_arm, '') AS shipped_arm
FROM revision
JOIN layer_object USING (name)
LEFT JOIN experiment_conclusion AS conclusion ON conclusion.name = revision.name AND conclusion.uid = layer_object.uid
LEFT JOIN assignment AS running
    ON running.name = revision.name AND running.revision = revision.revision AND running.ended_at IS NULL
        AND running.target = 'everyone' AND layer_object.kind = 'experiments';
