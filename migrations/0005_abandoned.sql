-- Connections that the program itself closed before they were established. In cells that were stored before they are among
-- the failed.
ALTER TABLE flow_cell
    ADD COLUMN abandoned bigint NOT NULL DEFAULT 0;
