-- Records of flows that were still open: their bytes, segments, retransmits and RTOs are in the sums, the flow itself is counted
-- when it ends.
ALTER TABLE flow_cell ADD COLUMN still_open bigint NOT NULL DEFAULT 0;
