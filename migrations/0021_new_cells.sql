-- The latest beginning of an interval among the cells that a source has reported. Those of later intervals are new, so they are inserted into
-- flow_cell and not looked for there first. NULL: not known, as of sources that reported to servers of an earlier version only. That it
-- may be too early, because such a server still runs beside newer ones, costs time and nothing else: a report whose cells are there already is
-- taken in a second time, without trusting this.
ALTER TABLE flow_report_head ADD COLUMN newest_start_s bigint;
