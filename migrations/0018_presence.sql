-- A node is there while the server that holds its stream is: the server says so once for all its nodes (server.seen_at), and no row is written
-- for a node that only says that it is still there.
ALTER TABLE node
    -- The server that holds the node, and the stream by which it does. If stream_id is another one, a server of an earlier version has the
    -- node, which writes last_seen_at every few seconds.
    ADD COLUMN server_id        uuid,
    ADD COLUMN server_stream_id uuid;

-- When a node was heard of last; of one that is held, as far as that is known without asking its server.
CREATE OR REPLACE VIEW node_presence AS
SELECT node.node_id,
       node.stream_id IS NOT NULL AND greatest(node.last_seen_at, holder.seen_at) > now() - interval '20 seconds' AS connected,
       greatest(node.last_seen_at, holder.seen_at) AS heard_at
FROM node
LEFT JOIN server AS holder ON holder.server_id = node.server_id AND node.server_stream_id = node.stream_id;

-- What is in force, of any policy or experiment.
CREATE INDEX assignment_in_force ON assignment (name) WHERE ended_at IS NULL;
