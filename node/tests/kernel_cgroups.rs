//! Cgroups come and go: services are restarted, the node's own cgroup is made anew, sockets outlive the cgroup they were made in.
//! What is there is attached, what has gone is served to its end, every connection is recorded once, and no snapshot is refused.

mod common;

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use aya::maps::{HashMap, Map, MapData};
use common::{Home, World, enter, facts, records, remove_cgroup, until};
use sockpilot_node::{
    disk::StateDir,
    keeper::{Command, Keeper, channel},
    kernel::{self, Found, Kernel, KernelError, Options, Services, Stamps},
    metrics::Metrics,
    process::inspect::Inspector,
    records::{
        attribution::Meaning,
        collector::{Collector, Tables},
    },
    snapshot::{stored::Snapshots, trips::Trips},
};
use sockpilot_outcomes::Choice;
use sockpilot_policy::{
    compile::{ChoiceName, Compiled, compile},
    layout::{ACTIVE, FlowRecord, PASSIVE},
    model::{Direction, Layer, LayerBody, Match, Parameters, Rule, Snapshot, Term, Value},
    parameter::slot_by_name,
};
use tokio::{runtime, sync::oneshot};

/// A rule for active connections of each service, and one for all others.
fn snapshot(services: &[&str], cwnd: u32) -> Snapshot {
    let active = |services: &[&str]| Match {
        direction: Some(Direction::Active),
        services: services.iter().map(|path| path.parse().unwrap()).collect(),
        ..Match::default()
    };
    let set = Parameters::default().with(slot_by_name("initial_cwnd_packets").unwrap(), Value::Number(cwnd));
    let rule = |name: &str, matches| Rule::new(name.parse().unwrap(), matches, set.clone());
    let mut rules: Vec<_> = services.iter().map(|path| rule(service_name(path), active(&[path]))).collect();
    rules.push(rule("rest", active(&[])));
    let body = LayerBody::Policy(rules);
    let layer = Layer {
        name: "policies/p".parse().unwrap(),
        revision: 1,
        priority: 1,
        term: Term::Always,
        ends_s: None,
        rollout: None,
        body,
    };
    Snapshot { layers: vec![layer], zones: vec![] }
}

/// `web` of `/system.slice/web.service`.
fn service_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap().split('.').next().unwrap()
}

fn install(kernel: &mut Kernel, services: &[&str], cwnd: u32) -> Compiled {
    let install = kernel.next_install().unwrap();
    let compiled = compile(&snapshot(services, cwnd), &facts(), install, install).unwrap();
    kernel.install(&compiled.tables).unwrap();
    compiled
}

/// Does something as a process of a cgroup.
fn inside<T>(cgroup: &Path, home: &Home, act: impl FnOnce() -> T) -> T {
    enter(cgroup);
    let done = act();
    enter(home.cgroup());
    done
}

/// Both ends of a connection whose active end is of the cgroup; the listener is of none.
fn connect(cgroup: &Path, home: &Home, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let to: SocketAddr = listener.local_addr().unwrap();
    let client = inside(cgroup, home, || TcpStream::connect(to).unwrap());
    (client, listener.accept().unwrap().0)
}

fn choice(compiled: &Compiled, record: &FlowRecord) -> String {
    assert_eq!((record.flow.direction, record.choice_count), (ACTIVE, 1));
    compiled.choices[usize::from(record.choices[0]) - 1].name.to_string()
}

fn restart(cgroup: &Path) {
    remove_cgroup(cgroup);
    fs::create_dir(cgroup).unwrap();
}

