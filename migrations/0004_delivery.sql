-- What came of the packets sent: delivered to the peer, of these acknowledged with the echo of a congestion mark, and got
-- twice by the peer. Cells that were stored before have 0.
ALTER TABLE flow_cell
    ADD COLUMN delivered_packets    bigint NOT NULL DEFAULT 0,
    ADD COLUMN ce_marked_packets    bigint NOT NULL DEFAULT 0,
    ADD COLUMN spurious_retransmits bigint NOT NULL DEFAULT 0;
