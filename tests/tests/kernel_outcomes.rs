//! What is recorded of a connection is what really became of it; other programs on the same sockets are left in peace.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use sockpilot_programs::SS;
use sockpilot_proto::v1;
use sockpilot_tests::{
    control::Control,
    documents::{clamp, policy_layer, rule},
    link::Way,
    machine::{Machine, Needs, scenario},
    node::Node,
    shaper::{Character, LossOf},
    traffic::{Agent, Flow, Opening},
    wait::eventually,
    world::{Pair, Site, short_path, socket},
};

const LAYER: &str = "policies/test";

/// Only the client is managed, by a rule that sets nothing: everything is recorded.
fn recorded(machine: &Machine) -> Result<Site<'_>> {
    recorded_over(machine, short_path(), false)
}

/// As [`recorded`], over another path; the server is managed too if `both`.
fn recorded_over(machine: &Machine, character: Character, both: bool) -> Result<Site<'_>> {
    let site = Site::over(machine, character, both, &[])?;
    site.control.enforce(everything(v1::Parameters::default()))?;
    Ok(site)
}

/// The record of one end of a connection, among those that are reported singly: all, if there are few.
fn record(
    control: &Control,
    direction: v1::Direction,
    local: SocketAddr,
    remote: SocketAddr,
) -> Result<v1::FlowSample> {
    let samples = control.reports().into_iter().flat_map(|report| report.samples);
    let at = |address: &str, port: u32| -> Result<SocketAddr> { socket(address, port.try_into()?) };
    for sample in samples.filter(|sample| sample.direction() == direction) {
        let ends = (at(&sample.local_address, sample.local_port)?, at(&sample.remote_address, sample.remote_port)?);
        if ends == (local, remote) {
            return Ok(sample);
        }
    }
    bail!("no {direction:?} record of {local} and {remote}")
}

/// All cells together, once they hold this many flows.
fn totals_of(control: &Control, flows: u64) -> Result<v1::FlowCounts> {
    control.wait_for_flows(LAYER, flows)?;
    Ok(control.counts(LAYER))
}

fn everything(set: v1::Parameters) -> Vec<v1::Layer> {
    vec![policy_layer("test", 1, 1, vec![rule("all", v1::Match::default(), set)])]
}

#[test]
fn bytes_and_times_are_those_of_the_connection() {
    scenario(Needs::Kernel, |machine| {
        const FLOWS: u64 = 20;
        let (upload, download) = (30_000, 70_000);
        let mut site = recorded(machine)?;
        let opening = Opening {
            upload,
            download,
            at_once: 2,
            ..Opening::new(socket("10.1.0.2", site.pair.port)?, FLOWS as usize)
        };
        let flows = site.pair.client.open(&opening)?;
        ensure!(flows.iter().all(|flow| flow.error.is_none()), "{flows:?}");
        let totals = totals_of(&site.control, FLOWS)?;
        ensure!(totals.established == FLOWS && totals.failed + totals.reset + totals.timed_out == 0, "{totals:?}");
        // Eight bytes ask for the exchange; the kernel counts SYN and FIN as a byte each where they were acknowledged in time.
        let close = |found: u64, bytes: u64| (FLOWS * bytes..=FLOWS * (bytes + 2)).contains(&found);
        ensure!(close(totals.bytes_sent, u64::from(upload) + 8), "{totals:?}");
        ensure!(close(totals.bytes_received, download.into()), "{totals:?}");

        let cells = site.control.cells(LAYER);
        let connect: Vec<_> = cells.iter().filter_map(|cell| cell.connect_time_us.as_ref()).collect();
        let (least, most) = (flows.iter().map(|f| f.connect_us).min(), flows.iter().map(|f| f.connect_us).max());
        let (least, most) = (least.context("no flow")? as f64, most.context("no flow")? as f64);
        for times in connect {
            // The kernel's clock stops a little earlier than the client's.
            ensure!(
                times.min >= 10_000.0 && times.max <= most && times.min <= least,
                "{times:?} but {least} to {most} us"
            );
        }
        let window = cells[0].established_cwnd.as_ref().context("no windows")?;
        ensure!(window.min == 10.0 && window.max == 10.0, "{window:?}");
        Ok(())
    });
}

