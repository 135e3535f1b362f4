//! What is kept on sockets outlives the side that has put it there: what was there before is restored once, and to what it was.

mod common;

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd},
};

use common::{Home, World, enter, facts, options::read};
use socket2::{Domain, Socket, Type};
use sockpilot_node::kernel::{Found, Kernel, Options, Stamps, Walker, pins_of};
use sockpilot_policy::{
    compile::compile,
    layout::LAYOUT_VERSION,
    model::{ApplyTo, Layer, LayerBody, Match, Parameters, Rule, Snapshot, Term, Value},
    parameter::slot_by_name,
};

const KEEPALIVE_IDLE: (i32, i32) = (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE);
const IDLE_S: u32 = 123;
/// The kernel's default.
const UNTOUCHED_S: u32 = 7_200;

/// A kernel side that another one is to take over from.
struct Rig<'w> {
    options: &'w Options,
    kernel: Kernel,
    generation: u64,
}

impl<'w> Rig<'w> {
    fn new(options: &'w Options) -> Self {
        Self { options, kernel: Kernel::open(options).unwrap().0, generation: 0 }
    }

    /// Puts rules in force, and has them apply to open connections.
    fn apply(&mut self, rules: Vec<Rule>) {
        self.generation += 1;
        let (name, body) = ("policies/p".parse().unwrap(), LayerBody::Policy(rules));
        let layer = Layer { name, revision: 1, priority: 1, term: Term::Always, ends_s: None, rollout: None, body };
        let snapshot = Snapshot { layers: vec![layer], zones: vec![] };
        let install = self.kernel.next_install().unwrap();
        self.kernel.install(&compile(&snapshot, &facts(), self.generation, install).unwrap().tables).unwrap();
        self.walk();
    }

    fn walk(&self) {
        Walker::adjuster(self.options).unwrap().expect("this kernel has all fields").walk_all().unwrap();
    }

    /// A side beside this one, which calls the other one of another layout; its tables are not filled yet.
    fn beside(&mut self) {
        let pins = pins_of(self.options).unwrap();
        let name = pins.file_name().unwrap().to_str().unwrap();
        let other = name.replace(&format!("layout-{LAYOUT_VERSION}-"), "layout-99-");
        fs::rename(&pins, self.options.pin_dir.join(other)).unwrap();
        let (kernel, found) = Kernel::open(self.options).unwrap();
        assert_eq!(found, Found::Beside);
        self.kernel = kernel;
    }
}

fn rule(apply_to: ApplyTo) -> Rule {
    let set = Parameters::default().with(slot_by_name("keepalive_idle_s").unwrap(), Value::Number(IDLE_S));
    Rule { apply_to, ..Rule::new("all".parse().unwrap(), Match::default(), set) }
}

fn idle_s(socket: &impl AsFd) -> u32 {
    let view: TcpStream = socket.as_fd().try_clone_to_owned().unwrap().into();
    read(&view, KEEPALIVE_IDLE.0, KEEPALIVE_IDLE.1)
}

/// `connect` with `AF_UNSPEC`.
fn disconnect(socket: &Socket) {
    let nowhere = libc::sockaddr { sa_family: libc::AF_UNSPEC as u16, sa_data: [0; 14] };
    let length = size_of::<libc::sockaddr>() as u32;
    // SAFETY: an address of the length said.
    let result = unsafe { libc::connect(socket.as_raw_fd(), &raw const nowhere, length) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_socket_that_connects_again_begins_anew_under_the_next_side() {
    let Some(world) = World::new("reused") else { return };
    let _home = Home::here();
    let mut rig = Rig::new(&world.options);
    rig.apply(vec![rule(ApplyTo::New)]);
    enter(&world.options.cgroup);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.connect(&to.into()).unwrap();
    assert_eq!(idle_s(&socket), IDLE_S);
    for _ in 0..2 {
        // Up, and down again.
        rig.beside();
        rig.apply(vec![rule(ApplyTo::New)]);
        let earlier = Stamps::open(&world.options).unwrap().served_earlier(socket.as_fd()).unwrap();
        assert_eq!(earlier, Some(99), "it is of the side before");
        disconnect(&socket);
        socket.connect(&to.into()).unwrap();
        let stamps = Stamps::open(&world.options).unwrap();
        assert_eq!(stamps.of(socket.as_fd()).unwrap().map(|stamp| stamp.install), Some(rig.generation));
        assert_eq!((idle_s(&socket), stamps.served_earlier(socket.as_fd()).unwrap()), (IDLE_S, None));
    }
    disconnect(&socket);
    socket.listen(1).unwrap();
    assert_eq!(idle_s(&socket), UNTOUCHED_S, "what was there before the first connection");
}

#[test]
fn rules_for_open_connections_go_on_and_end_as_they_would_have() {
    let Some(world) = World::new("open") else { return };
    let _home = Home::here();
    let mut rig = Rig::new(&world.options);
    enter(&world.options.cgroup);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // One is open before the rule, the other begins under it.
    let before = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    rig.apply(vec![rule(ApplyTo::NewAndEstablished)]);
    let under = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let seen = || [idle_s(&before), idle_s(&under)];
    assert_eq!(seen(), [IDLE_S; 2]);
    rig.beside();
    // A side that is not in charge has nothing in force; that is no reason to restore anything.
    rig.walk();
    assert_eq!(seen(), [IDLE_S; 2]);
    let third = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert_eq!(idle_s(&third), IDLE_S, "it does not touch what begins under the side in charge");
    rig.apply(vec![rule(ApplyTo::NewAndEstablished)]);
    assert_eq!((seen(), idle_s(&third)), ([IDLE_S; 2], IDLE_S));
    rig.apply(vec![]);
    assert_eq!((seen(), idle_s(&third)), ([UNTOUCHED_S; 2], UNTOUCHED_S), "as it was before the first side");
}
