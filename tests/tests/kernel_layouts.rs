//! Versions of the daemon with different layouts of the kernel's tables take over from each other, up and down, under churn and killed at
//! any moment: no connection goes without its policy, none is counted twice, and what is lost is counted.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use sockpilot_proto::v1;
use sockpilot_tests::{
    documents::{policy_layer, rule},
    machine::{Needs, scenario},
    node::{NEXT, PROGRAM},
    traffic::Opening,
    wait::{eventually, pass},
    world::{Site, short_path, socket},
};

const LAYER: &str = "policies/web";
const PATIENCE: Duration = Duration::from_secs(60);
const FIRST_CLAMP: u32 = 20;
/// How long a daemon lives before it is killed, in milliseconds: before, while and after it takes over.
const LIVES_MS: [u64; 5] = [20, 300, 800, 1_500, 2_500];
/// Connections that are open from beginning to end, each with two ends.
const KEPT: u64 = 3;

/// One parameter shows on sockets which revision decided; the other is decided at the SYN.
fn layers(number: u32) -> Vec<v1::Layer> {
    let set = v1::Parameters {
        cwnd_clamp_packets: Some(FIRST_CLAMP + number),
        synack_rto_ms: Some(1_000 + number),
        ..v1::Parameters::default()
    };
    vec![policy_layer("web", number.into(), 10, vec![rule("all", v1::Match::default(), set)])]
}

/// Puts the next revision in force, once the daemon is there that has connected after so many before.
fn enforce(site: &Site<'_>, before: usize, number: &mut u32) -> Result<()> {
    // Loading its programs takes long where the machine is busy.
    eventually("the daemon connects", PATIENCE, || {
        let hellos = site.control.hellos().len();
        ensure!(hellos > before, "{hellos} hellos");
        Ok(())
    })?;
    *number += 1;
    site.control.enforce(layers(*number))?;
    Ok(())
}

/// Of all reports.
fn dropped(site: &Site<'_>) -> u64 {
    let newest: BTreeMap<_, _> =
        site.control.reports().into_iter().map(|report| (report.boot_id, report.records_dropped)).collect();
    newest.values().sum()
}

/// Directories of pins.
fn sides(site: &Site<'_>) -> Result<usize> {
    Ok(std::fs::read_dir(site.node.pins()).context("listing the pins")?.count())
}

#[test]
fn versions_of_different_layouts_hand_over_under_churn() {
    scenario(Needs::Kernel, |machine| {
        let mut site = Site::over(machine, short_path(), true, &["--handover-limit-s", "15"])?;
        let mut number = 0;
        enforce(&site, 0, &mut number)?;
        for _ in 0..KEPT {
            site.pair.client.keep("10.1.0.1".parse()?)?;
        }
        let to = socket("10.1.0.2", site.pair.port)?;
        let churn = Opening { at_once: 6, pause_ms: 5, hold_ms: 40, ..Opening::new(to, 0) };
        site.pair.client.start_opening(&churn)?;
        let mut handovers = 0;
        for program in [NEXT, PROGRAM, NEXT, PROGRAM] {
            // In order, as an upgrade is; what follows are deaths.
            site.node.process().terminate()?;
            let before = site.control.hellos().len();
            site.node.restart_as(program)?;
            enforce(&site, before, &mut number)?;
            handovers += 1;
        }
        for (life_ms, program) in LIVES_MS.into_iter().zip([NEXT, PROGRAM].into_iter().cycle()) {
            site.node.kill()?;
            site.node.restart_as(program)?;
            pass(Duration::from_millis(life_ms))?;
        }
        site.node.kill()?;
        let before = site.control.hellos().len();
        site.node.restart_as(NEXT)?;
        enforce(&site, before, &mut number)?;
        let flows = site.pair.client.stop()?;
        for flow in &flows {
            let facts = flow.opened.as_ref().with_context(|| format!("a connection failed: {flow:?}"))?;
            let known = facts.ssthresh.checked_sub(FIRST_CLAMP).filter(|known| (1..=number).contains(known));
            known.with_context(|| format!("a connection without its policy: {flow:?}"))?;
        }

        // Everything ends but what is kept, and that at the limit.
        eventually("earlier sides end", PATIENCE, || {
            let sides = sides(&site)?;
            ensure!(sides == 1, "there are {sides} sides");
            Ok(())
        })?;
        let ends = 2 * flows.len() as u64;
        eventually("every connection is counted", PATIENCE, || {
            let (counted, dropped) = (site.control.flows(LAYER).values().sum::<u64>(), dropped(&site));
            ensure!((counted, dropped) == (ends, 2 * KEPT), "{counted} of {ends}, and {dropped} lost of {}", 2 * KEPT);
            Ok(())
        })?;
        // Once more changes nothing, and the last side is adopted as it is.
        site.node.kill()?;
        let before = site.control.hellos().len();
        site.node.restart()?;
        enforce(&site, before, &mut number)?;
        pass(Duration::from_secs(3))?;
        let counted = site.control.flows(LAYER).values().sum::<u64>();
        ensure!((counted, dropped(&site), sides(&site)?) == (ends, 2 * KEPT, 1), "{counted} after another restart");
        println!("{} connections over {handovers} handovers in order and more by death, {KEPT} lost", flows.len());
        Ok(())
    });
}
