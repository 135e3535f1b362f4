//! A kernel side takes over from another one under churn: every connection is decided by one of the two, and recorded once. Here both are of
//! one layout, and one of them is called by another's name; `tests/tests/kernel_layouts.rs` has two layouts that differ.

mod common;

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use common::{Home, World, enter, facts, until};
use sockpilot_node::kernel::{Found, Kernel, Options, pins_of};
use sockpilot_policy::{
    compile::compile,
    layout::{Counter, FlowRecord, LAYOUT_VERSION},
    model::{Layer, LayerBody, Match, Parameters, Rule, Snapshot, Term, Value},
    parameter::slot_by_name,
};

const HANDOVERS: u32 = 6;
const FIRST: u32 = 20;

/// A policy that gives a number to two parameters, one of which acts in the handshake.
fn install(kernel: &mut Kernel, number: u32) {
    let slot = |name| slot_by_name(name).unwrap();
    let set = Parameters::default()
        .with(slot("initial_cwnd_packets"), Value::Number(number))
        .with(slot("synack_rto_ms"), Value::Number(1000 + number));
    let rules = vec![Rule::new(format!("r{number}").parse().unwrap(), Match::default(), set)];
    let (name, body) = ("policies/p".parse().unwrap(), LayerBody::Policy(rules));
    let layer = Layer { name, revision: 1, priority: 1, term: Term::Always, ends_s: None, rollout: None, body };
    let snapshot = Snapshot { layers: vec![layer], zones: vec![] };
    let compiled = compile(&snapshot, &facts(), number.into(), number.into()).unwrap();
    kernel.install(&compiled.tables).unwrap();
}

/// Calls the side in charge one of another layout, so that the next daemon takes over from it.
fn call_it_another(options: &Options) {
    let pins = pins_of(options).unwrap();
    let name = pins.file_name().unwrap().to_str().unwrap();
    let other = name.replace(&format!("layout-{LAYOUT_VERSION}-"), "layout-99-");
    fs::rename(&pins, options.pin_dir.join(other)).unwrap();
}

/// Connections one after the other, until told to stop.
fn churn(to: SocketAddr, stop: &AtomicBool, made: &AtomicUsize) {
    while !stop.load(Ordering::Relaxed) {
        exchange(&mut TcpStream::connect(to).unwrap());
        made.fetch_add(1, Ordering::Relaxed);
        // The ring buffer is not read while a program is loaded.
        thread::sleep(Duration::from_millis(2));
    }
}

/// The other end closes first, so that this end's ports come free at once.
fn exchange(stream: &mut TcpStream) {
    stream.write_all(b"x").unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
}

/// Closes each connection once it has a byte, all beside each other.
fn serve(listener: TcpListener) {
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || stream.read(&mut [0; 1]));
        }
    });
}

fn take(kernel: &mut Kernel, records: &mut Vec<FlowRecord>) {
    for of_side in kernel.all_records() {
        let end = of_side.peek(usize::MAX, &mut |record| records.push(*record));
        of_side.release(end);
    }
}

/// Ends sides without connections, as the daemon does; without waiting for handshakes, which are then decided anew.
fn end_done(kernel: &mut Kernel, records: &mut Vec<FlowRecord>) {
    while let Some(first) = kernel.earlier().unwrap().into_iter().next().filter(|first| first.open == 0) {
        kernel.retire(first.number).unwrap();
        take(kernel, records);
        let end = kernel.earlier().unwrap().remove(0);
        assert_eq!((end.open, end.dropped), (0, 0), "nothing begins under a side that is not in charge");
        kernel.forget(first.number).unwrap();
    }
}

