//! What may be attached to a cgroup while connections churn in it, all doing the same job, but for the first two.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use aya::maps::{
    Array, MapData, RingBuf,
    lpm_trie::{Key, LpmTrie},
};
use sockpilot_node::kernel::{Kernel, MAPS, Options, pins_of};
use sockpilot_policy::{
    compile::compile,
    layout::{Counter, FlowRecord},
    unit::on_node,
};
use sockpilot_proto::{convert::snapshot_from_proto, v1};
use sockpilot_tests::{
    cgroup::Cgroup,
    cprogram::{Account, CProgram, pinned_account},
    documents::{policy_layer, rule},
    machine::Machine,
    wait::eventually,
};

/// What is set at both ends of every connection.
const INITIAL_CWND: u32 = 20;
const CWND_CLAMP: u32 = 200;
/// Prefixes in every table of prefixes.
const PREFIXES: u32 = 10_000;
/// Longer than the kernel tries to close a connection whose last packets were lost.
const CLOSING_MAX: Duration = Duration::from_secs(10);

/// One of them, in a cgroup of its own.
pub struct Variant {
    pub name: &'static str,
    pub cgroup: Cgroup,
    /// Records that should have come so far, and those that have.
    pub expected: u64,
    pub records: u64,
    held: Held,
}

enum Held {
    Nothing,
    Empty(CProgram),
    Fixed { program: CProgram, records: RingBuf<MapData> },
    Ours { kernel: Box<Kernel>, layout: PathBuf, in_c: Option<CProgram> },
    Unmatched { kernel: Box<Kernel>, layout: PathBuf },
}

impl Variant {
    pub fn none(machine: &Machine) -> Result<Self> {
        Self::new(machine, "none", |_| Ok(Held::Nothing))
    }

    pub fn empty(machine: &Machine) -> Result<Self> {
        Self::new(machine, "empty", |cgroup| {
            let mut program = CProgram::load(machine, "empty", None)?;
            program.attach(cgroup)?;
            Ok(Held::Empty(program))
        })
    }

    /// Fixed rules in C.
    pub fn fixed_c(machine: &Machine) -> Result<Self> {
        Self::new(machine, "fixed_c", |cgroup| {
            let mut program = CProgram::load(machine, "fixed", None)?;
            let mut nets: LpmTrie<MapData, [u8; 16], u32> = program.map("NETS")?;
            for number in 0..PREFIXES - 1 {
                let address = std::net::Ipv4Addr::from(0x0a00_0000 + number * 256).to_ipv6_mapped().octets();
                nets.insert(&Key::new(96 + 24, address), number % 15, 0).context("filling the prefixes")?;
            }
            let loopback = std::net::Ipv4Addr::new(127, 0, 0, 0).to_ipv6_mapped().octets();
            nets.insert(&Key::new(96 + 8, loopback), 15, 0).context("filling the prefixes")?;
            let mut policies: Array<MapData, [u32; 2]> = program.map("POLICIES")?;
            for number in 0..16 {
                policies.set(number, [INITIAL_CWND, CWND_CLAMP], 0).context("filling the policies")?;
            }
            let records = program.map("RECORDS")?;
            program.attach(cgroup)?;
            Ok(Held::Fixed { program, records })
        })
    }

    /// Our program with so many rules.
    pub fn ours(machine: &Machine, name: &'static str, rules: u32) -> Result<Self> {
        Self::new(machine, name, |cgroup| ours(machine, name, cgroup, rules))
    }

    /// Our algorithm in C, over the tables that our module has filled with so many rules.
    pub fn same_c(machine: &Machine, name: &'static str, rules: u32) -> Result<Self> {
        Self::new(machine, name, |cgroup| {
            let Held::Ours { kernel, layout, .. } = ours(machine, name, cgroup, rules)? else {
                return Ok(Held::Nothing);
            };
            std::fs::remove_file(layout.join("link")).context("detaching the program to be replaced")?;
            let mut program = CProgram::load(machine, "same", Some((&layout, &MAPS)))?;
            program.attach(cgroup)?;
            Ok(Held::Ours { kernel, layout, in_c: Some(program) })
        })
    }

