//! Records of connections against what the kernel tells the owner of the same socket (`TCP_INFO`): while open, and at every kind
//! of end, over a network of its own that loses what it is told to lose. One test, because it moves the process into a cgroup.

mod common;

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use common::{
    Home, Net, World, enter, facts,
    info::{Counts, Info, Measures},
    until,
};
use socket2::SockRef;
use sockpilot_node::kernel::{Kernel, Walker};
use sockpilot_outcomes::{Flow, Outcome, Sums};
use sockpilot_policy::{
    compile::compile,
    layout::{ACTIVE, Counter, FlowRecord, IPV4, IPV6, PASSIVE, RING_BYTES, Reported},
    model::{Layer, LayerBody, Match, Parameters, Rule, Snapshot, Term, Value},
    parameter::slot_by_name,
};

const SYN_RTO_MS: u32 = 200;
const PAYLOAD: usize = 100_000;
const ESTABLISHED: u8 = 1;
const FIN_WAIT2: u8 = 5;
const CLOSE_WAIT: u8 = 8;

/// Everything a scenario needs.
struct Rig {
    kernel: Kernel,
    sweeper: Walker,
    listener: TcpListener,
    to: SocketAddr,
}

impl Rig {
    fn pair(&self) -> [TcpStream; 2] {
        let client = TcpStream::connect(self.to).unwrap();
        [client, self.listener.accept().unwrap().0]
    }

    /// All records that are there.
    fn drain(&mut self) -> Vec<FlowRecord> {
        let mut records = Vec::new();
        let end = self.kernel.peek(usize::MAX, &mut |record| records.push(*record));
        self.kernel.release(end);
        records
    }

    /// The records of two ends that close, and of nobody else.
    fn ends(&mut self) -> [FlowRecord; 2] {
        let mut records = Vec::new();
        until("both ends have a record", || {
            records.extend(self.drain());
            records.len() >= 2
        });
        sorted(&records)
    }

    /// Looks at two open ends until nothing happens in between, and compares. Returns the last records.
    fn look(&mut self, ends: &[TcpStream; 2]) -> [FlowRecord; 2] {
        let infos = || ends.each_ref().map(Info::of);
        let facts = |infos: [Info; 2]| infos.map(|info| (info.counts(), info.measures()));
        let mut last = None;
        until("the connection rests", || {
            let before = facts(infos());
            assert_eq!(self.sweeper.walk_all().unwrap(), 2, "this namespace and the one where the process began");
            let records = sorted(&self.drain());
            let quiet = facts(infos()) == before;
            if quiet {
                assert_eq!(records.map(|record| (Counts::of(&record), Measures::of(&record))), before);
                last = Some(records);
            }
            quiet
        });
        let records = last.unwrap();
        for record in &records {
            assert_eq!((record.still_open, record.old_state, record.error), (1, 1, 0));
            assert_eq!(Flow::of(record).outcome, Outcome::StillOpen);
            assert!(record.end_ns >= record.established_ns && record.established_ns >= record.start_ns);
        }
        assert_eq!(records[0].flow.local, records[1].flow.remote);
        assert_eq!(records[0].flow.remote_port, self.to.port());
        assert_eq!(records[0].flow.local_port, ends[0].local_addr().unwrap().port());
        records
    }
}

/// Active, passive.
fn sorted(records: &[FlowRecord]) -> [FlowRecord; 2] {
    assert_eq!(records.len(), 2, "{records:#?}");
    let of = |direction| *records.iter().find(|record| record.flow.direction == direction).unwrap();
    [of(ACTIVE), of(PASSIVE)]
}

fn send(from: &mut TcpStream, to: &mut TcpStream, bytes: usize) {
    thread::scope(|scope| {
        scope.spawn(|| from.write_all(&vec![7; bytes]).unwrap());
        to.read_exact(&mut vec![0; bytes]).unwrap();
    });
}

