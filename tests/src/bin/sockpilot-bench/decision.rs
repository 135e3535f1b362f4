//! What a decision costs with 1,000 rules, against 10, with as many layers matching. The kernel program itself is asked.

use anyhow::{Context, Result};
use sockpilot_node::kernel::{Kernel, Options, Probe};
use sockpilot_policy::{compile::compile, facts::KernelFacts, layout::FlowKey};
use sockpilot_proto::{convert::snapshot_from_proto, v1};
use sockpilot_tests::{
    cgroup::Cgroup,
    documents::{policy_layer, rule},
    machine::Machine,
};

use crate::{Figures, note, quantile};

const LAYERS: u32 = 5;
/// Both rule sets take turns so often.
const ROUNDS: usize = 60;
/// Decisions in one turn.
const REPEAT: u32 = 200_000;

pub fn measure(machine: &Machine, figures: &mut Figures) -> Result<()> {
    let (few, many) = (Side::new(machine, "few", 10)?, Side::new(machine, "many", 1_000)?);
    let (mut few_ns, mut many_ns, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (one, other) = (few.duration()?, many.duration()?);
        few_ns.push(one);
        many_ns.push(other);
        ratios.push(other / one);
    }
    note(figures, "decision_10_rules_ns", quantile(&mut few_ns, 0.5));
    note(figures, "decision_1000_rules_ns", quantile(&mut many_ns, 0.5));
    note(figures, "decision_1000_rules_vs_10", quantile(&mut ratios, 0.5));
    Ok(())
}

struct Side {
    probe: Probe,
    /// The mask of a connection in no service.
    no_service: u16,
    _kernel: Kernel,
    _cgroup: Cgroup,
}

impl Side {
    fn new(machine: &Machine, name: &str, rules: u32) -> Result<Self> {
        let cgroup = Cgroup::new(machine, name)?;
        let options = Options { cgroup: cgroup.path().to_owned(), pin_dir: machine.pin_root().join(name) };
        let (mut kernel, _) = Kernel::open(&options).context("opening the kernel side")?;
        let message = v1::Layers { layers: layers(rules / LAYERS), zones: vec![] };
        let snapshot = snapshot_from_proto(&message).context("reading the layers")?;
        let facts = KernelFacts {
            release: String::new(),
            hz: 250,
            congestion_controls: vec![],
            wmem_max: 4 << 20,
            rmem_max: 4 << 20,
            sysctls: std::collections::BTreeMap::new(),
        };
        let compiled = compile(&snapshot, &facts, 1, 1).map_err(|refusals| anyhow::anyhow!("refused: {refusals:?}"))?;
        kernel.install(&compiled.tables).context("installing the tables")?;
        let probe = Probe::open(&options).context("opening the probe")?;
        Ok(Self { probe, no_service: compiled.tables.no_service, _kernel: kernel, _cgroup: cgroup })
    }

    fn duration(&self) -> Result<f64> {
        // The last rule of every layer matches.
        let flow = FlowKey {
            local: address([10, 0, 0, 1]),
            remote: address([10, 200, 7, 7]),
            local_port: 40_000,
            remote_port: 443,
            ..FlowKey::default()
        };
        Ok(f64::from(self.probe.duration_ns(&flow, self.no_service, REPEAT).context("asking the probe")?))
    }
}

fn address([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    std::net::Ipv4Addr::new(a, b, c, d).to_ipv6_mapped().octets()
}

/// Layers of equal size with a prefix and a port in every rule; of each only the last rule matches the flow.
fn layers(rules: u32) -> Vec<v1::Layer> {
    let set = |layer| match layer {
        0 => v1::Parameters { syn_rto_ms: Some(200), ..v1::Parameters::default() },
        1 => v1::Parameters { initial_cwnd_packets: Some(20), ..v1::Parameters::default() },
        2 => v1::Parameters { cwnd_clamp_packets: Some(200), ..v1::Parameters::default() },
        3 => v1::Parameters { send_buffer_bytes: Some(100_000), ..v1::Parameters::default() },
        _ => v1::Parameters { receive_buffer_bytes: Some(100_000), ..v1::Parameters::default() },
    };
    let layer = |layer: u32| {
        let other = |number: u32| v1::Match {
            remote_prefixes: vec![format!("10.{}.{}.0/24", 20 + layer, number)],
            remote_ports: vec!["443".to_owned()],
            ..v1::Match::default()
        };
        let last = v1::Match { remote_prefixes: vec!["10.200.0.0/16".to_owned()], ..other(0) };
        let others = (0..rules - 1).map(|number| rule(&format!("r{number}"), other(number), set(layer)));
        policy_layer(&format!("p{layer}"), 1, 100 - layer, others.chain([rule("last", last, set(layer))]).collect())
    };
    (0..LAYERS).map(layer).collect()
}
