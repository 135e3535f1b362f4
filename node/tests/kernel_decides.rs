//! The kernel program decides as the rules say: random layers and flows through the real program, against
//! `policy::decide`, which knows no tables.

mod common;

use std::{collections::BTreeMap, net::IpAddr};

use common::{World, facts};
use sockpilot_node::kernel::{Found, Kernel, Probe};
use sockpilot_policy::{
    address::{Family, Prefix, address_bytes},
    compile::{Compiled, compile},
    decide::{Flow, decide},
    layout::{ACTIVE, FlowKey, IPV4, IPV6, PASSIVE},
    model::{
        ApplyTo, Arm, Comparison, Direction, Group, Id, Layer, LayerBody, Match, Parameters, Part, Rollout, Rule,
        Snapshot, Term, Unit, Value, Zone, ZoneRelation, sort_layers,
    },
    parameter::{Encoding, Kind, LIVE_MASK, PARAMETERS},
    unit::on_node,
    validate,
};

const RELATIONS: [ZoneRelation; 4] =
    [ZoneRelation::SameZone, ZoneRelation::OtherZone, ZoneRelation::SameRegion, ZoneRelation::OtherRegion];

/// The splitmix64 generator: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize].clone()
    }

    fn some<T: Clone>(&mut self, percent: u64, items: &[T]) -> Option<T> {
        self.chance(percent).then(|| self.pick(items))
    }

    fn list<T: Clone>(&mut self, percent: u64, items: &[T]) -> Vec<T> {
        if !self.chance(percent) {
            return vec![];
        }
        (0..1 + self.below(3)).map(|_| self.pick(items)).collect()
    }

    /// From few networks, so that prefixes contain each other and flows fall into them.
    fn address(&mut self, family: u8) -> IpAddr {
        let (a, b, c) = (self.below(3), self.below(4) as u8, self.below(256) as u8);
        if family == IPV4 {
            IpAddr::from([10 + a as u8, b, b ^ 1, c])
        } else {
            IpAddr::from([0x2001, 0xdb8, a as u16, u16::from(b) << 8, 0, 0, u16::from(b), u16::from(c)])
        }
    }

    fn prefix(&mut self) -> String {
        if self.chance(3) {
            return self.pick(&["0.0.0.0/0", "::/0", "::/64"]).to_owned();
        }
        let (family, bits) = if self.chance(50) { (IPV4, 32) } else { (IPV6, 128) };
        let length = if self.chance(20) { bits } else { self.below(u64::from(bits) + 1) as u8 };
        let address = self.address(family);
        ipnet_text(address, length)
    }

    fn ports(&mut self) -> String {
        let first = self.pick(&[1_u64, 80, 443, 8000, 40_000]);
        if self.chance(50) { first.to_string() } else { format!("{first}-{}", first + self.below(1000)) }
    }

    fn condition(&mut self) -> Match {
        let prefixes: Vec<_> = (0..4).map(|_| self.prefix().parse().unwrap()).collect();
        let ports: Vec<_> = (0..4).map(|_| self.ports().parse().unwrap()).collect();
        let services: Vec<_> = ["/web", "/web/api", "/db"].iter().map(|path| path.parse().unwrap()).collect();
        let zone_names: Vec<Id> = (0..5).map(|at| format!("z{at}").parse().unwrap()).collect();
        Match {
            direction: self.some(30, &[Direction::Active, Direction::Passive]),
            family: self.some(30, &[Family::Ipv4, Family::Ipv6]),
            local_prefixes: self.list(30, &prefixes),
            remote_prefixes: self.list(50, &prefixes),
            same_prefix: self.some(20, &[1, 8, 16, 24, 31, 32, 33, 44, 64, 127, 128]),
            not_same_prefix: self.some(20, &[1, 8, 16, 24, 31, 32, 33, 52, 64, 127, 128]),
            local_ports: self.list(20, &ports),
            remote_ports: self.list(30, &ports),
            services: self.list(20, &services),
            local_zones: self.list(15, &zone_names),
            remote_zones: self.list(15, &zone_names),
            zone_relation: self.some(15, &RELATIONS),
            min_handshake_rtt_us: self.some(10, &[1, 1_000, 5_000, 50_000]),
            max_handshake_rtt_us: self.some(10, &[2, 1_000, 80_000, 600_000]),
        }
    }

    /// The last one is empty, and rules may name one that is not there.
    fn zones(&mut self) -> Vec<Zone> {
        let mut taken = Vec::new();
        (0..4)
            .map(|at| {
                let mut prefixes: Vec<Prefix> = (0..at * 2).map(|_| self.prefix().parse().unwrap()).collect();
                prefixes.retain(|prefix| !taken.contains(prefix));
                prefixes.sort();
                prefixes.dedup();
                taken.extend(prefixes.iter().copied());
                let region = format!("r{}", at / 2).parse().unwrap();
                Zone { name: format!("z{at}").parse().unwrap(), region, prefixes }
            })
            .collect()
    }

    fn parameters(&mut self) -> Parameters {
        let mut set = Parameters::default();
        for (slot, parameter) in PARAMETERS.iter().enumerate().filter(|(slot, _)| *slot < 64) {
            if self.chance(25) {
                let value = match parameter.kind {
                    // No node refuses it, whatever its timer.
                    Kind::Number { max, .. } if parameter.encoding == Encoding::TwoTicks => Value::Number(max),
                    Kind::Number { min, max, .. } => Value::Number(min + self.below(u64::from(max - min) + 1) as u32),
                    Kind::On => Value::Number(1),
                    Kind::Switch => Value::Number(self.below(2) as u32),
                    Kind::Name => Value::Name(self.pick(&["cubic", "reno", "bbr"]).to_owned()),
                };
                set = set.with(slot, value);
            }
        }
        set
    }

    fn layer(&mut self, index: usize, rules: usize) -> Layer {
        let experiment = self.chance(40);
        let (name, body) = if experiment {
            (format!("experiments/e{index}"), self.experiment(index))
        } else {
            let rules = (0..rules).map(|at| Rule {
                apply_to: self.pick(&[ApplyTo::New, ApplyTo::NewAndEstablished]),
                ..Rule::new(format!("r{at}").parse().unwrap(), self.condition(), self.parameters())
            });
            (format!("policies/p{index}"), LayerBody::Policy(rules.collect()))
        };
        let priority = self.below(5) as u32;
        Layer {
            name: name.parse().unwrap(),
            revision: 1 + self.below(9),
            priority,
            term: Term::Always,
            ends_s: None,
            rollout: None,
            body,
        }
    }

    fn experiment(&mut self, index: usize) -> LayerBody {
        let arms = 2 + self.below(7) as u32;
        // In one half of all experiments there are buckets of nobody before, between and after the arms.
        let whole = self.chance(50);
        let mut free = 0;
        let arms = (0..arms)
            .map(|at| {
                let room = (10_000 - free) / (arms - at);
                let first_bucket = if whole { free } else { free + self.below(u64::from(room)) as u32 };
                let weight_bp = match whole && at + 1 == arms {
                    true => 10_000 - free,
                    false => 1 + self.below(u64::from(free + room - first_bucket)) as u32,
                };
                free = first_bucket + weight_bp;
                Arm {
                    name: format!("a{at}").parse().unwrap(),
                    first_bucket,
                    weight_bp,
                    set: self.parameters(),
                    withholds: self.chance(50),
                }
            })
            .collect();
        let unit = match self.below(4) {
            0 => Unit::PeerPrefix { ipv4_bits: 8 * self.below(4) as u8 + 8, ipv6_bits: self.pick(&[32, 48, 64, 128]) },
            1 => Unit::Node,
            _ => Unit::Flow,
        };
        let withholds = self.chance(40).then(|| format!("policies/p{}", self.below(8)).parse().unwrap());
        let salt = format!("salt {index}");
        LayerBody::Experiment(Box::new(Comparison {
            unit,
            withholds,
            ..Comparison::of_flows(self.condition(), &salt, arms)
        }))
    }

    /// Puts a policy into a rollout, in one of the ways in which it can be: not reached, A/A, a canary alone or beside what stands by.
    fn roll_out(&mut self, layer: Layer) -> Vec<Layer> {
        let LayerBody::Policy(rules) = &layer.body else { return vec![layer] };
        let share = [1, 300, 2_500, 4_999, 5_000, 10_000];
        let kind = self.below(6);
        let share_bp = if kind == 0 { 0 } else { self.pick(&share) };
        let rollout = Rollout {
            name: layer.name.id.clone(),
            salt: format!("rollout {}", self.below(1_000)),
            revision: layer.revision,
            share_bp,
            measures: vec![],
            horizon_s: 60,
            breaker_ppm: self.pick(&[0, 1_000]),
            unchanged: kind == 1,
            tripped: kind > 1 && self.chance(25),
            part: Part::default(),
        };
        let mut standby_rules: Vec<_> =
            (0..1 + self.below(rules.len() as u64)).map(|at| rules[at as usize].clone()).collect();
        for rule in &mut standby_rules {
            rule.set = self.parameters();
            if self.chance(30) {
                rule.matches = self.condition();
            }
        }
        let (lease_ms, rollout) = (600_000, Some(rollout));
        let standby = Layer {
            revision: layer.revision + 1,
            priority: self.below(5) as u32,
            term: Term::AfterSilence { lease_ms },
            rollout: rollout.clone(),
            body: LayerBody::Policy(standby_rules),
            ..layer.clone()
        };
        let term = Term::WhileInContact { lease_ms };
        match kind {
            0 | 1 => vec![Layer { rollout, ..layer }],
            2 => vec![Layer { rollout, term, ..layer }],
            _ => vec![Layer { rollout, term, ..layer }, standby],
        }
    }

    fn flow(&mut self) -> FlowKey {
        let family = if self.chance(50) { IPV4 } else { IPV6 };
        FlowKey {
            local: address_bytes(self.address(family)),
            remote: address_bytes(self.address(family)),
            local_port: self.pick(&[1, 80, 443, 8000, 8500, 40_000, 65_535]),
            remote_port: self.pick(&[1, 80, 443, 8001, 8999, 40_100, 65_535]),
            family,
            direction: if self.chance(50) { ACTIVE } else { PASSIVE },
            reserved: 0,
        }
    }
}

