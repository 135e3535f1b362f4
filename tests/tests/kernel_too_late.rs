//! What the reference says comes too late for a policy: a program that sets the option before connect() gets more.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use sockpilot_proto::v1;
use sockpilot_tests::{
    documents::{policy_layer, rule},
    link::{End, Link, Way},
    machine::{Machine, Needs, scenario},
    packet::Segment,
    traffic::Opening,
    wait::eventually,
    world::{Site, short_path, socket},
};

const PATIENCE: Duration = Duration::from_secs(10);
const MARK: u32 = 5;
/// One that rules of routing can name as a type of service.
const DSCP: u32 = 4;
/// Where the main table's source address is.
const MAIN: &str = "10.1.0.1";
/// Where the other table's is.
const OTHER: &str = "10.3.0.1";
const TO: &str = "10.1.0.2";

/// A second way between the namespaces, which packets with the mark or the class take to the far one.
fn second_way(site: &Site<'_>) -> Result<Link> {
    let (near, far) = (OTHER.parse()?, "10.3.0.2".parse()?);
    let ends = (End { netns: &site.wire.near, addresses: &[near] }, End { netns: &site.wire.far, addresses: &[far] });
    let link = Link::new(&ends.0, &ends.1, short_path(), 2)?;
    site.wire.near.ip(&format!(
        "rule add fwmark {MARK} table 100\nrule add tos {:#x} table 100\nroute add {TO} via {far} src {near} table 100\n",
        DSCP << 2
    ))?;
    Ok(link)
}

/// Drop what comes from an address that is reached another way, or do not.
fn check_sources(site: &Site<'_>, check: bool) -> Result<()> {
    for conf in ["all", "default"] {
        for netns in [&site.wire.near, &site.wire.far] {
            netns.sysctl(&format!("net/ipv4/conf/{conf}/rp_filter"), "0")?;
        }
    }
    site.wire.far.sysctl("net/ipv4/conf/all/rp_filter", if check { "1" } else { "0" })
}

/// What a program gets that sets the option itself: its source address.
fn by_program(site: &Site<'_>, set: impl Fn(&Socket) -> std::io::Result<()> + Sync) -> Result<SocketAddr> {
    let to = socket(TO, site.pair.port)?;
    site.wire.near.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).context("opening a socket")?;
        set(&socket).context("setting the option")?;
        socket.connect_timeout(&to.into(), PATIENCE).context("connecting")?;
        socket.local_addr().context("its address")?.as_socket().context("no address")
    })
}

/// Enforces it, and returns what the node says of the only value.
fn enforce(site: &Site<'_>, direction: v1::Direction, set: v1::Parameters) -> Result<Vec<String>> {
    let matches = v1::Match { direction: direction.into(), ..v1::Match::default() };
    let ack = site.control.enforce(vec![policy_layer("test", 1, 100, vec![rule("all", matches, set)])])?;
    Ok(ack.effective.into_iter().flat_map(|value| value.caveats).collect())
}

fn sources_of_syns(link: &Link) -> Vec<String> {
    let sightings = link.sightings();
    let syns = sightings.iter().filter(|sighting| sighting.way == Way::Forth && sighting.segment.is_syn());
    syns.map(|sighting| sighting.segment.source.ip().to_string()).collect()
}

fn routing_by(set: v1::Parameters, program: impl Fn(&Socket) -> std::io::Result<()> + Sync) {
    scenario(Needs::Kernel, |machine: &Machine| {
        let mut site = Site::start(machine, &[])?;
        let second = second_way(&site)?;
        check_sources(&site, true)?;
        // Set before connect(), it chooses the way and the address.
        let local = by_program(&site, program)?;
        ensure!(local.ip() == OTHER.parse::<Ipv4Addr>()?, "from {local}");
        ensure!(sources_of_syns(&second) == [OTHER] && sources_of_syns(&site.wire.link).is_empty());

        // By policy it chooses the way only, and the other end drops what comes from an address of the main one.
        let caveats = enforce(&site, v1::Direction::Active, set)?;
        ensure!(caveats.iter().any(|caveat| caveat.contains("do not choose the source address")), "{caveats:?}");
        let opening = Opening { patience_ms: 700, ..Opening::new(socket(TO, site.pair.port)?, 1) };
        let flow = site.pair.client.open(&opening)?.pop().context("no connection")?;
        ensure!(flow.error.is_some(), "{flow:?}");
        ensure!(sources_of_syns(&second)[1..] == [MAIN], "{:?}", sources_of_syns(&second));
        ensure!(sources_of_syns(&site.wire.link).is_empty());

        check_sources(&site, false)?;
        let flow = site.pair.one(TO)?;
        ensure!(flow.local.ip() == MAIN.parse::<Ipv4Addr>()?, "{flow:?}");
        ensure!(sources_of_syns(&second)[2..].ends_with(&[MAIN.to_owned()]), "{:?}", sources_of_syns(&second));
        Ok(())
    });
}

