-- Revisions that a node has had in force, and who was the first: whether anybody knows that a revision works.
CREATE TABLE confirmed_revision (
    name         text COLLATE "C" NOT NULL,
    revision     bigint NOT NULL,
    node_id      text COLLATE "C" NOT NULL,
    confirmed_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT confirmed_revision_pkey PRIMARY KEY (name, revision),
    CONSTRAINT confirmed_revision_of_revision FOREIGN KEY (name, revision) REFERENCES revision (name, revision)
);
-- Of what was confirmed before, only the last is known.
INSERT INTO confirmed_revision (name, revision, node_id, confirmed_at)
SELECT DISTINCT ON (layer, confirmed_revision) layer, confirmed_revision, node_id, coalesce(confirmed_at, now())
FROM node_layer
JOIN revision ON revision.name = layer AND revision.revision = confirmed_revision
ORDER BY layer, confirmed_revision, confirmed_at;
