//! Recorded flows: their weights add up to all flows, and what no layer matched is recorded in the share that was asked for.

use std::time::Duration;

use anyhow::{Result, ensure};
use sockpilot_proto::v1;
use sockpilot_tests::{
    control::Control,
    documents::{policy_layer, rule},
    machine::{Needs, scenario},
    traffic::Opening,
    wait::eventually,
    world::{Site, socket},
};

/// Only what goes to the far end's first address is matched.
fn first_address() -> Vec<v1::Layer> {
    let first = v1::Match { remote_prefixes: vec!["10.1.0.2/32".to_owned()], ..v1::Match::default() };
    vec![policy_layer("test", 1, 1, vec![rule("first", first, v1::Parameters::default())])]
}

/// Weights of what is recorded, of flows that a layer matched and of those that none did; and how many records these are.
fn weights(control: &Control) -> ((f64, f64), usize) {
    let samples: Vec<_> = control.reports().into_iter().flat_map(|report| report.samples).collect();
    let (matched, unmatched): (Vec<_>, Vec<_>) =
        samples.iter().partition(|sample: &&v1::FlowSample| !sample.attributions.is_empty());
    let sum = |samples: &[&v1::FlowSample]| samples.iter().map(|sample| sample.weight).sum();
    ((sum(&matched), sum(&unmatched)), unmatched.len())
}

fn open(site: &mut Site<'_>, address: &str, count: usize) -> Result<()> {
    let opening = Opening { at_once: 16, ..Opening::new(socket(address, site.pair.port)?, count) };
    let flows = site.pair.client.open(&opening)?;
    ensure!(flows.iter().all(|flow| flow.error.is_none()), "{flows:?}");
    Ok(())
}

#[test]
fn weights_add_up_to_all_flows() {
    scenario(Needs::Kernel, |machine| {
        let mut site = Site::start(machine, &["--record-unmatched-bp", "10000"])?;
        site.control.enforce(first_address())?;
        // More than a report has room for.
        open(&mut site, "10.1.0.2", 150)?;
        open(&mut site, "10.2.0.2", 90)?;
        eventually("all flows are accounted for", Duration::from_secs(20), || {
            let ((matched, unmatched), _) = weights(&site.control);
            ensure!((matched - 150.0).abs() < 1e-6, "{matched} matched");
            // One in 2^32 has a hash that is never below the bound.
            ensure!((unmatched - 90.0).abs() < 1e-3, "{unmatched} unmatched");
            Ok(())
        })?;
        let samples: Vec<_> = site.control.reports().into_iter().flat_map(|report| report.samples).collect();
        for sample in samples {
            ensure!(sample.service == "/", "{sample:?}");
            ensure!((10_000..10_000_000).contains(&sample.handshake_rtt_us), "{sample:?}");
            ensure!(sample.attributions.is_empty() == (sample.remote_address == "10.2.0.2"), "{sample:?}");
        }
        ensure!(site.control.counts("policies/test").flows == 150, "only what was matched is in cells");
        Ok(())
    });
}

#[test]
fn a_share_of_what_nothing_matched_stands_for_all_of_it() {
    const FLOWS: usize = 2_000;
    scenario(Needs::Kernel, |machine| {
        let mut site = Site::start(machine, &["--record-unmatched-bp", "2000"])?;
        site.control.enforce(first_address())?;
        open(&mut site, "10.2.0.2", FLOWS)?;
        // The matched one is the last: what was before it has been reported.
        open(&mut site, "10.1.0.2", 1)?;
        site.control.wait_for_flows("policies/test", 1)?;
        eventually("the share stands for all", Duration::from_secs(20), || {
            let ((_, unmatched), records) = weights(&site.control);
            // 400 expected, of a standard deviation of 18; those that a report had no room for are in the others' weight.
            ensure!((unmatched - FLOWS as f64).abs() < 6.0 * 18.0 * 5.0, "{unmatched} by {records} records");
            ensure!(records < FLOWS / 2, "{records}: a share only");
            Ok(())
        })
    });
}

#[test]
fn nothing_of_it_is_recorded_if_nobody_wants_it() {
    scenario(Needs::Kernel, |machine| {
        let mut site = Site::start(machine, &["--record-unmatched-bp", "0"])?;
        site.control.enforce(first_address())?;
        open(&mut site, "10.2.0.2", 200)?;
        open(&mut site, "10.1.0.2", 1)?;
        site.control.wait_for_flows("policies/test", 1)?;
        ensure!(site.control.reports().iter().all(|report| report.records_total <= 1), "only the matched one");
        Ok(())
    });
}
