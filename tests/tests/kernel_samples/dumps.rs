//! S8 prints what becomes of the connections opened here. Here the program's dumps are in a map, and a copy of it looks at the very
//! sockets that the policy's records are about.

use std::{
    collections::{BTreeMap, HashMap},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::{
    Pod,
    maps::{HashMap as BpfHashMap, MapData},
};
use sockpilot_proto::v1;
use sockpilot_tests::{
    admin::Admin,
    cprogram::CProgram,
    link::Way,
    machine::Machine,
    shaper::Character,
    traffic::{Flow, Opening},
    wait::eventually,
    world::{short_path, socket},
};

use crate::sides::{Case, Key, Side, Sides};

const LAYER: &str = "policies/sample-dumpstats";
const PATIENCE: Duration = Duration::from_secs(20);
/// Fits the first window, so that no timing changes how it is cut into packets.
const UPLOAD: u32 = 10_000;
const LONG_UPLOAD: u32 = 3_000_000;
/// For longer than the program's second nothing is sent; the last packet, a FIN, is then dumped again.
const HOLD_MS: u64 = 1_200;
/// Long enough to be told about while open: every second, of connections that are open for one.
const LONG_HOLD_MS: u64 = 2_200;
/// Longer than an unanswered packet is waited for on the short path.
const SLOW: Duration = Duration::from_millis(400);
/// When the way back becomes slow: amid the upload.
const PACKETS_BEFORE: u64 = 100;

/// As in the program.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Dump {
    dsack_dups: u32,
    delivered: u32,
    delivered_ce: u32,
    icsk_retransmits: u32,
    number: u32,
}

// SAFETY: numbers without padding.
unsafe impl Pod for Dump {}

type Dumps = BpfHashMap<MapData, Key, Dump>;

/// Connections that were opened on one side, in the order of the cases and a last one on a way that becomes slow.
fn open(side: &mut Side) -> Result<Vec<Flow>> {
    let mut flows = Vec::new();
    for Case { ends: (to, from), port } in Case::all() {
        let opening = Opening {
            from: Some(from.parse()?),
            upload: UPLOAD,
            hold_ms: HOLD_MS,
            ..Opening::new(socket(to, port)?, 1)
        };
        flows.extend(side.client.open(&opening)?);
        if flows.len() == Case::all().count() {
            flows
                .extend(open_on_slowing_way(side, &Opening { upload: LONG_UPLOAD, hold_ms: LONG_HOLD_MS, ..opening })?);
        }
    }
    let failed = flows.iter().find(|flow| flow.error.is_some());
    ensure!(failed.is_none(), "{failed:?}");
    Ok(flows)
}

/// What is under way when the way back becomes slow is sent again without need.
fn open_on_slowing_way(side: &mut Side, opening: &Opening) -> Result<Vec<Flow>> {
    let Side { client, wire, .. } = side;
    let before = wire.link.counts(Way::Forth).carried;
    let flows = thread::scope(|scope| {
        let slow = scope.spawn(|| {
            eventually("the upload has begun", PATIENCE, || {
                let carried = wire.link.counts(Way::Forth).carried - before;
                ensure!(carried >= PACKETS_BEFORE, "{carried} packets were carried");
                wire.link.set(Way::Back, Character { delay: SLOW, ..short_path() });
                Ok(())
            })
        });
        let flows = client.open(opening);
        slow.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause)).and(flows)
    })?;
    wire.link.set(Way::Back, short_path());
    Ok(flows)
}

/// What a program has seen, to the end; nothing but these connections.
fn dumped(dumps: &Dumps, flows: &[Flow]) -> Result<Vec<Dump>> {
    let seen: HashMap<_, _> =
        dumps.iter().map(|entry| entry.map(|(Key(key), dump)| (key, dump))).collect::<Result<_, _>>()?;
    ensure!(seen.len() == flows.len(), "{} connections were opened, the program has seen {seen:?}", flows.len());
    let dumps: Vec<_> = flows.iter().filter_map(|flow| seen.get(&flow.key()).copied()).collect();
    ensure!(dumps.len() == flows.len(), "of {flows:?} it has seen {seen:?}");
    ensure!(dumps.iter().all(|dump| dump.number > 1), "one dump at the beginning, one at the end: {dumps:?}");
    Ok(dumps)
}

