//! When the kernel sends SYNs and SYN-ACKs again and when it gives up, on the wire: what `sockpilot_policy::schedule` computes
//! from a value and from the settings of the connection's network namespace.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use sockpilot_policy::schedule::{Schedule, Syn, SynAck};
use sockpilot_proto::v1;
use sockpilot_tests::{
    cgroup::Cgroup,
    control::Control,
    documents::{policy_layer, rule},
    link::{Sighting, Way},
    machine::{Machine, Needs, scenario},
    node::Node,
    packet::Segment,
    shaper::{Character, LossOf},
    traffic::{Agent, Flow, Opening},
    world::{Pair, Wire, short_path, socket},
};

/// More than any handshake here takes.
const PATIENCE_MS: u64 = 20_000;
/// A timer fires a few ticks late, and later on a loaded machine; never early.
const LATE_PER_TIMER: Duration = Duration::from_millis(12);
const LATE: Duration = Duration::from_millis(150);
const FIRST_PORT: u16 = 7_001;

struct Case {
    rto_ms: u32,
    retries: u32,
    max_rto_ms: Option<u32>,
    user_timeout_ms: Option<u32>,
}

const CASES: [Case; 5] = [
    Case { rto_ms: 100, retries: 3, max_rto_ms: None, user_timeout_ms: None },
    // What one doubling would take ends it before the linear timeouts are used up.
    Case { rto_ms: 200, retries: 1, max_rto_ms: None, user_timeout_ms: None },
    Case { rto_ms: 400, retries: 3, max_rto_ms: Some(1_000), user_timeout_ms: None },
    Case { rto_ms: 200, retries: 6, max_rto_ms: None, user_timeout_ms: Some(1_500) },
    // Over before the first retransmission, which comes all the same.
    Case { rto_ms: 400, retries: 6, max_rto_ms: None, user_timeout_ms: Some(100) },
];

impl Case {
    fn set(&self) -> v1::Parameters {
        v1::Parameters {
            syn_rto_ms: Some(self.rto_ms),
            syn_retries: Some(self.retries),
            max_rto_ms: self.max_rto_ms,
            user_timeout_ms: self.user_timeout_ms,
            ..v1::Parameters::default()
        }
    }

    /// In milliseconds, of which these are all whole ticks.
    fn schedule(&self, linear_timeouts: u64) -> Schedule {
        let syn = Syn {
            rto_ticks: self.rto_ms.into(),
            retries: self.retries.into(),
            linear_timeouts,
            rto_max_ticks: self.max_rto_ms.unwrap_or(120_000).into(),
            user_timeout_ticks: self.user_timeout_ms.map(u64::from),
        };
        syn.schedule()
    }
}

/// Compares transmissions, the first one included, with a schedule in milliseconds.
fn compare(times: &[Duration], schedule: &Schedule) -> Result<()> {
    let Schedule { again_ticks, given_up_ticks: _ } = schedule;
    let (first, again) = times.split_first().context("nothing was sent")?;
    ensure!(again.len() == again_ticks.len(), "{} retransmissions instead of {again_ticks:?}: {times:?}", again.len());
    for (index, (at, expected)) in again.iter().zip(again_ticks).enumerate() {
        on_time(*at - *first, *expected, index + 1).with_context(|| format!("{times:?} instead of {again_ticks:?}"))?;
    }
    Ok(())
}

fn on_time(took: Duration, expected_ms: u64, timers: usize) -> Result<()> {
    // The link sees packets a little after they were sent, the first one too.
    let early = Duration::from_millis(2);
    let expected = Duration::from_millis(expected_ms);
    let late = (took + early).checked_sub(expected).with_context(|| format!("{took:?}: before {expected:?}"))?;
    ensure!(late < LATE + LATE_PER_TIMER * timers as u32, "{took:?}: long after {expected:?}");
    Ok(())
}

fn transmissions(wire: &Wire, port: u16, wanted: impl Fn(&Segment) -> bool) -> Vec<Duration> {
    let ours =
        |s: &&Sighting| wanted(&s.segment) && [s.segment.source.port(), s.segment.destination.port()].contains(&port);
    wire.link.sightings().iter().filter(ours).map(|sighting| sighting.at).collect()
}