#[test]
fn connections_are_decided_and_recorded_once() {
    let Some(world) = World::new("handover") else { return };
    let _home = Home::here();
    let (mut kernel, found) = Kernel::open(&world.options).unwrap();
    assert_eq!((found, kernel.is_in_charge().unwrap()), (Found::Made, true));
    install(&mut kernel, FIRST);
    enter(&world.options.cgroup);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    serve(listener);
    let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients = [0, 1].map(|_| {
        let (stop, made) = (stop.clone(), made.clone());
        thread::spawn(move || churn(to, &stop, &made))
    });

    let (mut records, mut kept, mut before) = (vec![], vec![], 0);
    for number in FIRST + 1..=FIRST + HANDOVERS {
        // Open over two handovers.
        kept.push(TcpStream::connect(to).unwrap());
        if kept.len() > 2 {
            exchange(&mut kept.remove(0));
        }
        drop(kernel);
        call_it_another(&world.options);
        // A daemon that is killed before it has taken over.
        let (unfinished, found) = Kernel::open(&world.options).unwrap();
        assert_eq!((found, unfinished.is_in_charge().unwrap()), (Found::Beside, false));
        drop(unfinished);
        let (reopened, found) = Kernel::open(&world.options).unwrap();
        kernel = reopened;
        assert_eq!((found, kernel.is_in_charge().unwrap()), (Found::Beside, false));
        assert_eq!(kernel.next_install().unwrap(), u64::from(number), "no two sides have one install");
        install(&mut kernel, number);
        assert!(kernel.is_in_charge().unwrap());
        take(&mut kernel, &mut records);
        end_done(&mut kernel, &mut records);
        until("connections go on", || made.load(Ordering::Relaxed) > before + 20);
        before = made.load(Ordering::Relaxed);
    }
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
    kept.iter_mut().for_each(exchange);
    drop(kept);
    let connections = made.load(Ordering::Relaxed) + HANDOVERS as usize;
    until("all sides but the last end", || {
        take(&mut kernel, &mut records);
        end_done(&mut kernel, &mut records);
        kernel.earlier().unwrap().is_empty()
    });
    println!("{connections} connections over {HANDOVERS} handovers");
    let counted = kernel.counters().unwrap();
    assert_eq!(counted[Counter::FlowsStamped as usize], counted[Counter::FlowsClosed as usize]);
    assert_eq!(counted[Counter::RecordsDropped as usize], 0);
    assert_eq!(records.len(), connections * 2, "both ends of every connection, once");
    for record in &records {
        assert_eq!(u64::from(record.established_cwnd), record.install, "a connection has what one side says");
    }
    let mut installs: Vec<_> = records.iter().map(|record| record.install).collect();
    installs.sort_unstable();
    installs.dedup();
    assert_eq!(installs.len(), HANDOVERS as usize + 1, "every side has decided");
    // A daemon of the same layout adopts it, with a program that knows nothing of the sides that have gone.
    drop(kernel);
    assert_eq!(Kernel::open(&world.options).unwrap().1, Found::Upgraded);
    assert_eq!(Kernel::open(&world.options).unwrap().1, Found::Adopted);
}

#[test]
fn a_side_that_ends_early_leaves_its_connections_alone_and_says_how_many() {
    let Some(world) = World::new("early") else { return };
    let _home = Home::here();
    let (mut kernel, _) = Kernel::open(&world.options).unwrap();
    install(&mut kernel, FIRST);
    enter(&world.options.cgroup);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut open = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let accepted = listener.accept().unwrap();
    drop(kernel);
    call_it_another(&world.options);
    let (mut kernel, _) = Kernel::open(&world.options).unwrap();
    install(&mut kernel, FIRST + 1);
    let of = |kernel: &Kernel| kernel.earlier().unwrap().into_iter().map(|side| (side.open, side.retired)).next();
    assert_eq!(of(&kernel), Some((2, false)));
    kernel.retire(1).unwrap();
    drop(accepted);
    assert_eq!(open.read(&mut [0; 1]).unwrap(), 0);
    drop(open);
    // Still there for a daemon that comes after this one was killed.
    drop(kernel);
    let (mut kernel, _) = Kernel::open(&world.options).unwrap();
    assert_eq!(of(&kernel), Some((2, true)), "what ended since is lost, and counted");
    kernel.forget(1).unwrap();
    assert_eq!(of(&kernel), None);
    assert_eq!(sides(&world.options.pin_dir), 1);
    let mut records = vec![];
    take(&mut kernel, &mut records);
    assert!(records.is_empty(), "the side in charge has nothing to do with them");
}

#[test]
fn there_are_only_so_many_sides() {
    let Some(world) = World::new("many") else { return };
    let _home = Home::here();
    let (mut kernel, _) = Kernel::open(&world.options).unwrap();
    install(&mut kernel, FIRST);
    enter(&world.options.cgroup);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _open: Vec<_> = (FIRST + 1..FIRST + 6)
        .map(|number| {
            let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            call_it_another(&world.options);
            kernel = Kernel::open(&world.options).unwrap().0;
            install(&mut kernel, number);
            (connection, listener.accept().unwrap())
        })
        .collect();
    let retired: Vec<_> = kernel.earlier().unwrap().into_iter().map(|side| (side.number, side.retired)).collect();
    assert_eq!(retired, [(1, true), (2, true), (3, false), (4, false), (5, false)]);
}

fn sides(pin_dir: &Path) -> usize {
    fs::read_dir(pin_dir).unwrap().count()
}