fn attached(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn a_service_is_restarted_again_and_again() {
    const RESTARTS: usize = 40;
    let Some(world) = World::new("restarts") else { return };
    let home = Home::here();
    let web = world.options.cgroup.join("web.service");
    fs::create_dir(&web).unwrap();
    let (mut kernel, _) = Kernel::open(&world.options).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut outlived = None;
    let mut counted = 0;
    for round in 0..RESTARTS {
        // The change comes right after the restart or only after a look, by turns.
        if round % 2 == 0 {
            kernel.poll_services().unwrap();
        }
        let compiled = install(&mut kernel, &["/web.service"], 11 + round as u32);
        assert!(kernel.services().own);
        assert_eq!(kernel.services().attached, ["/web.service"], "round {round}");
        assert_eq!((&kernel.services().absent, &kernel.services().troubled), (&vec![], &vec![]));
        // Of the cgroup before, which is gone.
        if let Some((ends, before)) = outlived.take() {
            drop::<(TcpStream, TcpStream)>(ends);
            assert_eq!(choice(&before, &records(&mut kernel, 1)[0]), "web");
            counted += 1;
        }
        drop(connect(&web, &home, &listener));
        assert_eq!(choice(&compiled, &records(&mut kernel, 1)[0]), "web");
        counted += 1;
        outlived = Some((connect(&web, &home, &listener), compiled));
        restart(&web);
    }
    let (ends, compiled) = outlived.unwrap();
    drop(ends);
    assert_eq!(choice(&compiled, &records(&mut kernel, 1)[0]), "web");
    assert_eq!(counted + 1, 2 * RESTARTS);
    // What has neither directory nor sockets is let go of: the node's own and the newest stay.
    until("all others are let go of", || kernel.poll_services().unwrap() == 2);
    assert_eq!(kernel.services().outlived, 0);
    assert!(kernel.peek(1, &mut |_| ()) == kernel.ring_position(), "nothing is counted twice");

    remove_cgroup(&web);
    until("it is let go of", || kernel.poll_services().unwrap() == 1);
    let gone = Services { own: true, absent: attached(&["/web.service"]), ..Services::default() };
    assert_eq!(kernel.services(), &gone);
    install(&mut kernel, &["/web.service"], 12);
}

#[test]
fn a_restart_while_no_daemon_runs() {
    let Some(world) = World::new("asleep") else { return };
    let home = Home::here();
    let [web, api] = ["web.service", "api.service"].map(|name| world.options.cgroup.join(name));
    fs::create_dir(&web).unwrap();
    fs::create_dir(&api).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let services = ["/web.service", "/api.service", "/late.service"];
    let (mut kernel, _) = Kernel::open(&world.options).unwrap();
    let before = install(&mut kernel, &services, 20);
    let [of_web, of_api] = [&web, &api].map(|cgroup| connect(cgroup, &home, &listener));
    drop(kernel);
    restart(&web);
    remove_cgroup(&api);

    let (mut kernel, found) = Kernel::open(&world.options).unwrap();
    assert_eq!(found, Found::Adopted);
    assert!(kernel.recognise(&before.tables).unwrap());
    let now = kernel.services();
    assert_eq!((now.own, now.outlived), (true, 2));
    assert_eq!(
        (&now.attached, &now.absent),
        (&attached(&["/web.service"]), &attached(&["/api.service", "/late.service"]))
    );
    // What the rules in force name is known, too, to a daemon that has put nothing in force itself.
    let late = world.options.cgroup.join("late.service");
    fs::create_dir(&late).unwrap();
    kernel.poll_services().unwrap();
    for (cgroup, name) in [(&web, "web"), (&late, "late")] {
        drop(connect(cgroup, &home, &listener));
        assert_eq!(choice(&before, &records(&mut kernel, 1)[0]), name);
    }
    let after = install(&mut kernel, &["/web.service"], 30);
    for (ends, name) in [(of_web, "web"), (of_api, "api")] {
        drop(ends);
        assert_eq!(choice(&before, &records(&mut kernel, 1)[0]), name);
    }
    drop(connect(&web, &home, &listener));
    assert_eq!(choice(&after, &records(&mut kernel, 1)[0]), "web");
    // The node's own, the new one, and the one that no rule names any more but is there.
    until("what has gone is let go of", || kernel.poll_services().unwrap() == 3);
    let other = compile(&snapshot(&services, 30), &facts(), 9, after.tables.head.install).unwrap();
    assert!(!kernel.recognise(&other.tables).unwrap(), "masks of other matches mean something else");
    remove_cgroup(&web);
    remove_cgroup(&late);
}

#[test]
fn the_node_s_own_cgroup_is_made_anew() {
    let Some(world) = World::new("own") else { return };
    let home = Home::here();
    let own = world.options.cgroup.clone();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut kernel, _) = Kernel::open(&world.options).unwrap();
    let first = install(&mut kernel, &["/web"], 20);
    let mut outlived = vec![connect(&own, &home, &listener)];

    // While the daemon runs.
    remove_cgroup(&own);
    assert!(kernel.poll_services().is_err());
    assert_eq!(kernel.services().troubled[0].0, "/");
    let second = install(&mut kernel, &["/web"], 21);
    assert!(!kernel.services().own);
    fs::create_dir(&own).unwrap();
    assert_eq!(kernel.poll_services().unwrap(), 2, "the old one and the new one");
    assert!(kernel.services().own);
    drop(connect(&own, &home, &listener));
    assert_eq!(choice(&second, &records(&mut kernel, 1)[0]), "rest");
    outlived.push(connect(&own, &home, &listener));

    // While none runs; and it is not even known what is in force.
    drop(kernel);
    restart(&own);
    let (mut kernel, found) = Kernel::open(&world.options).unwrap();
    assert_eq!(found, Found::Adopted);
    drop(connect(&own, &home, &listener));
    assert_eq!(choice(&second, &records(&mut kernel, 1)[0]), "rest");
    assert_eq!(kernel.poll_services().unwrap(), 3);
    for (ends, compiled) in outlived.into_iter().zip([first, second]) {
        drop(ends);
        assert_eq!(choice(&compiled, &records(&mut kernel, 1)[0]), "rest");
    }
    until("the old ones are let go of", || kernel.poll_services().unwrap() == 1);

    // All that was attached has gone, the newest too.
    drop(kernel);
    restart(&own);
    let (mut kernel, found) = Kernel::open(&world.options).unwrap();
    assert_eq!(found, Found::Adopted);
    let third = install(&mut kernel, &[], 22);
    drop(connect(&own, &home, &listener));
    assert_eq!(choice(&third, &records(&mut kernel, 1)[0]), "rest");
}