/// The records of each connection; of no other one.
fn recorded(admin: &Admin, flows: &[Flow]) -> Result<Vec<Vec<v1::FlowSample>>> {
    let request = v1::ListFlowSamplesRequest { name: LAYER.to_owned(), page_size: 200, ..Default::default() };
    let samples = admin.call(admin.fleet().list_flow_samples(request))?.samples;
    let mut by_socket: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for sample in samples {
        ensure!(sample.direction() == v1::Direction::Active, "{sample:?}");
        let local = socket(&sample.local_address, sample.local_port.try_into()?)?;
        by_socket.entry(local).or_default().push(sample);
    }
    ensure!(by_socket.len() == flows.len(), "records are of {:?}", by_socket.keys());
    let of = |flow: &Flow| by_socket.remove(&flow.local).with_context(|| format!("no record of {flow:?}"));
    flows.iter().map(of).collect()
}

/// What both count.
fn counts(sample: &v1::FlowSample) -> [u32; 3] {
    [sample.delivered_packets, sample.ce_marked_packets, sample.spurious_retransmits]
}

fn dump_counts(dump: &Dump) -> [u32; 3] {
    [dump.delivered, dump.delivered_ce, dump.dsack_dups]
}

/// The same connections are seen; a record has never less than was dumped before, and just as much when traffic has stopped.
pub fn compare(machine: &Machine) -> Result<()> {
    let mut sides = Sides::with(machine, "s8-dumpstats.yaml", "s8_dumpstats")?;
    let mut witness = CProgram::load(machine, "s8_dumpstats", None)?;
    witness.attach(&sides.policy.cgroup)?;
    let witnessed: Dumps = witness.map("DUMPS")?;
    let dumps: Dumps = sides.program.as_mut().context("no program")?.map("DUMPS")?;
    let Sides { policy, sample, .. } = &mut sides;
    let (here, there) = thread::scope(|scope| {
        let here = scope.spawn(|| open(policy));
        let there = open(sample);
        (here.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause)), there)
    });
    let (here, there) = (here?, there?);
    let admin = sides.server.admin()?;
    let records = eventually("all connections are recorded", PATIENCE, || {
        let rows = admin.outcomes(LAYER)?;
        ensure!(rows.iter().all(|row| row.direction() == v1::Direction::Active), "{rows:?}");
        let flows: u64 = rows.iter().filter_map(|row| row.counts).map(|counts| counts.flows).sum();
        ensure!(flows == here.len() as u64, "{flows} are");
        recorded(&admin, &here)
    })?;
    // Only now: all have closed, so no dump is to come.
    let witnessed = dumped(&witnessed, &here)?;
    let dumps = eventually("all is dumped", PATIENCE, || dumped(&dumps, &there))?;
    for (at, flow) in here.iter().enumerate() {
        same_socket(flow, &records[at], &witnessed[at])?;
        same_traffic(&records[at], &witnessed[at], &dumps[at])?;
    }
    let needless = [witnessed.last(), dumps.last()].map(|dump| dump.map_or(0, |dump| dump.dsack_dups));
    ensure!(needless.iter().all(|packets| *packets > 0), "sent again without need on the slow way: {needless:?}");
    Ok(())
}

fn same_socket(flow: &Flow, records: &[v1::FlowSample], dump: &Dump) -> Result<()> {
    let all = || format!("{flow:?}\n{records:?}\n{dump:?}");
    let (open, closed): (Vec<_>, Vec<_>) =
        records.iter().partition(|record| record.outcome() == v1::Outcome::StillOpen);
    ensure!(closed.len() == 1 && closed[0].outcome() == v1::Outcome::Established, "one end: {}", all());
    ensure!(flow.duration_us < LONG_HOLD_MS * 1_000 || !open.is_empty(), "told about while open: {}", all());
    ensure!(counts(closed[0]) == dump_counts(dump), "the last dump is the record: {}", all());
    ensure!(closed[0].rtos >= dump.icsk_retransmits, "{}", all());
    let most = 1 + closed[0].duration_us / 1_000_000;
    ensure!(u64::from(dump.number) <= most, "one dump a second: {}", all());
    let mut in_order: Vec<_> = records.iter().collect();
    in_order.sort_by_key(|record| record.duration_us);
    let grows = |pair: &[&v1::FlowSample]| counts(pair[0]).iter().zip(counts(pair[1])).all(|(a, b)| *a <= b);
    ensure!(in_order.windows(2).all(grows), "what was counted once stays so: {}", all());
    Ok(())
}

/// Where nothing went wrong, equal traffic is equal in numbers.
fn same_traffic(records: &[v1::FlowSample], witnessed: &Dump, dump: &Dump) -> Result<()> {
    let undisturbed = records.iter().all(|record| record.retransmits == 0)
        && [witnessed, dump].iter().all(|dump| dump.dsack_dups == 0 && dump.icsk_retransmits == 0);
    if undisturbed {
        ensure!(dump_counts(witnessed) == dump_counts(dump), "here {witnessed:?}, there {dump:?}");
    }
    Ok(())
}