#[test]
fn a_mark_by_policy_does_not_choose_the_source_address() {
    routing_by(v1::Parameters { mark: Some(MARK), ..v1::Parameters::default() }, |socket| socket.set_mark(MARK));
}

#[test]
fn a_class_by_policy_does_not_choose_the_source_address() {
    routing_by(v1::Parameters { dscp: Some(DSCP), ..v1::Parameters::default() }, |socket| socket.set_tos_v4(DSCP << 2));
}

/// The SYN-ACK goes the main way, what is sent after it the other.
#[test]
fn an_accepting_end_is_marked_after_its_syn_ack() {
    scenario(Needs::Kernel, |machine: &Machine| {
        let mut site = Site::over(machine, short_path(), true, &[])?;
        let second = second_way(&site)?;
        let back = format!("rule add fwmark {MARK} table 100\nroute add {MAIN} via {OTHER} src {TO} table 100\n");
        site.wire.far.ip(&back)?;
        check_sources(&site, false)?;
        let set = v1::Parameters { mark: Some(MARK), ..v1::Parameters::default() };
        let caveats = enforce(&site, v1::Direction::Passive, set)?;
        ensure!(caveats.iter().any(|caveat| caveat.contains("SYN-ACK has gone out")), "{caveats:?}");
        site.pair.one(TO)?;
        let is_syn_ack = |link: &Link| link.sightings().iter().filter(|s| s.segment.is_syn_ack()).count();
        ensure!((is_syn_ack(&site.wire.link), is_syn_ack(&second)) == (1, 0));
        eventually("its data takes the other way", PATIENCE, || {
            ensure!(second.counts(Way::Back).carried > 0, "nothing came");
            Ok(())
        })
    });
}

/// A receive buffer or a bound of the window is in the SYN's window scale, but not in the SYN-ACK's.
#[test]
fn windows_are_in_time_for_a_syn_and_not_for_a_syn_ack() {
    scenario(Needs::Kernel, |machine: &Machine| {
        let small = [
            v1::Parameters { receive_buffer_bytes: Some(20_000), ..v1::Parameters::default() },
            v1::Parameters { window_clamp_bytes: Some(20_000), ..v1::Parameters::default() },
        ];
        for set in small {
            let mut site = Site::over(machine, short_path(), true, &[])?;
            site.pair.one(TO)?;
            let plain = handshake(&site)?;
            enforce(&site, v1::Direction::Unspecified, set.clone())?;
            site.pair.one(TO)?;
            let with = handshake(&site)?;
            ensure!(with[0] == (Some(0), true) && plain[0] != with[0], "SYN: {plain:?} {with:?} {set:?}");
            ensure!(with[1] == plain[1] && !with[1].1, "SYN-ACK: {plain:?} {with:?} {set:?}");
        }
        Ok(())
    });
}

/// Of the last SYN and the last SYN-ACK the window scale, and whether the window is small.
fn handshake(site: &Site<'_>) -> Result<[(Option<u8>, bool); 2]> {
    let sightings = site.wire.link.sightings();
    let last = |is: fn(&Segment) -> bool| -> Result<(Option<u8>, bool)> {
        let segment = sightings.iter().rfind(|sighting| is(&sighting.segment)).context("no handshake seen")?.segment;
        Ok((segment.window_scale, segment.window <= 40_000))
    };
    Ok([last(Segment::is_syn)?, last(Segment::is_syn_ack)?])
}