/// Closes in order, and compares what came since the last look with what a FIN and its acknowledgement are.
fn close(rig: &mut Rig, ends: [TcpStream; 2]) -> [FlowRecord; 2] {
    let [client, server] = ends;
    server.shutdown(Shutdown::Write).unwrap();
    until("the FIN is acknowledged", || {
        Info::of(&server).state() == FIN_WAIT2 && Info::of(&client).state() == CLOSE_WAIT
    });
    let expected = [&client, &server].map(|stream| Info::of(stream).counts());
    drop(client);
    let records = rig.ends();
    for (record, mut expected) in records.iter().zip(expected) {
        let active = record.flow.direction == ACTIVE;
        expected.segments_in += 1;
        expected.segments_out += 1;
        expected.bytes_sent += u64::from(active);
        expected.delivered += u32::from(active);
        expected.bytes_received += u64::from(!active);
        assert_eq!(Counts::of(record), expected);
        assert_eq!((record.still_open, record.error), (0, 0));
        assert_eq!(Flow::of(record).outcome, Outcome::Established);
    }
    records
}

fn reported(record: &FlowRecord) -> Reported {
    let FlowRecord { bytes_sent, bytes_received, segments_out, segments_in, .. } = *record;
    let FlowRecord { retransmits, syn_retransmits, rtos, .. } = *record;
    let FlowRecord { delivered_packets, ce_marked_packets, spurious_retransmits, .. } = *record;
    Reported {
        bytes_sent,
        bytes_received,
        segments_out,
        segments_in,
        retransmits,
        syn_retransmits,
        rtos,
        delivered_packets,
        ce_marked_packets,
        spurious_retransmits,
        end_ns: record.end_ns,
    }
}

#[test]
fn records_agree_with_the_sockets() {
    let Some(world) = World::new("records") else { return };
    let _home = Home::here();
    let (mut kernel, _) = Kernel::open(&world.options).unwrap();
    let set = Parameters::default().with(slot_by_name("syn_rto_ms").unwrap(), Value::Number(SYN_RTO_MS));
    let rule = Rule::new("all".parse().unwrap(), Match::default(), set);
    let name = "policies/all".parse().unwrap();
    let layer = Layer {
        name,
        revision: 1,
        priority: 1,
        term: Term::Always,
        ends_s: None,
        rollout: None,
        body: LayerBody::Policy(vec![rule]),
    };
    let snapshot = Snapshot { layers: vec![layer], zones: vec![] };
    let compiled = compile(&snapshot, &facts(), 1, kernel.next_install().unwrap()).unwrap();
    kernel.install(&compiled.tables).unwrap();
    enter(&world.options.cgroup);
    let _net = Net::new();

    let sweeper = Walker::long_flows(&world.options, Duration::ZERO).unwrap().expect("this kernel has all fields");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let mut rig = Rig { kernel, sweeper, listener, to };
    let mapped = format!("[::ffff:127.0.0.1]:{}", to.port()).parse().unwrap();
    for (to, family) in [(to, IPV4), (mapped, IPV4)] {
        rig.to = to;
        open_then_closed(&mut rig, family);
    }
    let ipv4 = (std::mem::replace(&mut rig.listener, TcpListener::bind("[::1]:0").unwrap()), to);
    rig.to = rig.listener.local_addr().unwrap();
    open_then_closed(&mut rig, IPV6);
    (rig.listener, rig.to) = ipv4;
    young_ones_are_left_alone(&mut rig, &world);
    lost_handshakes(&mut rig);
    lost_data(&mut rig);
    needless_repetitions(&mut rig);
    congestion_marks(&mut rig);
    resets(&mut rig);
    given_up(&mut rig);
    room_for_those_that_close(&mut rig);
    let counters = rig.kernel.counters().unwrap();
    assert_eq!(counters[Counter::FlowsStamped as usize], counters[Counter::FlowsClosed as usize]);
    assert_eq!(counters[Counter::RecordsDropped as usize], 0);
}

