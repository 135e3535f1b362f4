-- What keeps a node from being what it seems: another daemon with its id, a clock that is off, a disk that takes nothing.
ALTER TABLE node
    -- Tells the daemon that holds the id from all others; null: none does, or it does not say.
    ADD COLUMN instance           text,
    -- Where its stream comes from, or came from last.
    ADD COLUMN address            text NOT NULL DEFAULT '',
    -- Where another daemon with this id was refused, first and last; null: never, since this one holds it.
    ADD COLUMN conflict_address   text,
    ADD COLUMN conflict_since     timestamptz,
    ADD COLUMN conflict_at        timestamptz,
    -- How far the node's wall clock is ahead of this database's; null: not known.
    ADD COLUMN clock_offset_ms    bigint,
    -- What should be in its state directory and is not, separated by spaces; empty: nothing.
    ADD COLUMN not_written        text NOT NULL DEFAULT '',
    ADD COLUMN not_written_reason text NOT NULL DEFAULT '',
    ADD COLUMN not_written_since  timestamptz;
