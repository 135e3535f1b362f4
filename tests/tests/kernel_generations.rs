//! While policies change at full speed under churn, every connection sees one generation, whole, and none goes without.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use sockpilot_proto::v1;
use sockpilot_tests::{
    cgroup::Cgroup,
    control::Control,
    documents::{policy_layer, rule},
    machine::{Needs, scenario},
    node::Node,
    shaper::Character,
    traffic::{Facts, Opening},
    world::{Pair, Wire, socket},
};

const CHURN: Duration = Duration::from_secs(8);
const LAYER: &str = "test";
const FIRST_CLAMP: u32 = 20;
const FIRST_BUFFER: u32 = 100_000;
const BUFFER_STEP: u32 = 1_000;
/// Of the receive window on the wire, in packets; small enough never to be cut.
const WINDOWS: u32 = 20;
/// A little less than the bytes of a segment, with or without timestamps.
const SEGMENT: u32 = 1_440;

/// A generation's number is in three parameters, which are set at three moments of a connection's life: the buffer when it
/// connects (or is established, if passive), the clamp when it is established, the window at the SYN or the SYN-ACK.
fn numbered(number: u32) -> v1::Parameters {
    v1::Parameters {
        cwnd_clamp_packets: Some(FIRST_CLAMP + number),
        send_buffer_bytes: Some(FIRST_BUFFER + BUFFER_STEP * number),
        initial_receive_window_packets: Some(2 + number % WINDOWS),
        ..v1::Parameters::default()
    }
}

/// The number that a socket has by its clamp, if its buffer says the same.
fn number_of(facts: &Facts) -> Result<u32> {
    let by_clamp = facts.ssthresh.checked_sub(FIRST_CLAMP);
    let by_buffer = (facts.send_buffer / 2).checked_sub(FIRST_BUFFER).map(|rest| rest / BUFFER_STEP);
    ensure!(by_clamp.is_some() && by_clamp == by_buffer, "a mix, or no decision: {facts:?}");
    by_clamp.context("checked")
}

#[test]
fn no_connection_sees_a_mix_or_nothing() {
    scenario(Needs::Kernel, |machine| {
        // A delay keeps connections in the middle of their handshake while generations change.
        let wire = Wire::new(Character { delay: Duration::from_millis(4), ..Character::default() })?;
        let cgroup = Cgroup::new(machine, "managed")?;
        let control = Control::start()?;
        let _node = Node::start(machine, "node", &control.url(), &cgroup, &[])?;
        let mut pair = Pair::start(machine, &wire, Some(&cgroup), Some(&cgroup))?;
        let enforce = |number| {
            let rules = vec![rule("only", v1::Match::default(), numbered(number))];
            control.enforce(vec![policy_layer(LAYER, u64::from(number) + 1, 1, rules)])
        };
        enforce(0)?;
        pair.client.start_opening(&Opening { at_once: 16, ..Opening::new(socket("10.1.0.2", pair.port)?, 0) })?;
        let began = Instant::now();
        let mut generations = 0;
        while began.elapsed() < CHURN {
            generations += 1;
            enforce(generations)?;
        }
        let flows = pair.client.stop()?;
        let accepted: HashMap<_, _> = pair.server.accepted()?.into_iter().map(|a| (a.remote, a.opened)).collect();

        for flow in &flows {
            ensure!(flow.error.is_none(), "{flow:?}");
            number_of(flow.opened.as_ref().context("not established")?)?;
            number_of(accepted.get(&flow.local).with_context(|| format!("never accepted: {flow:?}"))?)?;
        }
        // A port that was used twice would mix two connections up.
        let mut uses: HashMap<_, u32> = HashMap::new();
        flows.iter().for_each(|flow| *uses.entry(flow.local).or_default() += 1);
        let once = |end: &SocketAddr| uses.get(end) == Some(&1);
        // What stood on the wire during the handshake belongs to the same generation as the socket.
        let mut compared = 0;
        let opened: HashMap<_, _> = flows.iter().map(|flow| (flow.local, flow.opened.as_ref())).collect();
        for sighting in wire.link.sightings() {
            let (client, facts) = match sighting.segment.is_syn() {
                true => (sighting.segment.source, opened.get(&sighting.segment.source).copied().flatten()),
                false => (sighting.segment.destination, accepted.get(&sighting.segment.destination)),
            };
            let Some(facts) = facts.filter(|_| once(&client)) else { continue };
            let window = u32::from(sighting.segment.window) / SEGMENT;
            ensure!(window == 2 + number_of(facts)? % WINDOWS, "{sighting:?} but {facts:?}");
            compared += 1;
        }
        println!("{} connections, {generations} generations, {compared} handshake segments", flows.len());
        ensure!(flows.len() > 1_000 && generations > 20 && compared > 2_000, "too little happened to prove anything");

        control.wait_for_flows(&format!("policies/{LAYER}"), 2 * flows.len() as u64)
    });
}
