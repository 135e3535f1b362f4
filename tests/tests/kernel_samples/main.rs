//! The policies in `docs/samples` against programs in C that do what the kernel's samples do, and its test of outcomes: on the same
//! traffic, in two cgroups, every connection gets the same settings and the same handshake, or is told about alike.
//!
//! Both worlds are alike: a link between two namespaces, both ends in one cgroup, servers on the port that the samples act on and on
//! another one. One cgroup is managed by a daemon that has the policy from a server, to which it came by the command
//! line; at the other the program is attached. Left out are sockets that speak IPv4 through IPv6: the samples take their
//! addresses for IPv6 ones of one site, a policy for the IPv4 addresses that they are.

mod dumps;
mod exchanges;
mod outcomes;
mod sides;

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use sides::{Case, GATE, Sides, layer, path};
use sockpilot_programs::skipped;
use sockpilot_tests::{
    cprogram::CProgram,
    machine::{Needs, scenario},
    seen::{Got, Offer, Settings},
    shaper::LossOf,
    wait::eventually,
};

/// The kernel's ticks are answered by the programs in C, and are milliseconds in the policies.
fn ticks_are_as_in_the_policies() -> Result<bool> {
    let hz = sockpilot_node::facts::read().context("reading this kernel's facts")?.hz;
    if hz != 250 {
        skipped(format!("timers are compared at 250 ticks a second, as in the policies, and here are {hz}"));
    }
    Ok(hz == 250)
}

#[test]
fn s1_synrto() {
    scenario(Needs::Kernel, |machine| {
        if !ticks_are_as_in_the_policies()? {
            return Ok(());
        }
        let mut sides = Sides::with(machine, "s1-synrto.yaml", "s1_synrto")?;
        sides.compare(|_| true, |_| true)?;
        sides.compare_timers(LossOf::Syn)?;
        sides.compare_timers(LossOf::SynAck)
    });
}

#[test]
fn s2_rwnd() {
    scenario(Needs::Kernel, |machine| {
        let offered = |offer: &Offer| (40 * 1_300..=40 * 1_440).contains(&u32::from(offer.window));
        Sides::with(machine, "s2-rwnd.yaml", "s2_rwnd")?
            .compare(Case::other_site, |got| offered(&got.syn) && offered(&got.syn_ack))
    });
}

#[test]
fn s3_bufs() {
    scenario(Needs::Kernel, |machine| {
        let great = |settings: &Settings| settings.send_buffer == 3_000_000 && settings.receive_buffer == 3_000_000;
        Sides::with(machine, "s3-bufs.yaml", "s3_bufs")?
            .compare(|case| case.port == GATE, |got| great(&got.client) && great(&got.server))
    });
}

/// The congestion control that this kernel lacks is named; with another one in its place all else is as in the sample.
#[test]
fn s4_cong() {
    scenario(Needs::Kernel, |machine| {
        let document = fs::read_to_string(path("s4-cong.yaml")).context("reading a sample")?;
        let here =
            fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control").context("asking for them")?;
        let has_dctcp = here.split_whitespace().any(|name| name == "dctcp");
        let (document, expected) = if has_dctcp {
            (document, "dctcp")
        } else {
            refused_naming(&Sides::new(machine)?, &document, "dctcp")?;
            (document.replace("congestion_control: dctcp", "congestion_control: cubic"), "cubic")
        };
        let both =
            |got: &Got| [&got.client, &got.server].map(|side| side.ecn && side.congestion == expected) == [true; 2];
        Sides::with_text(machine, &document, "s4_cong")?.compare(Case::same_site, both)
    });
}

#[test]
fn s5_iw() {
    scenario(Needs::Kernel, |machine| {
        Sides::with(machine, "s5-iw.yaml", "s5_iw")?.compare(
            |case| case.port == GATE,
            |got| got.client.cwnd == 40 && got.server.cwnd == 10 && got.server.send_buffer == 3_000_000,
        )
    });
}

#[test]
fn s6_clamp() {
    scenario(Needs::Kernel, |machine| {
        let small =
            |side: &Settings| side.ssthresh == 100 && side.send_buffer == 300_000 && side.receive_buffer == 300_000;
        let mut sides = Sides::with(machine, "s6-clamp.yaml", "s6_clamp")?;
        sides.compare(Case::same_site, |got| small(&got.client) && small(&got.server))?;
        if ticks_are_as_in_the_policies()? { sides.compare_timers(LossOf::Syn) } else { Ok(()) }
    });
}

/// No kernel of today's distributions has it.
#[test]
fn s7_basertt_needs_nv() {
    scenario(Needs::Kernel, |machine| {
        let document = fs::read_to_string(path("s7-basertt.yaml")).context("reading a sample")?;
        refused_naming(&Sides::new(machine)?, &document, "nv")
    });
}

/// There is no setting to compare, but what is seen of the connections.
#[test]
fn s8_dumpstats() {
    scenario(Needs::Kernel, dumps::compare);
}

#[test]
fn s9_tos_reflect() {
    scenario(Needs::Kernel, |machine| {
        let mut sides = Sides::with(machine, "s9-tos-reflect.yaml", "s9_tos_reflect")?;
        sides.compare(|_| false, |got| got.server.traffic_class != 0)?;
        // From here on the applications mark their connections.
        let mut marking = CProgram::load(machine, "traffic_class", None)?;
        marking.attach(&sides.policy.cgroup)?;
        marking.attach(&sides.sample.cgroup)?;
        sides.compare(|_| true, |got| got.client.traffic_class == 0xb8 && got.server.traffic_class == 0xb8)
    });
}

/// There is one setting to compare, and what is seen of the connections.
#[test]
fn t1_outcome() {
    scenario(Needs::Kernel, outcomes::compare);
}

/// The node refuses it, and the status of the policy says what is missing.
fn refused_naming(sides: &Sides<'_>, document: &str, what: &str) -> Result<()> {
    let admin = sides.apply(document)?;
    let layer = layer(document)?;
    let said = eventually(&format!("{layer} is refused"), Duration::from_secs(20), || {
        let said = sides.server.says(&["status", &layer, "-o", "json"])?;
        let words: Vec<_> = said.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        ensure!(words.contains(&what) && said.contains("set."), "{said}");
        Ok(said)
    })?;
    let nodes = admin.nodes()?;
    let layers = &nodes.get("node").context("the node is unknown")?.layers;
    ensure!(layers.iter().all(|entry| entry.layer != layer || entry.confirmed_revision == 0), "confirmed: {said}");
    Ok(())
}