/// What interval records and the closing one report adds up to what one record would have reported.
fn open_then_closed(rig: &mut Rig, family: u8) {
    let mut ends = rig.pair();
    assert_eq!(ends.each_ref().map(|end| Info::of(end).state()), [ESTABLISHED; 2]);
    let mut sums = [Sums::default(), Sums::default()];
    let mut count = |records: [FlowRecord; 2]| {
        for (sums, record) in sums.iter_mut().zip(records) {
            sums.add(&Flow::of(&record));
        }
    };
    // The first looks may be repeated, so only the sums since a record of zeros are known: start from there.
    let [client, server] = &mut ends;
    send(client, server, PAYLOAD);
    send(server, client, PAYLOAD / 2);
    let first = rig.look(&ends);
    assert!(first.iter().all(|record| Measures::of(record).rate > 0), "a rate of nothing agrees with everything");
    let fresh = |mut record: FlowRecord| {
        record.reported = Reported::default();
        record
    };
    count(first.map(fresh));
    let [client, server] = &mut ends;
    send(client, server, PAYLOAD);
    // One look, whether or not the connection rests: the sums must be right all the same.
    rig.sweeper.walk_all().unwrap();
    let second = sorted(&rig.drain());
    assert_eq!(second.map(|record| record.reported), first.map(|record| reported(&record)));
    count(second);
    let end = close(rig, ends);
    assert_eq!(end.map(|record| record.flow), first.map(|record| record.flow), "the same flow in all its records");
    assert_eq!(end.map(|record| record.flow.family), [family; 2]);
    assert_eq!(end.map(|record| record.reported), second.map(|record| reported(&record)));
    count(end);
    for (sums, end) in sums.iter().zip(end) {
        let mut whole = Sums::default();
        whole.add(&Flow::of(&fresh(end)));
        assert_eq!(sums.counts.still_open, 2);
        let parts = sockpilot_outcomes::Counts { still_open: 0, ..sums.counts };
        assert_eq!(parts, whole.counts);
        assert_eq!(sums.distributions.duration_us, whole.distributions.duration_us);
    }
    rig.sweeper.walk_all().unwrap();
    assert!(rig.drain().is_empty(), "what has closed is reported no more");
}

/// A second program beside the first, for connections of an hour.
fn young_ones_are_left_alone(rig: &mut Rig, world: &World) {
    let old = Walker::long_flows(&world.options, Duration::from_secs(3_600)).unwrap().unwrap();
    let ends = rig.pair();
    old.walk_all().unwrap();
    assert!(rig.drain().is_empty());
    close(rig, ends);
}

fn lost_handshakes(rig: &mut Rig) {
    let port = rig.to.port();
    for (lost, resent) in [
        (format!("tcp dport {port} tcp flags & (syn|ack) == syn limit rate 1/hour burst 1 packets"), [1, 0]),
        (format!("tcp sport {port} tcp flags & (syn|ack) == (syn|ack) limit rate 1/hour burst 1 packets"), [1, 1]),
    ] {
        Net::lose(&lost);
        let begun = Instant::now();
        let ends = rig.pair();
        let took_us = begun.elapsed().as_micros() as u64;
        Net::heal();
        let records = rig.look(&ends);
        assert_eq!(records.map(|record| record.syn_retransmits), resent, "{lost}");
        assert_eq!(records.map(|record| record.retransmits), [0, 0]);
        let handshake_us = Flow::of(&records[0]).connect_time_us.unwrap();
        assert!((u64::from(SYN_RTO_MS) * 1_000..=took_us).contains(&handshake_us), "{handshake_us} of {took_us}");
        let [_, server] = close(rig, ends).map(|record| record.syn_retransmits);
        assert_eq!(server, resent[1]);
    }
}

fn lost_data(rig: &mut Rig) {
    let mut ends = rig.pair();
    Net::lose(&format!("tcp dport {} ip length > 500", rig.to.port()));
    ends[0].write_all(&[1; 1_000]).unwrap();
    until("two timers have run out", || Info::of(&ends[0]).counts().rtos >= 2);
    Net::heal();
    until("all has arrived", || Info::of(&ends[0]).unacknowledged() == 0);
    let [client, server] = rig.look(&ends);
    assert!(client.rtos >= 2 && client.retransmits >= 2, "{client:#?}");
    assert_eq!((server.rtos, server.retransmits, client.syn_retransmits), (0, 0, 0));
    ends[1].read_exact(&mut [0; 1_000]).unwrap();
    let [client, _] = close(rig, ends);
    assert!(client.rtos >= 2);
}

/// What arrives but is not acknowledged is sent again, and the other end says so.
fn needless_repetitions(rig: &mut Rig) {
    let mut ends = rig.pair();
    Net::lose(&format!("tcp sport {}", rig.to.port()));
    ends[0].write_all(&[1; 1_000]).unwrap();
    until("it is sent again", || Info::of(&ends[0]).counts().retransmits > 0);
    Net::heal();
    until("the acknowledgement has come", || Info::of(&ends[0]).counts().dsack_dups > 0);
    let [client, server] = rig.look(&ends);
    assert!(client.spurious_retransmits > 0 && client.spurious_retransmits <= client.retransmits, "{client:#?}");
    assert_eq!(server.spurious_retransmits, 0);
    ends[1].read_exact(&mut [0; 1_000]).unwrap();
    close(rig, ends);
}

