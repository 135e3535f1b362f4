//! Every parameter on real connections, seen from outside the kernel program: by getsockopt, or on the wire. A connection
//! outside the match has the kernel's default.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sockpilot_proto::v1;
use sockpilot_tests::{
    cgroup::Cgroup,
    control::Control,
    documents::{policy_layer, rule},
    link::{Sighting, Way},
    machine::{Machine, Needs, scenario},
    node::Node,
    packet::{Segment, flag},
    shaper::{Character, LossOf},
    traffic::{Agent, Facts, Opening},
    world::{Pair, Wire, short_path, socket},
};

/// Which end of the connections is in the cgroup that the daemon manages.
#[derive(Clone, Copy, PartialEq)]
enum Managed {
    Client,
    Server,
    Both,
}

struct World<'m> {
    pair: Pair,
    wire: Wire,
    control: Control,
    _node: Node<'m>,
    _cgroup: Cgroup,
}

impl<'m> World<'m> {
    /// With one rule in force, for the first address of each family at the other end.
    fn with(machine: &'m Machine, managed: Managed, set: v1::Parameters) -> Result<Self> {
        let wire = Wire::new(short_path())?;
        let cgroup = Cgroup::new(machine, "managed")?;
        let control = Control::start()?;
        let node = Node::start(machine, "node", &control.url(), &cgroup, &[])?;
        let inside = |end| (managed == end || managed == Managed::Both).then_some(&cgroup);
        let pair = Pair::start(machine, &wire, inside(Managed::Client), inside(Managed::Server))?;
        let (far, near) = (["10.1.0.2/32", "fd01::2/128"], ["10.1.0.1/32", "fd01::1/128"]);
        let remote = match managed {
            Managed::Client => far.to_vec(),
            Managed::Server => near.to_vec(),
            Managed::Both => [far, near].concat(),
        };
        let matches =
            v1::Match { remote_prefixes: remote.into_iter().map(str::to_owned).collect(), ..v1::Match::default() };
        control.enforce(vec![policy_layer("test", 1, 100, vec![rule("only", matches, set)])])?;
        Ok(Self { pair, wire, control, _node: node, _cgroup: cgroup })
    }

    /// The managed socket of a connection between addresses with the given first number, at its beginning.
    fn socket_of(&mut self, managed: Managed, far: &str, near: &str) -> Result<Facts> {
        let opening = Opening { from: Some(near.parse()?), ..Opening::new(socket(far, self.pair.port)?, 1) };
        let flow = self.pair.client.open(&opening)?.pop().context("no connection")?;
        ensure!(flow.error.is_none(), "the connection failed: {flow:?}");
        match managed {
            Managed::Client | Managed::Both => flow.opened.context("not established"),
            Managed::Server => Ok(self.pair.server.accepted()?.pop().context("nothing was accepted")?.opened),
        }
    }

    /// Checks a socket inside the match and one outside, for IPv4, IPv6 and IPv4 through an IPv6 socket.
    fn check(&mut self, managed: Managed, has: impl Fn(&Facts) -> bool) -> Result<()> {
        for (far, near) in [("10.1.0.2", "10.1.0.1"), ("fd01::2", "fd01::1"), ("::ffff:10.1.0.2", "::ffff:10.1.0.1")] {
            let inside = self.socket_of(managed, far, near)?;
            ensure!(has(&inside), "from {near} to {far}, inside the match: {inside:?}");
        }
        for (far, near) in [("10.2.0.2", "10.2.0.1"), ("fd02::2", "fd02::1"), ("::ffff:10.2.0.2", "::ffff:10.2.0.1")] {
            let outside = self.socket_of(managed, far, near)?;
            ensure!(!has(&outside), "from {near} to {far}, outside the match: {outside:?}");
        }
        Ok(())
    }
}

/// On both ends, in turn.
fn by_getsockopt(set: &v1::Parameters, has: impl Fn(&Facts) -> bool) {
    scenario(Needs::Kernel, |machine| {
        for managed in [Managed::Client, Managed::Server] {
            World::with(machine, managed, set.clone())?.check(managed, &has)?;
        }
        Ok(())
    });
}

#[test]
fn initial_cwnd() {
    by_getsockopt(&v1::Parameters { initial_cwnd_packets: Some(37), ..v1::Parameters::default() }, |facts| {
        facts.cwnd == 37
    });
}

#[test]
fn cwnd_clamp() {
    by_getsockopt(&v1::Parameters { cwnd_clamp_packets: Some(7), ..v1::Parameters::default() }, |facts| {
        facts.ssthresh == 7
    });
}

