-- Who may do what. Every replica has all of it in memory, and looks every second whether it has changed.

-- One row; grows with every change of the tables below.
CREATE TABLE access_version (
    singleton boolean CONSTRAINT access_version_pkey PRIMARY KEY DEFAULT true,
    version   bigint NOT NULL DEFAULT 1,
    CONSTRAINT access_version_is_one_row CHECK (singleton)
);
INSERT INTO access_version DEFAULT VALUES;

-- What people may do. Roles as in certificates: viewer, operator, admin. Bounds: {"name_prefix": …, "node_labels": {…}}.
CREATE TABLE person (
    name  text COLLATE "C" CONSTRAINT person_pkey PRIMARY KEY,
    role  text COLLATE "C" NOT NULL,
    bound jsonb NOT NULL
);

-- Tokens, as hashes (SHA-256 of 256 random bits: nothing to be guessed). With a role they are for calls of people, without for one node to
-- join. Those that have run out go after a month.
CREATE TABLE token (
    token_id   uuid CONSTRAINT token_pkey PRIMARY KEY,
    hash       bytea NOT NULL,
    role       text COLLATE "C",
    -- Whose, or of the node that may join; empty: any new one.
    holder     text COLLATE "C" NOT NULL,
    bound      jsonb NOT NULL,
    -- Of the certificate of who joins.
    labels     jsonb NOT NULL,
    creator    text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    -- Of one to join.
    used_at    timestamptz,
    used_by    text COLLATE "C",
    CONSTRAINT token_hash_key UNIQUE (hash)
);

-- Nodes (`nodes/NODE`) and people (`people/NAME`) that were shut out, and from when on what they have counts again.
CREATE TABLE revocation (
    name       text COLLATE "C" CONSTRAINT revocation_pkey PRIMARY KEY,
    revoked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    shut_out   boolean NOT NULL DEFAULT true,
    reason     text NOT NULL
);

-- Labels that nodes have, whatever they say.
CREATE TABLE pinned_labels (
    node_id text COLLATE "C" CONSTRAINT pinned_labels_pkey PRIMARY KEY,
    labels  jsonb NOT NULL
);
