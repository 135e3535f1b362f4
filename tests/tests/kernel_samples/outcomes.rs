//! T1 copies what a socket has counted when it closes, of every connection, and marks the accepted ones. On the same traffic in two
//! cgroups, what is counted and set is compared end by end. Then a copy of the program looks at the very sockets that the
//! policy's records are about.

use std::{
    collections::HashMap,
    net::{Ipv6Addr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::{
    Pod,
    maps::{Array, HashMap as BpfHashMap, MapData},
};
use sockpilot_policy::layout::FlowKey;
use sockpilot_proto::v1;
use sockpilot_tests::{admin::Admin, cprogram::CProgram, machine::Machine, wait::eventually, world::socket};

use crate::{
    exchanges::{End, Ends, Tried, exchange, knock},
    sides::{Key, Sides},
};

const LAYER: &str = "policies/sample-outcome";
const PROGRAM: &str = "t1_outcome";
const PATIENCE: Duration = Duration::from_secs(20);
/// The kernel counts SYN and FIN as a byte and a packet each, the latter only if it came before the end.
const SYN_AND_FIN: u64 = 2;
/// Traffic class 0xff without the two bits of ECN.
const MARKED: u32 = 0xfc;
/// TIMEOUT_INIT, RWND_INIT, TCP_CONNECT, ACTIVE_ESTABLISHED, PASSIVE_ESTABLISHED, NEEDS_ECN, STATE and TCP_LISTEN.
const ASKED: u64 = 0b1100_0111_1110;
/// One for each family.
const LISTENERS: u32 = 2;

/// As in the program.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Outcome {
    bytes_received: u64,
    bytes_acked: u64,
    total_retrans: u32,
    data_segs_in: u32,
    data_segs_out: u32,
    segs_in: u32,
    segs_out: u32,
    closes: u32,
}

// SAFETY: numbers without padding.
unsafe impl Pod for Outcome {}

/// As in the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Totals {
    asked: u64,
    no_such_flag_refused: u32,
    no_such_flag_taken: u32,
    syns_read: u32,
    syns_not_read: u32,
    classes_set: u32,
    classes_refused: u32,
    listeners_closed: u32,
    connections_closed: u32,
}

// SAFETY: numbers without padding.
unsafe impl Pod for Totals {}

/// What a program sees.
struct Seen {
    totals: Array<MapData, Totals>,
    outcomes: BpfHashMap<MapData, Key, Outcome>,
}

impl Seen {
    fn by(program: &mut CProgram) -> Result<Self> {
        Ok(Self { totals: program.map("TOTALS")?, outcomes: program.map("OUTCOMES")? })
    }

    fn totals(&self) -> Result<Totals> {
        self.totals.get(&0, 0).context("reading the totals")
    }

    /// Once both ends of all these connections have closed; each of them once, and nothing else.
    fn outcomes(&self, tried: &[Tried]) -> Result<HashMap<Ends, Outcome>> {
        let ends = 2 * tried.len();
        eventually("all ends have closed", PATIENCE, || {
            let closed = self.totals()?.connections_closed;
            ensure!(closed as usize == ends, "{closed} of {ends} have");
            Ok(())
        })?;
        let entry = |entry: Result<(Key, Outcome), _>| entry.map(|(Key(key), outcome)| (addresses(&key), outcome));
        let seen: HashMap<_, _> = self.outcomes.iter().map(entry).collect::<Result<_, _>>()?;
        ensure!(seen.len() == ends && seen.values().all(|outcome| outcome.closes == 1), "{ends} ends: {seen:?}");
        Ok(seen)
    }

    /// Every question has come and every order has had its effect; the listeners close, too.
    fn expect_totals(&self, tried: &[Tried]) -> Result<()> {
        let connections = u32::try_from(tried.len())?;
        let marked = tried.iter().filter(|tried| tried.flow.local.is_ipv6()).count();
        let expected = Totals {
            asked: ASKED,
            no_such_flag_refused: connections,
            no_such_flag_taken: 0,
            syns_read: connections,
            syns_not_read: 0,
            classes_set: u32::try_from(marked)?,
            classes_refused: 0,
            listeners_closed: LISTENERS,
            connections_closed: 2 * connections,
        };
        eventually("all is counted, the closed listeners too", PATIENCE, || {
            let totals = self.totals()?;
            ensure!(totals == expected, "{totals:?}, not {expected:?}");
            Ok(())
        })
    }
}

fn addresses(key: &FlowKey) -> Ends {
    let at = |address: [u8; 16], port| SocketAddr::new(Ipv6Addr::from(address).to_canonical(), port);
    (at(key.local, key.local_port), at(key.remote, key.remote_port))
}

/// What the policy's connections were recorded as.
struct Records {
    by_ends: HashMap<Ends, v1::FlowSample>,
    /// Segments that came to all of them together.
    segments_in: u64,
}

/// Once there are as many as that; never more, and one for each end.
fn recorded(admin: &Admin, expected: usize) -> Result<Records> {
    eventually("all connections are recorded", PATIENCE, || {
        let counts: Vec<_> = admin.outcomes(LAYER)?.into_iter().filter_map(|row| row.counts).collect();
        let flows: u64 = counts.iter().map(|counts| counts.flows).sum();
        ensure!(flows == expected as u64, "{flows} of {expected} are");
        let request = v1::ListFlowSamplesRequest { name: LAYER.to_owned(), page_size: 200, ..Default::default() };
        let samples = admin.call(admin.fleet().list_flow_samples(request))?.samples;
        let mut by_ends = HashMap::new();
        for sample in samples.into_iter().filter(|sample| sample.outcome() != v1::Outcome::StillOpen) {
            let local = socket(&sample.local_address, sample.local_port.try_into()?)?;
            let remote = socket(&sample.remote_address, sample.remote_port.try_into()?)?;
            by_ends.insert((local, remote), sample);
        }
        ensure!(by_ends.len() == expected, "{} ends, {expected} records", by_ends.len());
        Ok(Records { by_ends, segments_in: counts.iter().map(|counts| counts.segments_in).sum() })
    })
}