fn ipnet_text(address: IpAddr, length: u8) -> String {
    let bits = u128::from_be_bytes(address_bytes(address));
    let (bits, shift) = match address {
        IpAddr::V4(_) => (bits & 0xffff_ffff, 32 - u32::from(length)),
        IpAddr::V6(_) => (bits, 128 - u32::from(length)),
    };
    let cut = if shift >= 128 { 0 } else { bits >> shift << shift };
    let address: IpAddr = match address {
        IpAddr::V4(_) => IpAddr::from((cut as u32).to_be_bytes()),
        IpAddr::V6(_) => IpAddr::from(cut.to_be_bytes()),
    };
    format!("{address}/{length}")
}

/// Checks one flow. Its service is where the socket's cgroup is attached to: one of the named services, or none.
fn check(snapshot: &Snapshot, compiled: &Compiled, probe: &Probe, flow: &Flow<'_>) -> usize {
    check_after(0, snapshot, compiled, probe, flow)
}

/// The same with the last contact with a server so long ago.
fn check_after(silence_ms: u64, snapshot: &Snapshot, compiled: &Compiled, probe: &Probe, flow: &Flow<'_>) -> usize {
    let expected = decide(snapshot, flow, silence_ms);
    let tables = &compiled.tables;
    let mask = flow.service.map_or(tables.no_service, |path| {
        let around = tables.services.iter().filter(|(service, _)| service.holds_for(path));
        around.max_by_key(|(service, _)| service.as_str().len()).map_or(tables.no_service, |(_, mask)| *mask)
    });
    let found = probe.decide(&flow.key, mask, flow.handshake_rtt_us).unwrap();
    let choices: Vec<_> = found.choices[..found.choice_count as usize]
        .iter()
        .map(|&id| {
            let choice = &compiled.choices[usize::from(id) - 1];
            (choice.layer, choice.name.as_str(), choice.group, choice.measured_only)
        })
        .collect();
    let wanted = expected.choices.iter();
    let wanted: Vec<_> =
        wanted.map(|choice| (choice.layer, choice.name.as_str(), choice.group, choice.measured_only)).collect();
    assert_eq!(choices, wanted, "choices for {flow:?}");
    assert_eq!(found.live, expected.live & LIVE_MASK, "what open connections get too, for {flow:?}");
    for (slot, parameter) in PARAMETERS.iter().enumerate() {
        let set = found.parameters & 1 << slot != 0;
        assert_eq!(set, expected.values[slot].is_some(), "{} for {flow:?}", parameter.name);
        let Some((value, position)) = expected.values[slot] else { continue };
        if !matches!(parameter.kind, Kind::Name) {
            // What the winner's entry holds is checked to be the encoding of its value.
            let winner = found.choices[position];
            assert_eq!(found.values[slot], tables.choices[usize::from(winner)].values[slot], "{}", parameter.name);
            let encoded = sockpilot_policy::facts::encode(parameter, value, &facts()).unwrap();
            assert_eq!(encoded, sockpilot_policy::readings::Encoded::Number(found.values[slot]), "{}", parameter.name);
        }
    }
    choices.len()
}