#[test]
fn cwnd_clamp_bounds_the_window_of_a_long_upload() {
    scenario(Needs::Kernel, |machine| {
        let set = v1::Parameters { cwnd_clamp_packets: Some(7), ..v1::Parameters::default() };
        let mut world = World::with(machine, Managed::Client, set)?;
        let port = world.pair.port;
        let mut last_cwnd = |to: &str| -> Result<u32> {
            let opening = Opening { upload: 600_000, ..Opening::new(socket(to, port)?, 1) };
            let flow = world.pair.client.open(&opening)?.pop().context("no connection")?;
            Ok(flow.closed.with_context(|| format!("failed: {:?}", flow.error))?.cwnd)
        };
        let (inside, outside) = (last_cwnd("10.1.0.2")?, last_cwnd("10.2.0.2")?);
        ensure!(inside <= 7, "inside the match the window is {inside}");
        ensure!(outside > 10, "outside the match the window is {outside}");
        Ok(())
    });
}

#[test]
fn send_buffer() {
    by_getsockopt(&v1::Parameters { send_buffer_bytes: Some(123_456), ..v1::Parameters::default() }, |facts| {
        facts.send_buffer == 2 * 123_456
    });
}

#[test]
fn receive_buffer() {
    by_getsockopt(&v1::Parameters { receive_buffer_bytes: Some(234_567), ..v1::Parameters::default() }, |facts| {
        facts.receive_buffer == 2 * 234_567
    });
}

#[test]
fn congestion_control() {
    // The default in the harness's namespaces is reno.
    let name = "cubic";
    by_getsockopt(
        &v1::Parameters { congestion_control: Some(name.to_owned()), ..v1::Parameters::default() },
        |facts| facts.congestion == name,
    );
}

#[test]
fn ecn_is_offered_by_a_client() {
    scenario(Needs::Kernel, |machine| {
        let mut world = World::with(machine, Managed::Client, ecn())?;
        for (far, near) in [("10.1.0.2", "10.1.0.1"), ("fd01::2", "fd01::1"), ("10.2.0.2", "10.2.0.1")] {
            world.socket_of(Managed::Client, far, near)?;
        }
        let offers = |segment: &Segment| segment.flags & (flag::ECE | flag::CWR) == flag::ECE | flag::CWR;
        for sighting in world.wire.link.sightings().iter().filter(|sighting| sighting.segment.is_syn()) {
            let inside = sighting.segment.destination.ip().to_string() != "10.2.0.2";
            ensure!(offers(&sighting.segment) == inside, "{sighting:?}");
        }
        Ok(())
    });
}

#[test]
fn ecn_is_accepted_by_a_server_that_would_not() {
    scenario(Needs::Kernel, |machine| {
        let mut world = World::with(machine, Managed::Server, ecn())?;
        world.wire.near.sysctl("net/ipv4/tcp_ecn", "1")?;
        world.wire.far.sysctl("net/ipv4/tcp_ecn", "0")?;
        world.check(Managed::Server, |facts| facts.ecn)
    });
}

/// The kernel marks the SYN of such a client as ECN-capable itself, and a server accepts that only if it needs ECN as well.
#[test]
fn ecn_is_agreed_on_where_both_ends_have_it() {
    scenario(Needs::Kernel, |machine| {
        World::with(machine, Managed::Both, ecn())?.check(Managed::Both, |facts| facts.ecn)
    });
}

fn ecn() -> v1::Parameters {
    v1::Parameters { ecn: Some(true), ..v1::Parameters::default() }
}

#[test]
fn initial_receive_window_is_offered_on_the_wire() {
    scenario(Needs::Kernel, |machine| {
        const PACKETS: u32 = 4;
        let set = v1::Parameters { initial_receive_window_packets: Some(PACKETS), ..v1::Parameters::default() };
        let is_offered = |window: u16| u32::from(window) >= PACKETS * 1_300 && u32::from(window) <= PACKETS * 1_460;
        for managed in [Managed::Client, Managed::Server] {
            let mut world = World::with(machine, managed, set.clone())?;
            for (far, near, inside) in [
                ("10.1.0.2", "10.1.0.1", true),
                ("fd01::2", "fd01::1", true),
                ("10.2.0.2", "10.2.0.1", false),
                ("fd02::2", "fd02::1", false),
            ] {
                world.socket_of(managed, far, near)?;
                let sightings = world.wire.link.sightings();
                let (syn, syn_ack) = (sightings.iter().rfind(|s| s.segment.is_syn()), sightings.last());
                let sighting = if managed == Managed::Client { syn } else { syn_ack }.context("no handshake seen")?;
                ensure!(is_offered(sighting.segment.window) == inside, "to {far}: {sighting:?}");
            }
        }
        Ok(())
    });
}

