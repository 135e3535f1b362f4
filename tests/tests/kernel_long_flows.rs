//! Connections that stay open are told about all the same, by a daemon that looks into other network namespaces than its own.

use std::time::Duration;

use anyhow::ensure;
use sockpilot_proto::v1;
use sockpilot_tests::{
    cgroup::Cgroup,
    control::Control,
    documents::{policy_layer, rule},
    machine::{Needs, scenario},
    node::Node,
    traffic::Opening,
    wait::eventually,
    world::{Pair, Wire, short_path, socket},
};

const LAYER: &str = "policies/test";
const FLOWS: u64 = 4;
const UPLOAD: u32 = 30_000;

#[test]
fn flows_are_counted_when_they_end_and_their_bytes_before() {
    scenario(Needs::Kernel, |machine| {
        let wire = Wire::new(short_path())?;
        let cgroup = Cgroup::new(machine, "managed")?;
        let control = Control::start()?;
        let _node = Node::start(machine, "node", &control.url(), &cgroup, &["--long-flow-interval-s", "1"])?;
        let mut pair = Pair::start(machine, &wire, Some(&cgroup), None)?;
        let all = rule("all", v1::Match::default(), v1::Parameters::default());
        control.enforce(vec![policy_layer("test", 1, 1, vec![all])])?;
        let total = || {
            let mut sum = v1::FlowCounts::default();
            for counts in control.cells(LAYER).into_iter().filter_map(|cell| cell.counts) {
                sum.flows += counts.flows;
                sum.established += counts.established;
                sum.still_open += counts.still_open;
                sum.bytes_sent += counts.bytes_sent;
            }
            sum
        };

        let at = socket("10.1.0.2", pair.port)?;
        let opening =
            Opening { upload: UPLOAD, hold_ms: 4_000, at_once: FLOWS as usize, ..Opening::new(at, FLOWS as usize) };
        pair.client.start_opening(&opening)?;
        eventually("each was told about twice while open", Duration::from_secs(20), || {
            let counts = total();
            ensure!(counts.flows == 0, "none has ended: {counts:?}");
            ensure!(counts.still_open >= 2 * FLOWS, "{counts:?}");
            ensure!(counts.bytes_sent >= FLOWS * u64::from(UPLOAD), "{counts:?}");
            Ok(())
        })?;
        control.wait_for_flows(LAYER, FLOWS)?;
        let counts = total();
        // Eight bytes ask for the exchange; SYN and FIN may count as a byte each.
        let bytes = FLOWS * (u64::from(UPLOAD) + 8);
        ensure!((bytes..=bytes + 2 * FLOWS).contains(&counts.bytes_sent), "{counts:?}");
        ensure!((counts.flows, counts.established) == (FLOWS, FLOWS), "{counts:?}");
        Ok(())
    });
}
