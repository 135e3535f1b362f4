-- Where each table is on Postgres with Citus, as a comment of the table: `distribution: local` (on the coordinator) or `distribution: by COLUMN`
-- (in shards), and why. Without Citus it means nothing; docs/database.md has the one call that distributes.
--
-- What grows with nodes and time is flow_cell, so it is what is distributed: by its source, so that a report, all of whose cells are of one
-- source, goes to one shard. Everything else is bounded by the number of nodes and of changes, and stays on the coordinator, because it needs
-- what Citus has not across shards: the lock of control, before which all changes queue; SELECT … FOR UPDATE and advisory locks over several
-- rows; triggers (the chain of the audit log); unique keys beside the one that distributes; identities that are integers; the view
-- node_assignment, which pairs every node with every layer.
COMMENT ON TABLE flow_cell IS 'distribution: by source_id; a report is of one source, so it goes to one shard; questions and roll-ups go to all';

COMMENT ON TABLE control IS 'distribution: local; one row, locked by every change';
COMMENT ON TABLE zone_map IS 'distribution: local; one row';
COMMENT ON TABLE leader IS 'distribution: local; one row, locked by every write for the fleet';
COMMENT ON TABLE outcome_kept IS 'distribution: local; one row';
COMMENT ON TABLE rollout_settings IS 'distribution: local; one row';
COMMENT ON TABLE access_version IS 'distribution: local; one row';
COMMENT ON TABLE server IS 'distribution: local; a row for each replica';

COMMENT ON TABLE layer_object IS 'distribution: local; changed under the lock of control';
COMMENT ON TABLE revision IS 'distribution: local; changed under the lock of control';
COMMENT ON TABLE assignment IS 'distribution: local; changed under the lock of control, with partial unique keys';
COMMENT ON TABLE assignment_wave IS 'distribution: local; as assignment';
COMMENT ON TABLE assignment_wave_node IS 'distribution: local; as assignment';
COMMENT ON TABLE confirmed_revision IS 'distribution: local; a row for each revision';
COMMENT ON TABLE experiment_look IS 'distribution: local; a row for each epoch';
COMMENT ON TABLE experiment_conclusion IS 'distribution: local; a row for each experiment';
COMMENT ON TABLE verdict IS 'distribution: local; a row for each verdict';
COMMENT ON TABLE rollout_plan IS 'distribution: local; changed under the lock of control';
COMMENT ON TABLE rollout IS 'distribution: local; changed under the lock of control, with partial unique keys';
COMMENT ON TABLE rollout_transition IS 'distribution: local; as rollout';
COMMENT ON TABLE breaker_trip IS 'distribution: local; as rollout';
COMMENT ON TABLE kill_switch IS 'distribution: local; changed under the lock of control';
COMMENT ON TABLE audit IS 'distribution: local; a chain, made by a trigger';
COMMENT ON TABLE answered_request IS 'distribution: local; in the transaction of the change, kept for a day';
COMMENT ON TABLE person IS 'distribution: local; few rows';
COMMENT ON TABLE token IS 'distribution: local; with two unique keys';
COMMENT ON TABLE revocation IS 'distribution: local; few rows';
COMMENT ON TABLE pinned_labels IS 'distribution: local; few rows';

COMMENT ON TABLE node IS 'distribution: local; a row for each node, written for many nodes in one statement, and paired with all layers';
COMMENT ON TABLE node_layer IS 'distribution: local; as node';
COMMENT ON TABLE node_refusal IS 'distribution: local; as node';
COMMENT ON TABLE flow_report_head IS 'distribution: local; a row for each source, with two unique keys';
COMMENT ON TABLE flow_sample IS 'distribution: local; bounded in number, with two unique keys';
COMMENT ON TABLE outcome_choice IS 'distribution: local; a row for each rule of each revision, with two unique keys';
COMMENT ON TABLE flow_rollup IS 'distribution: local; merged over all nodes, so it does not grow with their number';
COMMENT ON TABLE flow_rollup_made IS 'distribution: local; as flow_rollup';
COMMENT ON TABLE flow_rollup_stale IS 'distribution: local; as flow_rollup';