    /// Our program with a rule that no connection matches, where this share of these is recorded all the same.
    pub fn unmatched(machine: &Machine, name: &'static str, share_bp: u32) -> Result<Self> {
        Self::new(machine, name, |cgroup| {
            // The loopback is the last prefix of many, and left out.
            let mut layers = layers(1, PREFIXES);
            if let Some(v1::layer::Body::Policy(policy)) = &mut layers.layers[0].body
                && let Some(condition) = policy.rules.first_mut().and_then(|rule| rule.r#match.as_mut())
            {
                condition.remote_prefixes.pop();
            }
            let (mut kernel, layout) = with_layers(machine, name, cgroup, &layers)?;
            kernel.record_unmatched(share_bp).context("saying what is recorded")?;
            Ok(Held::Unmatched { kernel: Box::new(kernel), layout })
        })
    }

    /// Our program with a policy that is rolled out to itself, so that every connection is of the canary or its control.
    pub fn rollout(machine: &Machine, name: &'static str, breaker_ppm: u32) -> Result<Self> {
        Self::new(machine, name, |cgroup| {
            let mut layers = layers(1, PREFIXES);
            layers.layers[0].rollout = Some(v1::LayerRollout {
                name: "rollouts/bench".to_owned(),
                salt: "bench".to_owned(),
                revision: 1,
                flow_share_bp: 5_000,
                breaker_ppm,
                unchanged: true,
                ..v1::LayerRollout::default()
            });
            let (kernel, layout) = with_layers(machine, name, cgroup, &layers)?;
            Ok(Held::Ours { kernel: Box::new(kernel), layout, in_c: None })
        })
    }

    fn new(machine: &Machine, name: &'static str, hold: impl FnOnce(&Cgroup) -> Result<Held>) -> Result<Self> {
        let cgroup = Cgroup::new(machine, name)?;
        let held = hold(&cgroup).with_context(|| format!("preparing {name}"))?;
        Ok(Self { name, cgroup, expected: 0, records: 0, held })
    }

    /// Takes all records out, and counts them.
    pub fn drain(&mut self) -> Result<()> {
        match &mut self.held {
            Held::Nothing | Held::Empty(_) => {}
            Held::Fixed { records, .. } => {
                while let Some(record) = records.next() {
                    ensure!(record.len() == size_of::<FlowRecord>(), "a record of {} bytes", record.len());
                    self.records += 1;
                }
            }
            Held::Ours { kernel, .. } | Held::Unmatched { kernel, .. } => loop {
                let mut shown = 0;
                let position = kernel.peek(usize::MAX, &mut |_| shown += 1);
                kernel.release(position);
                self.records += shown;
                if shown == 0 {
                    break;
                }
            },
        }
        Ok(())
    }

    /// Whether every connection left the record of both ends, or was counted as dropped. The last ones may still be closing.
    pub fn records_lost(&mut self) -> Result<u64> {
        if matches!(self.held, Held::Nothing | Held::Empty(_) | Held::Unmatched { .. }) {
            return Ok(0);
        }
        let mut dropped = 0;
        eventually(&format!("every end of {} is accounted for", self.name), CLOSING_MAX, || {
            self.drain()?;
            let mut counts = String::new();
            if let Held::Ours { kernel, .. } = &self.held {
                let counters = kernel.counters().context("reading the counters")?;
                dropped = counters[Counter::RecordsDropped as usize];
                ensure!(counters[Counter::SetRefused as usize] == 0, "the kernel refused what {} set", self.name);
                counts = format!("{counters:?}");
            }
            let (records, expected) = (self.records, self.expected);
            ensure!(records + dropped == expected, "{records} of {expected} came, {dropped} were dropped; {counts}");
            Ok(())
        })?;
        Ok(dropped)
    }

    /// Bad ends that its circuit breaker has counted.
    pub fn bad_ends(&self) -> Result<u64> {
        let Held::Ours { kernel, .. } = &self.held else { return Ok(0) };
        let counted = kernel.breakers().context("reading the circuit breakers")?;
        Ok(counted.iter().map(|counted| counted.canary_bad_ends + counted.control_bad_ends).sum())
    }

    /// The kernel's account of the program.
    pub fn account(&self) -> Result<Account> {
        match &self.held {
            Held::Nothing => Ok(Account::default()),
            Held::Empty(program) | Held::Fixed { program, .. } => program.account(),
            Held::Ours { in_c: Some(program), .. } => program.account(),
            Held::Ours { layout, .. } | Held::Unmatched { layout, .. } => pinned_account(&layout.join("program")),
        }
    }
}

fn ours(machine: &Machine, name: &str, cgroup: &Cgroup, rules: u32) -> Result<Held> {
    let (kernel, layout) = with_layers(machine, name, cgroup, &layers(rules, PREFIXES))?;
    Ok(Held::Ours { kernel: Box::new(kernel), layout, in_c: None })
}

/// Our program with these layers, and where it is pinned.
fn with_layers(machine: &Machine, name: &str, cgroup: &Cgroup, layers: &v1::Layers) -> Result<(Kernel, PathBuf)> {
    let pin_dir = machine.pin_root().join(name);
    let options = Options { cgroup: cgroup.path().to_owned(), pin_dir };
    let (mut kernel, _) = Kernel::open(&options).context("opening the kernel side")?;
    let snapshot = on_node(&snapshot_from_proto(layers).context("reading the layers")?, name);
    let facts = sockpilot_node::facts::read().context("reading this kernel's facts")?;
    let compiled = compile(&snapshot, &facts, 1, 1).map_err(|refusals| anyhow::anyhow!("refused: {refusals:?}"))?;
    kernel.install(&compiled.tables).context("installing the tables")?;
    let pins = pins_of(&options).context("finding the pins")?;
    Ok((kernel, pins))
}

/// One layer of rules that share so many prefixes evenly. The loopback is the last prefix of the last rule; all others are
/// about other networks.
pub fn layers(rules: u32, prefixes: u32) -> v1::Layers {
    let set = v1::Parameters {
        initial_cwnd_packets: Some(INITIAL_CWND),
        cwnd_clamp_packets: Some(CWND_CLAMP),
        ..v1::Parameters::default()
    };
    let prefix = |number: u32| {
        if number + 1 == prefixes {
            return "127.0.0.0/8".to_owned();
        }
        format!("{}/24", std::net::Ipv4Addr::from(0x0a00_0000 + number * 256))
    };
    let rule = |number: u32| {
        let (first, end) = (prefixes * number / rules, prefixes * (number + 1) / rules);
        let remote_prefixes = (first..end).map(prefix).collect();
        rule(&format!("r{number}"), v1::Match { remote_prefixes, ..v1::Match::default() }, set.clone())
    };
    v1::Layers { layers: vec![policy_layer("bench", 1, 1, (0..rules).map(rule).collect())], zones: vec![] }
}