fn congestion_marks(rig: &mut Rig) {
    fs::write("/proc/sys/net/ipv4/tcp_ecn", "1").unwrap();
    let mut ends = rig.pair();
    fs::write("/proc/sys/net/ipv4/tcp_ecn", "2").unwrap();
    let [client, server] = &mut ends;
    send(client, server, 1_000);
    let [before, _] = rig.look(&ends);
    Net::mark(&format!("tcp dport {} ip length > 500", rig.to.port()));
    let [client, server] = &mut ends;
    send(client, server, PAYLOAD);
    Net::heal();
    let [client, server] = rig.look(&ends);
    assert_eq!((before.ce_marked_packets, server.ce_marked_packets), (0, 0));
    let since = client.delivered_packets - before.delivered_packets;
    assert!((1..=since).contains(&client.ce_marked_packets), "{since} of {client:#?}");
    // The last acknowledgement may still echo a mark.
    drop(ends);
    assert!(rig.ends()[0].ce_marked_packets - client.ce_marked_packets <= 1);
}

/// By an end that does not linger, and by one that goes with data unread: neither has an error.
fn resets(rig: &mut Rig) {
    for unread in [false, true] {
        let [client, mut server] = rig.pair();
        if unread {
            server.write_all(b"never read").unwrap();
            until("it has come", || Info::of(&client).counts().bytes_received > 0);
        } else {
            SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        }
        let before = Info::of(&client).counts();
        drop(client);
        let records = rig.ends();
        assert_eq!(records.map(|record| Flow::of(&record).outcome), [Outcome::Reset; 2], "unread: {unread}");
        assert_eq!(records.map(|record| record.error as i32), [0, libc::ECONNRESET]);
        assert_eq!(records[0].bytes_received, before.bytes_received);
    }
}

fn given_up(rig: &mut Rig) {
    let [mut client, server] = rig.pair();
    SockRef::from(&client).set_tcp_user_timeout(Some(Duration::from_millis(300))).unwrap();
    Net::lose(&format!("tcp dport {}", rig.to.port()));
    client.write_all(b"nobody hears").unwrap();
    let mut records = Vec::new();
    until("it is given up", || {
        records.extend(rig.drain());
        !records.is_empty()
    });
    assert_eq!(records[0].flow.direction, ACTIVE);
    assert_eq!(Flow::of(&records[0]).outcome, Outcome::TimedOut);
    assert_eq!(records[0].error as i32, libc::ETIMEDOUT);
    Net::heal();
    drop(server);
    let mut rest = Vec::new();
    until("the other end learns of it", || {
        rest.extend(rig.drain());
        !rest.is_empty()
    });
    assert_eq!(Flow::of(&rest[0]).outcome, Outcome::Reset);
}

/// When nobody reads, records of open connections do not take the room of those that close, and what was put off is reported later.
fn room_for_those_that_close(rig: &mut Rig) {
    const PAIRS: usize = 250;
    let counter = |rig: &Rig, counter| rig.kernel.counters().unwrap()[counter as usize];
    assert_eq!(counter(rig, Counter::OpenDeferred), 0);
    let mut pairs: Vec<_> = (0..PAIRS).map(|_| rig.pair()).collect();
    until("half of the ring buffer is full", || {
        rig.sweeper.walk_all().unwrap();
        counter(rig, Counter::OpenDeferred) > 0
    });
    for [client, server] in &mut pairs {
        send(client, server, 1_000);
    }
    rig.sweeper.walk_all().unwrap();
    drop(pairs);
    let (mut sums, mut bytes, mut reported) = (Sums::default(), 0, 0);
    until("all have ended", || {
        for record in rig.drain() {
            sums.add(&Flow::of(&record));
            reported += 1;
            if record.still_open == 0 {
                bytes += record.bytes_sent;
            }
        }
        sums.counts.flows == 2 * PAIRS as u64
    });
    assert!(reported > RING_BYTES / 2 / 512, "{reported} records");
    assert_eq!((sums.counts.bytes_sent, counter(rig, Counter::RecordsDropped)), (bytes, 0));
    // The SYN, a thousand bytes, the FIN if it was acknowledged in time; the FIN.
    assert!((PAIRS as u64 * 1_001..=PAIRS as u64 * 1_003).contains(&bytes), "{bytes}");
}