/// Handshakes over a long path, at both ends, beside what the sockets themselves measured of them.
#[test]
fn handshake_times_are_those_of_the_sockets() {
    scenario(Needs::Kernel, |machine| {
        const FLOWS: u64 = 8;
        let far = Character { delay: Duration::from_millis(30), ..Character::default() };
        let mut site = recorded_over(machine, far, true)?;
        // The server sends nothing but its FIN: its smoothed round-trip time stays what the handshake's was.
        let to = socket("10.1.0.2", site.pair.port)?;
        let opening = Opening { upload: 0, download: 0, ..Opening::new(to, FLOWS as usize) };
        let flows = site.pair.client.open(&opening)?;
        site.control.wait_for_flows(LAYER, 2 * FLOWS)?;
        let accepted = site.pair.server.accepted()?;
        for flow in &flows {
            let measured = handshake_us(flow)?;
            let active = record(&site.control, v1::Direction::Active, flow.local, to)?;
            ensure!(near(active.connect_time_us, measured), "{active:?}\n{flow:?}");
            let server = accepted.iter().find(|server| server.remote == flow.local).context("not accepted")?;
            let measured = server.opened.rtt_us.into();
            let passive = record(&site.control, v1::Direction::Passive, to, flow.local)?;
            ensure!(near(u64::from(passive.srtt_us), measured), "{passive:?}\n{server:?}");
            ensure!(passive.connect_time_us == 0, "nobody knows when the SYN came: {passive:?}");
        }
        Ok(())
    });
}

/// The wait for a lost SYN belongs to the handshake's time, though not to the round trip.
#[test]
fn a_handshake_takes_as_long_as_its_lost_syn_was_waited_for() {
    scenario(Needs::Kernel, |machine| {
        const KERNELS_WAIT_US: u64 = 1_000_000;
        let far = Character { delay: Duration::from_millis(30), ..Character::default() };
        let mut site = recorded_over(machine, far, false)?;
        let to = socket("10.1.0.2", site.pair.port)?;
        let link = &site.wire.link;
        link.set(Way::Forth, Character { loss: 1.0, loss_of: LossOf::Syn, ..far });
        let client = &mut site.pair.client;
        let flow = thread::scope(|scope| {
            let heal = scope.spawn(|| {
                eventually("a SYN is lost", Duration::from_secs(10), || {
                    ensure!(link.counts(Way::Forth).lost == 1, "{:?}", link.counts(Way::Forth));
                    link.set(Way::Forth, far);
                    Ok(())
                })
            });
            let flow = client.open(&Opening::new(to, 1));
            heal.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause)).and(flow)
        })?
        .pop()
        .context("no connection")?;
        site.control.wait_for_flows(LAYER, 1)?;
        let record = record(&site.control, v1::Direction::Active, flow.local, to)?;
        ensure!(record.syn_retransmits == 1, "{record:?}");
        ensure!(near(record.connect_time_us, KERNELS_WAIT_US + handshake_us(&flow)?), "{record:?}\n{flow:?}");
        ensure!(record.connect_time_us <= flow.connect_us, "{record:?}\n{flow:?}");
        Ok(())
    });
}

/// What the socket had measured when connect() returned: before any data that is the handshake's round trip alone.
fn handshake_us(flow: &Flow) -> Result<u64> {
    let measured = flow.opened.as_ref().with_context(|| format!("{flow:?}"))?.rtt_us.into();
    ensure!((60_000..90_000).contains(&measured), "the path is 60 ms long: {flow:?}");
    Ok(measured)
}

/// Within a tenth, and a timer's granularity: far less than a timeout.
fn near(found: u64, expected: u64) -> bool {
    found.abs_diff(expected) <= expected / 10 + 1_000
}