/// A time that is no multiple of the tick at 250 Hz (rounded up to 304 ms) nor at 100 Hz.
const RTO_MS: u32 = 301;

/// Between the first and the second transmission of the one connection's SYN or SYN-ACK.
fn first_interval(
    world: &mut World<'_>,
    (to, from): (&str, &str),
    patience_ms: u64,
    wanted: impl Fn(&Segment) -> bool,
) -> Result<Duration> {
    let before = world.wire.link.sightings().len();
    let opening = Opening { from: Some(from.parse()?), patience_ms, ..Opening::new(socket(to, world.pair.port)?, 1) };
    let flow = world.pair.client.open(&opening)?.pop().context("no connection")?;
    ensure!(flow.error.is_some(), "the handshake should not have come through: {flow:?}");
    let sightings = world.wire.link.sightings();
    // Connections given up before may still be at it.
    let ours = |s: &&Sighting| {
        wanted(&s.segment) && [s.segment.source.port(), s.segment.destination.port()].contains(&flow.local.port())
    };
    let times: Vec<_> = sightings[before..].iter().filter(ours).map(|s| s.at).collect();
    let [first, second, ..] = times[..] else { anyhow::bail!("only {} transmissions were seen", times.len()) };
    Ok(second - first)
}

fn check_rto(machine: &Machine, managed: Managed, set: v1::Parameters) -> Result<()> {
    let mut world = World::with(machine, managed, set)?;
    let effective = world.control.acks().pop().context("no confirmation")?.effective;
    ensure!(effective.iter().any(|value| value.requested == RTO_MS.to_string()), "rounding is told: {effective:?}");
    let (way, loss_of, wanted): (_, _, fn(&Segment) -> bool) = match managed {
        Managed::Client => (Way::Forth, LossOf::Syn, Segment::is_syn),
        Managed::Server | Managed::Both => (Way::Back, LossOf::SynAck, Segment::is_syn_ack),
    };
    world.wire.link.set(way, Character { loss: 1.0, loss_of, ..short_path() });
    let (set, default) = (u64::from(RTO_MS), 1_000);
    for (to, from, expected) in [
        ("10.1.0.2", "10.1.0.1", set),
        ("fd01::2", "fd01::1", set),
        ("::ffff:10.1.0.2", "::ffff:10.1.0.1", set),
        ("10.2.0.2", "10.2.0.1", default),
        ("fd02::2", "fd02::1", default),
    ] {
        let interval = first_interval(&mut world, (to, from), expected + 500, wanted)?;
        let expected = Duration::from_millis(expected);
        // Timers fire late by up to a few ticks, and later on a loaded machine; never early.
        let late = interval.checked_sub(expected).with_context(|| format!("to {to} after {interval:?}: too early"))?;
        ensure!(late < Duration::from_millis(120), "to {to} after {interval:?} instead of {expected:?}");
    }
    Ok(())
}

#[test]
fn syn_rto() {
    scenario(Needs::Kernel, |machine| {
        let set = v1::Parameters { syn_rto_ms: Some(RTO_MS), ..v1::Parameters::default() };
        check_rto(machine, Managed::Client, set)
    });
}

#[test]
fn synack_rto() {
    scenario(Needs::Kernel, |machine| {
        let set = v1::Parameters { synack_rto_ms: Some(RTO_MS), ..v1::Parameters::default() };
        check_rto(machine, Managed::Server, set)
    });
}

#[test]
fn a_socket_outside_the_cgroup_is_never_touched() {
    scenario(Needs::Kernel, |machine| {
        let set = v1::Parameters { send_buffer_bytes: Some(123_456), ..v1::Parameters::default() };
        let mut world = World::with(machine, Managed::Client, set)?;
        let mut stranger = Agent::start(machine, "stranger", &world.wire.near, None)?;
        let opening = Opening::new(socket("10.1.0.2", world.pair.port)?, 1);
        let outside = stranger.open(&opening)?.pop().context("no connection")?.opened.context("not established")?;
        let inside = world.pair.one("10.1.0.2")?.opened.context("not established")?;
        ensure!(inside.send_buffer == 2 * 123_456 && outside.send_buffer != 2 * 123_456, "{inside:?} {outside:?}");
        Ok(())
    });
}