/// Opens one connection for each case, at the same time.
fn open_all(agents: &mut [Agent]) -> Result<Vec<Flow>> {
    thread::scope(|scope| {
        let threads: Vec<_> = agents
            .iter_mut()
            .zip(FIRST_PORT..)
            .map(|(agent, port)| {
                scope.spawn(move || -> Result<Flow> {
                    let opening = Opening { patience_ms: PATIENCE_MS, ..Opening::new(socket("10.1.0.2", port)?, 1) };
                    agent.open(&opening)?.pop().context("no connection")
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause)))
            .collect()
    })
}

#[test]
fn an_unanswered_syn_is_sent_again_when_the_schedule_says() {
    scenario(Needs::Kernel, |machine: &Machine| {
        let wire = Wire::new(short_path())?;
        let cgroup = Cgroup::new(machine, "managed")?;
        let control = Control::start()?;
        let _node = Node::start(machine, "node", &control.url(), &cgroup, &[])?;
        let rules = CASES.iter().zip(FIRST_PORT..).map(|(case, port)| {
            let matches = v1::Match { remote_ports: vec![port.to_string()], ..v1::Match::default() };
            rule(&format!("case-{port}"), matches, case.set())
        });
        control.enforce(vec![policy_layer("test", 1, 100, rules.collect())])?;
        wire.link.set(Way::Forth, Character { loss: 1.0, loss_of: LossOf::Syn, ..short_path() });
        let agents = (0..CASES.len()).map(|i| Agent::start(machine, &format!("client{i}"), &wire.near, Some(&cgroup)));
        let mut agents = agents.collect::<Result<Vec<_>>>()?;
        for linear_timeouts in [0, 4, 7] {
            wire.near.sysctl("net/ipv4/tcp_syn_linear_timeouts", &linear_timeouts.to_string())?;
            for (case, flow) in CASES.iter().zip(open_all(&mut agents)?) {
                let schedule = case.schedule(linear_timeouts);
                let what = || format!("{:?} with {linear_timeouts} linear timeouts: {flow:?}", case.set());
                ensure!(flow.error.is_some(), "{}", what());
                let times = transmissions(&wire, flow.local.port(), Segment::is_syn);
                compare(&times, &schedule).with_context(what)?;
                let took = Duration::from_micros(flow.connect_us);
                on_time(took, schedule.given_up_ticks, times.len()).context("connect() failed").with_context(what)?;
            }
        }
        Ok(())
    });
}

#[test]
fn an_unanswered_syn_ack_is_sent_again_when_the_schedule_says() {
    scenario(Needs::Kernel, |machine: &Machine| {
        // What bounds the timeouts of a SYN does not bound these.
        for (rto_ms, rto_max_ms) in [(100, 120_000), (600, 1_000)] {
            let wire = Wire::new(short_path())?;
            wire.far.sysctl("net/ipv4/tcp_synack_retries", "2")?;
            // A socket has what was there when it was made.
            wire.far.sysctl("net/ipv4/tcp_rto_max_ms", &rto_max_ms.to_string())?;
            let cgroup = Cgroup::new(machine, "managed")?;
            let control = Control::start()?;
            let _node = Node::start(machine, "node", &control.url(), &cgroup, &[])?;
            let mut pair = Pair::start(machine, &wire, Some(&cgroup), Some(&cgroup))?;
            // A SYN that is sent again is answered again, in between.
            let syn_rto_ms = Some(15_000);
            let set = v1::Parameters { synack_rto_ms: Some(rto_ms), syn_rto_ms, ..v1::Parameters::default() };
            control.enforce(vec![policy_layer("test", 1, 100, vec![rule("all", v1::Match::default(), set)])])?;
            wire.link.set(Way::Back, Character { loss: 1.0, loss_of: LossOf::SynAck, ..short_path() });
            let schedule = SynAck { rto_ticks: rto_ms.into(), retries: 2, rto_max_ticks: 120_000 }.schedule();
            let opening = Opening {
                patience_ms: schedule.given_up_ticks + 500,
                ..Opening::new(socket("10.1.0.2", pair.port)?, 1)
            };
            let flow = pair.client.open(&opening)?.pop().context("no connection")?;
            let times = transmissions(&wire, flow.local.port(), Segment::is_syn_ack);
            compare(&times, &schedule).with_context(|| format!("{rto_ms} ms, at most {rto_max_ms} ms: {flow:?}"))?;
        }
        Ok(())
    });
}
