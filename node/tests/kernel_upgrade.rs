//! A new daemon of the same layout takes over under churn: no connection goes undecided, no record is lost; and pins of a layout that knows
//! nothing of others are refused.

mod common;

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use common::{Home, World, enter, facts};
use sockpilot_node::kernel::{Found, Kernel, KernelError, pins_of};
use sockpilot_policy::{
    compile::compile,
    layout::{Counter, FlowRecord},
    model::{Layer, LayerBody, Match, Parameters, Rule, Snapshot, Term, Value},
    parameter::slot_by_name,
};

const UPGRADES: usize = 6;
/// Connections from one reading of the records to the next: their records fit into the ring buffer.
const UNREAD_MAX: usize = 15_000;

/// A policy that gives a number to two parameters, so that a mix of two generations shows.
fn layer(number: u32) -> Layer {
    let slot = |name| slot_by_name(name).unwrap();
    let set = Parameters::default()
        .with(slot("initial_cwnd_packets"), Value::Number(number))
        .with(slot("synack_rto_ms"), Value::Number(1000 + number));
    let rules = vec![Rule::new(format!("r{number}").parse().unwrap(), Match::default(), set)];
    let name = "policies/p".parse().unwrap();
    Layer {
        name,
        revision: 1,
        priority: 1,
        term: Term::Always,
        ends_s: None,
        rollout: None,
        body: LayerBody::Policy(rules),
    }
}

/// Connections one after the other, until told to stop.
fn churn(to: SocketAddr, stop: Arc<AtomicBool>, made: Arc<AtomicUsize>, allowed: Arc<AtomicUsize>) {
    while !stop.load(Ordering::Relaxed) {
        if made.load(Ordering::Relaxed) >= allowed.load(Ordering::Relaxed) {
            thread::yield_now();
            continue;
        }
        let mut stream = TcpStream::connect(to).unwrap();
        stream.write_all(b"x").unwrap();
        made.fetch_add(1, Ordering::Relaxed);
        // The other end closes first, so that this end's ports come free at once.
        assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    }
}

fn serve(listener: &TcpListener) {
    while let Ok((mut stream, _)) = listener.accept() {
        if stream.read(&mut [0; 1]).unwrap_or(0) == 0 {
            return;
        }
    }
}

#[test]
fn upgrade_under_churn() {
    let Some(world) = World::new("upgrade") else { return };
    let _home = Home::here();
    let (mut kernel, found) = Kernel::open(&world.options).unwrap();
    assert_eq!(found, Found::Made);
    let install = |kernel: &mut Kernel, number: u32| {
        let compiled = compile(
            &Snapshot { layers: vec![layer(number)], zones: vec![] },
            &facts(),
            u64::from(number),
            u64::from(number),
        )
        .unwrap();
        kernel.install(&compiled.tables).unwrap();
    };
    install(&mut kernel, 20);

    enter(&world.options.cgroup);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let allowed = Arc::new(AtomicUsize::new(UNREAD_MAX));
    let server = thread::spawn(move || serve(&listener));
    let client = {
        let (stop, made, allowed) = (stop.clone(), made.clone(), allowed.clone());
        thread::spawn(move || churn(to, stop, made, allowed))
    };

    let mut records: Vec<FlowRecord> = Vec::new();
    for round in 0..UPGRADES {
        drop(kernel);
        // As a daemon of another build would have left it.
        let layout = pins_of(&world.options).unwrap();
        for entry in fs::read_dir(&layout).unwrap().flatten().filter(|entry| entry.file_type().unwrap().is_dir()) {
            fs::remove_dir(entry.path()).unwrap();
        }
        let (reopened, found) = Kernel::open(&world.options).unwrap();
        kernel = reopened;
        assert_eq!(found, Found::Upgraded);
        assert_eq!(kernel.in_force().unwrap().map(|head| head.generation), Some(20 + round as u64));
        install(&mut kernel, 21 + round as u32);
        let end = kernel.peek(usize::MAX, &mut |record| records.push(*record));
        kernel.release(end);
        allowed.store(made.load(Ordering::Relaxed) + UNREAD_MAX, Ordering::Relaxed);
    }
    stop.store(true, Ordering::Relaxed);
    client.join().unwrap();
    // A connection without a byte ends the server.
    drop(TcpStream::connect(to).unwrap());
    server.join().unwrap();
    let connections = made.load(Ordering::Relaxed) + 1;

    for _ in 0..200 {
        let end = kernel.peek(usize::MAX, &mut |record| records.push(*record));
        kernel.release(end);
        if records.len() == connections * 2 {
            break;
        }
        thread::sleep(std::time::Duration::from_millis(10));
    }
    let counters = kernel.counters().unwrap();
    println!("{connections} connections over {UPGRADES} upgrades");
    assert!(connections > 100, "{connections}");
    assert_eq!(records.len(), connections * 2, "every end of every connection was decided and recorded");
    assert_eq!(counters[Counter::FlowsStamped as usize] as usize, connections * 2);
    for record in &records {
        assert_eq!(u64::from(record.established_cwnd), record.install, "a flow has what its generation says");
        assert_eq!(record.refused, 0);
    }
    let (found, same) = (Kernel::open(&world.options).unwrap().1, Found::Adopted);
    assert_eq!(found, same, "the same build is adopted as it is");
}

#[test]
fn pins_of_a_layout_that_cannot_hand_over_are_refused() {
    let Some(world) = World::new("layouts") else { return };
    drop(Kernel::open(&world.options).unwrap());
    let layout = pins_of(&world.options).unwrap();
    fs::rename(&layout, world.options.pin_dir.join("layout-6")).unwrap();
    assert!(matches!(Kernel::open(&world.options), Err(KernelError::OtherLayout { .. })));
    Kernel::detach(&world.options).unwrap();
    assert!(!world.options.pin_dir.exists());
}