/// First side by side, then on the same sockets.
pub fn compare(machine: &Machine) -> Result<()> {
    let mut sides = Sides::with(machine, "t1-outcome.yaml", PROGRAM)?;
    let admin = sides.server.admin()?;
    let recorded_before = side_by_side(machine, &mut sides, &admin)?;

    let mut witness = CProgram::load(machine, PROGRAM, None)?;
    witness.attach(&sides.policy.cgroup)?;
    let seen = Seen::by(&mut witness)?;
    let (tried, server) = exchange(machine, &mut sides.policy)?;
    let outcomes = seen.outcomes(&tried)?;
    let records = recorded(&admin, recorded_before.by_ends.len() + outcomes.len())?;
    for end in tried.iter().flat_map(Tried::ends) {
        let (record, outcome) = (find(&records.by_ends, &end)?, find(&outcomes, &end)?);
        same_traffic(&end, record, outcome)
            .and_then(|()| same_socket(record, outcome))
            .with_context(|| format!("{end:?}\n{record:?}\n{outcome:?}"))?;
    }
    let segments_in: u64 = outcomes.values().map(|outcome| u64::from(outcome.segs_in)).sum();
    let counted = records.segments_in - recorded_before.segments_in;
    ensure!(counted == segments_in, "{counted} segments were recorded, {segments_in} came");
    drop(server);
    seen.expect_totals(&tried)
}

fn side_by_side(machine: &Machine, sides: &mut Sides<'_>, admin: &Admin) -> Result<Records> {
    let seen = Seen::by(sides.program.as_mut().context("no program")?)?;
    let Sides { policy, sample, .. } = sides;
    let (here, there) = thread::scope(|scope| {
        let here = scope.spawn(|| exchange(machine, policy));
        let there = exchange(machine, sample);
        (here.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause)), there)
    });
    let ((here, here_server), (there, there_server)) = (here?, there?);
    let refused = knock(policy)?;
    knock(sample)?;
    let outcomes = seen.outcomes(&there)?;
    let records = recorded(admin, 2 * here.len() + refused.len())?;
    ensure!(here.len() == there.len(), "{} connections, {}", here.len(), there.len());
    for (here, there) in here.iter().zip(&there) {
        let classes = [here.traffic_class, there.traffic_class];
        let expected = if here.flow.local.is_ipv6() { MARKED } else { 0 };
        ensure!(classes == [expected; 2], "by the policy and the program: {classes:?}\n{here:?}\n{there:?}");
        for (here, there) in here.ends().iter().zip(there.ends()) {
            let (record, outcome) = (find(&records.by_ends, here)?, find(&outcomes, &there)?);
            same_traffic(here, record, outcome).with_context(|| format!("{here:?}\n{record:?}\n{outcome:?}"))?;
        }
    }
    // Of these the program, which asks to be told only once connected, knows nothing.
    for flow in refused {
        let record =
            records.by_ends.get(&(flow.local, flow.remote)).with_context(|| format!("no record of {flow:?}"))?;
        ensure!(record.outcome() == v1::Outcome::Failed && record.bytes_received == 0, "{record:?}");
    }
    drop((here_server, there_server));
    seen.expect_totals(&there)?;
    // The listeners of the other side have closed as well, and were no connections.
    recorded(admin, records.by_ends.len())
}

fn find<'a, T>(by_ends: &'a HashMap<Ends, T>, end: &End) -> Result<&'a T> {
    by_ends.get(&end.ends).with_context(|| format!("nothing is known of {end:?}"))
}

/// Both have counted what went over the wire; when the last FIN comes is a matter of chance.
fn same_traffic(end: &End, record: &v1::FlowSample, outcome: &Outcome) -> Result<()> {
    let with_syn_and_fin = |data: u64| data..=data + SYN_AND_FIN;
    ensure!(record.direction() == end.direction && record.outcome() == v1::Outcome::Established, "how it went");
    ensure!(
        record.retransmits == end.retransmits
            && record.syn_retransmits == 0
            && outcome.total_retrans == end.retransmits,
        "retransmissions"
    );
    let (sent, received) = (with_syn_and_fin(end.sent), with_syn_and_fin(end.received));
    ensure!(sent.contains(&record.bytes_sent) && sent.contains(&outcome.bytes_acked), "bytes sent");
    ensure!(received.contains(&record.bytes_received) && received.contains(&outcome.bytes_received), "bytes received");
    let data_packets = outcome.data_segs_out - outcome.total_retrans;
    ensure!(with_syn_and_fin(data_packets.into()).contains(&record.delivered_packets.into()), "packets of data");
    Ok(())
}

/// What is counted of one socket is the same to the last.
fn same_socket(record: &v1::FlowSample, outcome: &Outcome) -> Result<()> {
    let told = (record.bytes_sent, record.bytes_received, record.segments_out, record.retransmits);
    let copied = (outcome.bytes_acked, outcome.bytes_received, outcome.segs_out, outcome.total_retrans);
    ensure!(told == copied, "recorded {told:?}, copied {copied:?}");
    Ok(())
}
