//! Connections that stay open are told about all the same, by a daemon that looks into other network namespaces than its own.

use std::time::Duration;

use anyhow::ensure;
use sockpilot_proto::v1;
use sockpilot_tests::{
    documents::{policy_layer, rule},
    machine::{Needs, scenario},
    traffic::Opening,
    wait::eventually,
    world::{Site, socket},
};

const LAYER: &str = "policies/test";
const FLOWS: u64 = 4;
const UPLOAD: u32 = 30_000;

#[test]
fn flows_are_counted_when_they_end_and_their_bytes_before() {
    scenario(Needs::Kernel, |machine| {
        let mut site = Site::start(machine, &["--long-flow-interval-s", "1"])?;
        let (pair, control) = (&mut site.pair, &site.control);
        let all = rule("all", v1::Match::default(), v1::Parameters::default());
        control.enforce(vec![policy_layer("test", 1, 1, vec![all])])?;

        let at = socket("10.1.0.2", pair.port)?;
        let opening =
            Opening { upload: UPLOAD, hold_ms: 4_000, at_once: FLOWS as usize, ..Opening::new(at, FLOWS as usize) };
        pair.client.start_opening(&opening)?;
        eventually("each was told about twice while open", Duration::from_secs(20), || {
            let counts = control.counts(LAYER);
            ensure!(counts.flows == 0, "none has ended: {counts:?}");
            ensure!(counts.still_open >= 2 * FLOWS, "{counts:?}");
            ensure!(counts.bytes_sent >= FLOWS * u64::from(UPLOAD), "{counts:?}");
            Ok(())
        })?;
        control.wait_for_flows(LAYER, FLOWS)?;
        let counts = control.counts(LAYER);
        // Eight bytes ask for the exchange; SYN and FIN may count as a byte each.
        let bytes = FLOWS * (u64::from(UPLOAD) + 8);
        ensure!((bytes..=bytes + 2 * FLOWS).contains(&counts.bytes_sent), "{counts:?}");
        ensure!((counts.flows, counts.established) == (FLOWS, FLOWS), "{counts:?}");
        Ok(())
    });
}