#[test]
fn losses_are_counted_as_the_link_and_the_sockets_count_them() {
    scenario(Needs::Kernel, |machine| {
        const FLOWS: u64 = 40;
        let mut site = recorded(machine)?;
        let at = socket("10.1.0.2", site.pair.port)?;
        site.wire.link.set(Way::Forth, Character { loss: 0.3, loss_of: LossOf::Syn, ..short_path() });
        let flows = site.pair.client.open(&Opening { at_once: 20, ..Opening::new(at, FLOWS as usize) })?;
        ensure!(flows.iter().all(|flow| flow.error.is_none()), "{flows:?}");
        let lost = site.wire.link.counts(Way::Forth).lost;
        let totals = totals_of(&site.control, FLOWS)?;
        ensure!(lost > 0 && totals.syn_retransmits == lost, "{lost} SYNs were lost: {totals:?}");

        site.wire.link.set(Way::Forth, Character { loss: 0.05, ..short_path() });
        let opening = Opening { upload: 100_000, at_once: 10, ..Opening::new(at, FLOWS as usize) };
        let flows = site.pair.client.open(&opening)?;
        site.wire.link.set(Way::Forth, short_path());
        let seen: u64 =
            flows.iter().filter_map(|flow| flow.closed.as_ref()).map(|facts| u64::from(facts.retransmits)).sum();
        let totals = totals_of(&site.control, 2 * FLOWS)?;
        let counted = totals.retransmits + totals.syn_retransmits - lost;
        // After the last look at a socket its FIN may be sent again.
        ensure!(seen > 0 && (seen..=seen + FLOWS).contains(&counted), "sockets had {seen}, {counted} were counted");
        Ok(())
    });
}

#[test]
fn connections_that_fail_are_told_from_those_that_are_reset() {
    scenario(Needs::Kernel, |machine| {
        let mut site = recorded(machine)?;
        // Nobody listens.
        let refused = site.pair.client.open(&Opening::new(socket("10.1.0.2", 9)?, 3))?;
        ensure!(refused.iter().all(|flow| flow.error.is_some()), "{refused:?}");
        let totals = totals_of(&site.control, 3)?;
        ensure!(totals.failed == 3, "{totals:?}");
        // Given up before anybody answered.
        site.wire.link.set(Way::Forth, Character { loss: 1.0, ..short_path() });
        let opening = Opening { patience_ms: 300, at_once: 2, ..Opening::new(socket("10.1.0.2", site.pair.port)?, 2) };
        site.pair.client.open(&opening)?;
        site.wire.link.set(Way::Forth, short_path());
        let totals = totals_of(&site.control, 5)?;
        ensure!((totals.failed, totals.abandoned) == (3, 2), "{totals:?}");
        // The other end dies in the middle of an exchange.
        let mut doomed = Agent::start(machine, "doomed", &site.wire.far, None)?;
        let at = doomed.listen(socket("10.1.0.2", 0)?)?;
        site.pair.client.start_opening(&Opening { hold_ms: 60_000, at_once: 4, ..Opening::new(at, 0) })?;
        eventually("four connections are open", Duration::from_secs(10), || {
            let open =
                site.wire.near.output(SS, &["-Htn", "state", "established", "dport", "=", &at.port().to_string()])?;
            ensure!(open.lines().count() == 4, "{open}");
            Ok(())
        })?;
        site.wire.near.output(SS, &["-K", "dport", "=", &at.port().to_string()])?;
        let totals = totals_of(&site.control, 9)?;
        ensure!(totals.reset + totals.timed_out + totals.established == 4, "{totals:?}");
        Ok(())
    });
}

#[test]
fn a_program_of_an_outer_and_one_of_an_inner_cgroup_serve_the_same_socket() {
    scenario(Needs::Kernel, |machine| {
        const FLOWS: u64 = 25;
        let site = recorded(machine)?;
        let inner = site.cgroup.child("inner")?;
        let control = Control::start()?;
        let _node = Node::start(machine, "inner", &control.url(), &inner, &[])?;
        let mut pair = Pair::start(machine, &site.wire, Some(&inner), None)?;
        let clamp = clamp(17);
        site.control.enforce(everything(clamp))?;
        control.enforce(everything(v1::Parameters { send_buffer_bytes: Some(90_000), ..v1::Parameters::default() }))?;
        for _ in 0..FLOWS {
            let facts = pair.one("10.1.0.2")?.opened.context("not established")?;
            ensure!(facts.ssthresh == 17 && facts.send_buffer == 180_000, "{facts:?}");
        }
        // Both follow the socket to its end: neither takes the other's callbacks away.
        site.control.wait_for_flows(LAYER, FLOWS)?;
        control.wait_for_flows(LAYER, FLOWS)
    });
}