#[test]
fn as_the_rules_say() {
    let Some(world) = World::new("decides") else { return };
    let (mut kernel, found) = Kernel::open(&world.options).unwrap();
    assert_eq!(found, Found::Made);
    let probe = Probe::open(&world.options).unwrap();
    let (mut pairs, mut choices) = (0, 0);
    let sizes = [(1, 1), (1, 10), (3, 5), (10, 20), (64, 15), (64, 1), (5, 200), (1, 1000), (2, 500), (30, 33)];
    for (round, (layer_count, rule_count)) in sizes.into_iter().cycle().take(30).enumerate() {
        let mut random = Random(round as u64);
        let mut layers: Vec<_> = (0..layer_count).map(|index| random.layer(index, rule_count)).collect();
        sort_layers(&mut layers);
        let install = kernel.next_install().unwrap();
        let snapshot = on_node(&Snapshot { layers, zones: random.zones() }, "node-1");
        let compiled = compile(&snapshot, &facts(), round as u64 + 1, install).unwrap();
        kernel.install(&compiled.tables).unwrap();
        assert_eq!(kernel.in_force().unwrap(), Some(compiled.tables.head));
        for _ in 0..1_000 {
            let flow = Flow {
                key: random.flow(),
                service: random.some(40, &["/web", "/web/api", "/db", "/web/api/v2"]),
                handshake_rtt_us: random.some(60, &[1, 2, 999, 1_000, 4_999, 5_000, 50_000, 79_999, 80_000, u32::MAX]),
                begin_s: None,
            };
            choices += check(&snapshot, &compiled, &probe, &flow);
            pairs += 1;
        }
    }
    println!("{pairs} pairs of layers and flow, {choices} choices");
    assert!(choices > pairs, "the flows must hit something");
}