#[test]
fn pins_of_another_cgroup_that_is_there_are_refused() {
    let Some(world) = World::new("other") else { return };
    let own = &world.options.cgroup;
    drop(Kernel::open(&world.options).unwrap());
    let inner = own.join("inner");
    fs::create_dir(&inner).unwrap();
    let moved = Options { cgroup: inner.clone(), ..world.options.clone() };
    match Kernel::open(&moved) {
        Err(KernelError::OtherCgroup { cgroup, .. }) => assert_eq!(&cgroup, own),
        other => panic!("{other:?}"),
    }
    // Whoever ends it need not know of which cgroup it is.
    assert!(Kernel::open_to_end(&moved).unwrap().is_some());
    remove_cgroup(&inner);
    drop(Kernel::open(&world.options).unwrap());
}

#[test]
fn trouble_with_one_cgroup_leaves_the_others_alone() {
    let Some(world) = World::new("trouble") else { return };
    let home = Home::here();
    let [web, api] = ["web", "api"].map(|name| world.options.cgroup.join(name));
    fs::create_dir(&web).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut kernel, _) = Kernel::open(&world.options).unwrap();
    install(&mut kernel, &["/web"], 20);
    // No room for what programs are told about one more; and a service that is no cgroup.
    let pin = kernel::pins_of(&world.options).unwrap().join("ATTACHED");
    let mut told = HashMap::<_, u64, u64>::try_from(Map::HashMap(MapData::from_pin(pin).unwrap())).unwrap();
    let crowd: Vec<_> = (1 << 40..).take_while(|id| told.insert(id, 0, 0).is_ok()).collect();
    fs::create_dir(&api).unwrap();
    let services = ["/api", "/cgroup.procs", "/web"];
    let compiled = install(&mut kernel, &services, 21);
    let troubled: Vec<_> = kernel.services().troubled.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(troubled, ["/api", "/cgroup.procs"]);
    assert_eq!(kernel.services().attached, ["/web"]);
    for (cgroup, name) in [(&web, "web"), (&api, "rest")] {
        drop(connect(cgroup, &home, &listener));
        assert_eq!(choice(&compiled, &records(&mut kernel, 1)[0]), name);
    }
    // Tried again at each look.
    assert!(kernel.poll_services().is_err());
    for id in crowd {
        told.remove(&id).unwrap();
    }
    let _ = kernel.poll_services();
    assert_eq!(kernel.services().attached, ["/api", "/web"]);
    drop(connect(&api, &home, &listener));
    assert_eq!(choice(&compiled, &records(&mut kernel, 1)[0]), "api");
    remove_cgroup(&web);
    remove_cgroup(&api);
}