/// Shares of flows, what stands by, canaries that the breaker has ended: with and without a server.
#[test]
fn as_rollouts_say() {
    let Some(world) = World::new("rollouts") else { return };
    let (mut kernel, _) = Kernel::open(&world.options).unwrap();
    let probe = Probe::open(&world.options).unwrap();
    let mut groups = BTreeMap::new();
    for (round, (layer_count, rule_count)) in
        [(1, 5), (3, 12), (10, 8), (32, 5)].into_iter().cycle().take(16).enumerate()
    {
        let silence_ms = if round < 8 { u64::MAX } else { 0 };
        if round == 8 {
            kernel.note_contact(None).unwrap();
        }
        let mut random = Random(100 + round as u64);
        let layers: Vec<_> = (0..layer_count).map(|index| random.layer(index, rule_count)).collect();
        let mut layers: Vec<_> = layers.into_iter().flat_map(|layer| random.roll_out(layer)).collect();
        sort_layers(&mut layers);
        let ended = layers.iter().filter_map(|layer| layer.rollout.as_ref()).filter(|rollout| rollout.tripped);
        kernel.remember_trips(
            ended.map(|rollout| (rollout.resource(), rollout.revision)).collect::<Vec<_>>().into_iter(),
        );
        let snapshot = on_node(&Snapshot { layers, zones: random.zones() }, "node-1");
        let compiled = compile(&snapshot, &facts(), round as u64 + 1, kernel.next_install().unwrap()).unwrap();
        kernel.install(&compiled.tables).unwrap();
        for _ in 0..1_000 {
            let flow = Flow {
                key: random.flow(),
                service: random.some(40, &["/web", "/web/api", "/db"]),
                handshake_rtt_us: random.some(60, &[1, 999, 5_000, 80_000]),
                begin_s: None,
            };
            check_after(silence_ms, &snapshot, &compiled, &probe, &flow);
            for choice in decide(&snapshot, &flow, silence_ms).choices {
                *groups.entry((silence_ms, choice.group)).or_insert(0) += 1;
            }
        }
    }
    println!("{groups:?}");
    for group in [Group::Canary, Group::Control, Group::Rest, Group::All, Group::Before] {
        assert!(groups.get(&(0, Some(group))).is_some_and(|flows| *flows > 100), "{group}");
    }
}

#[test]
fn adopts_what_it_finds() {
    let Some(world) = World::new("adopts") else { return };
    let mut random = Random(7);
    let snapshot = Snapshot { layers: vec![random.layer(0, 20)], zones: random.zones() };
    let compiled = compile(&snapshot, &facts(), 42, 1).unwrap();
    let (mut kernel, _) = Kernel::open(&world.options).unwrap();
    assert_eq!(kernel.in_force().unwrap(), None);
    kernel.install(&compiled.tables).unwrap();
    drop(kernel);

    let (mut kernel, found) = Kernel::open(&world.options).unwrap();
    assert_eq!(found, Found::Adopted);
    assert_eq!(kernel.in_force().unwrap().map(|head| head.generation), Some(42));
    assert_eq!(kernel.next_install().unwrap(), 2);
    // A slot of which nothing is known is filled rightly too.
    for install in 2..6 {
        let mut layers = vec![random.layer(0, 20), random.layer(1, 20)];
        sort_layers(&mut layers);
        let snapshot = on_node(&Snapshot { layers, zones: random.zones() }, "node-1");
        let compiled = compile(&snapshot, &facts(), 42 + install, install).unwrap();
        kernel.install(&compiled.tables).unwrap();
        let probe = Probe::open(&world.options).unwrap();
        for _ in 0..200 {
            let flow = Flow { key: random.flow(), service: None, handshake_rtt_us: None, begin_s: None };
            check(&snapshot, &compiled, &probe, &flow);
        }
    }
    drop(kernel);
    Kernel::detach(&world.options).unwrap();
    assert!(!world.options.pin_dir.exists());
}

/// What goes by the fleet's time: slots, and layers that end by themselves. Nobody is there to end them but the kernel program.
#[test]
fn time_is_the_fleets() {
    let Some(world) = World::new("time") else { return };
    let (mut kernel, _) = Kernel::open(&world.options).unwrap();
    let now_s = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let arm = |name: &str, first_bucket| Arm {
        name: name.parse().unwrap(),
        first_bucket,
        weight_bp: 5_000,
        set: sockpilot_policy::model::Parameters::default(),
        withholds: false,
    };
    let comparison = Comparison {
        unit: Unit::TimeSlot { slot_s: 1, washout_s: 1 },
        ..Comparison::of_flows(Match::default(), "slots", vec![arm("a", 0), arm("b", 5_000)])
    };
    let began_s = now_s();
    let layer = Layer {
        name: "experiments/slots".parse().unwrap(),
        revision: 1,
        priority: 1,
        term: Term::Always,
        ends_s: Some(began_s + 7),
        rollout: None,
        body: LayerBody::Experiment(Box::new(comparison)),
    };
    let snapshot = Snapshot { layers: vec![layer], zones: vec![] };
    let compiled = compile(&snapshot, &facts(), 1, kernel.next_install().unwrap()).unwrap();
    kernel.install(&compiled.tables).unwrap();
    let probe = Probe::open(&world.options).unwrap();
    let key = Random(1).flow();
    let none = Flow { key, service: None, handshake_rtt_us: None, begin_s: None };
    assert_eq!(check(&snapshot, &compiled, &probe, &none), 0, "as long as nobody has said what time it is");

    let monotonic = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let ahead = wall.as_nanos() as i64 - (monotonic.tv_sec() * 1_000_000_000 + monotonic.tv_nsec());
    kernel.note_contact(Some(ahead)).unwrap();
    // No more word of a daemon or a server.
    drop(kernel);
    let mut arms = std::collections::BTreeSet::new();
    while now_s() < began_s + 9 {
        let begin_s = now_s();
        let found = probe.decide(&key, compiled.tables.no_service, None).unwrap();
        // What fell between two seconds is neither here nor there.
        if now_s() == begin_s {
            let expected = decide(&snapshot, &Flow { begin_s: Some(begin_s), ..none }, 0);
            let named =
                (found.choice_count > 0).then(|| compiled.choices[usize::from(found.choices[0]) - 1].name.to_string());
            assert_eq!(named, expected.choices.first().map(|choice| choice.name.to_string()), "{}", begin_s - began_s);
            arms.insert(named);
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(arms.len(), 3, "both arms, and then none: {arms:?}");
}

/// The random layers must not be ones that the API refuses.
#[test]
fn generator_makes_sound_parameters() {
    let mut random = Random(1);
    for _ in 0..100 {
        for (slot, value) in random.parameters().iter() {
            validate::in_range(PARAMETERS[slot].kind, value).unwrap();
        }
    }
}