/// What a connection was decided to be, on its socket.
fn decided(stamps: &Stamps, socket: &TcpStream) -> u16 {
    let stamp = stamps.of(socket.as_fd()).unwrap().expect("stamped");
    stamp.choices[0]
}

#[test]
fn a_service_s_first_connections() {
    const SERVICES: usize = 12;
    const CONNECTIONS: usize = 400;
    let Some(world) = World::new("first") else { return };
    let home = Home::here();
    let state_home = common::state_dir();
    let state = StateDir::open(state_home.path(), &world.options.pin_dir).unwrap();
    let (mut kernel, _) = Kernel::open(&world.options).unwrap();
    // Half of them lie in a directory that appears with them.
    let paths: Vec<_> = (0..SERVICES)
        .map(|index| if index % 2 == 0 { format!("/s{index}") } else { format!("/slice{index}/s{index}") })
        .collect();
    let names: Vec<_> = paths.iter().map(String::as_str).collect();
    let compiled = install(&mut kernel, &names, 20);
    let tables =
        Tables { identity: kernel.identity(), made: true, position: kernel.ring_position(), dropped: 0, earlier: &[] };
    let directories = (state.journals(), state.attributions());
    let mut collector = Collector::open(directories, tables, "boot".into(), "node".into(), 60, 0).unwrap();
    let named = |name: &ChoiceName| {
        Meaning::from(Arc::new(Choice { layer: "policies/p".to_owned(), revision: 1, name: name.name.to_string() }))
    };
    let choices: Vec<_> = compiled.choices.iter().map(named).collect();
    collector.note_install(compiled.tables.head.install, &choices).unwrap();
    kernel.poll_services().unwrap();
    assert!(kernel.recognise(&compiled.tables).unwrap());
    // So far away that nothing is found by looking.
    let keeper = Keeper::new(kernel, facts(), collector, (Snapshots::of(&state), Trips::of(&state)), Metrics::new())
        .looking_every(Duration::from_secs(3_600));
    let (handle, ends) = channel();
    let runtime = || runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let kept = thread::spawn(move || runtime().block_on(keeper.run(ends)));
    let stamps = Stamps::open(&world.options).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let rest = choices.len() as u16;
    let busy = Arc::new(AtomicBool::new(true));
    let load: Vec<_> =
        (0..2).map(|_| busy.clone()).map(|busy| thread::spawn(move || while busy.load(Relaxed) {})).collect();
    let mut expected = BTreeMap::<String, u64>::new();
    for path in &paths {
        let cgroup = world.options.cgroup.join(&path[1..]);
        fs::create_dir_all(&cgroup).unwrap();
        let began = Instant::now();
        enter(&cgroup);
        let (mut found, mut undecided) = (None, 0);
        for number in 0.. {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let choice = decided(&stamps, &client);
            let name = &choices[usize::from(choice) - 1].choice.name;
            *expected.entry(name.clone()).or_default() += 1;
            drop((client, listener.accept().unwrap()));
            if choice == rest {
                assert_eq!(found, None, "once it is found, it stays found");
                undecided += 1;
            } else {
                assert_eq!(service_name(path), name);
                found.get_or_insert(began.elapsed());
            }
            if found.is_some() && number >= CONNECTIONS {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{path} was not told of");
        }
        enter(home.cgroup());
        println!("{path}: {undecided} connections of no service, found after {:?}", found.unwrap());
    }
    busy.store(false, Relaxed);
    load.into_iter().for_each(|load| load.join().unwrap());
    // Every connection is in the book once, as what it was.
    let mut counted = BTreeMap::<String, u64>::new();
    let report = runtime().block_on(async {
        let (answer, answered) = oneshot::channel();
        handle.commands.send(Command::Report { answer }).await.unwrap();
        answered.await.unwrap().expect("flows")
    });
    for cell in report.cells {
        *counted.entry(cell.choice).or_default() += cell.counts.unwrap().flows;
    }
    assert_eq!(counted, expected);
    drop(handle);
    kept.join().unwrap();
    for path in &paths {
        let cgroup = world.options.cgroup.join(&path[1..]);
        remove_cgroup(&cgroup);
        if cgroup.parent() != Some(&world.options.cgroup) {
            remove_cgroup(cgroup.parent().unwrap());
        }
    }
}

#[test]
fn a_listener_that_is_handed_over_is_its_maker_s() {
    let Some(world) = World::new("handed") else { return };
    let home = Home::here();
    let [maker, user] = ["maker", "user"].map(|name| world.options.cgroup.join(name));
    fs::create_dir(&maker).unwrap();
    fs::create_dir(&user).unwrap();
    let (mut kernel, _) = Kernel::open(&world.options).unwrap();
    let services = |path: &str| Match {
        direction: Some(Direction::Passive),
        services: vec![path.parse().unwrap()],
        ..Match::default()
    };
    let rule = |name: &str, path| Rule::new(name.parse().unwrap(), services(path), Parameters::default());
    let body = LayerBody::Policy(vec![rule("user", "/user"), rule("maker", "/maker")]);
    let layer = Layer {
        name: "policies/p".parse().unwrap(),
        revision: 1,
        priority: 1,
        term: Term::Always,
        ends_s: None,
        rollout: None,
        body,
    };
    let snapshot = Snapshot { layers: vec![layer], zones: vec![] };
    let compiled = compile(&snapshot, &facts(), 1, kernel.next_install().unwrap()).unwrap();
    kernel.install(&compiled.tables).unwrap();

    // The process that accepts is in one cgroup, and has the listener from another.
    let listener = inside(&maker, &home, || TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap();
    enter(&user);
    let client = TcpStream::connect(address).unwrap();
    let (server, _) = listener.accept().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let explainer =
        Inspector { stamps: Stamps::open(&world.options).unwrap(), attributions: directory.path(), tables: "tables" };
    let text = explainer.process(std::process::id()).unwrap();
    enter(home.cgroup());
    let relative = |cgroup: &Path| {
        format!("/{}", cgroup.strip_prefix(sockpilot_node::kernel::cgroup_root().unwrap()).unwrap().display())
    };
    let note = format!(
        "  its cgroup is {}, where it or its listening socket was made; the process is in {}\n",
        relative(&maker),
        relative(&user)
    );
    assert!(text.contains(&format!("{address} (listening)\n{note}")), "{text}");
    let accepted = format!("{} -> {} (passive)\n{note}", address, client.local_addr().unwrap());
    assert!(text.contains(&accepted), "{text}");
    assert!(!text.contains(&format!("{} -> {address}", client.local_addr().unwrap())), "it is the process's: {text}");
    drop((client, server));
    let found = records(&mut kernel, 1);
    let name = &compiled.choices[usize::from(found[0].choices[0]) - 1].name;
    assert_eq!((name.as_str(), found[0].flow.direction), ("maker", PASSIVE));
    drop(listener);
    remove_cgroup(&maker);
    remove_cgroup(&user);
}
