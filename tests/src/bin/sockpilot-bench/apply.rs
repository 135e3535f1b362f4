//! From a received snapshot to its being in force, without the network: read, validate, try the
//! values, compile, fill, read back, flip.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use prost::Message;
use sockpilot_node::{
    kernel::{Kernel, Options, TrialSocket},
    snapshot::trials::Trials,
};
use sockpilot_policy::compile::compile_tried;
use sockpilot_proto::{convert::snapshot_from_proto, v1};
use sockpilot_tests::{cgroup::Cgroup, machine::Machine, wait::pass};

use crate::{Figures, note, quantile, variant::layers};

const CHANGES: usize = 20;
/// Between two changes, so that none waits for the grace period of the one before.
const PAUSE: Duration = Duration::from_millis(50);

pub fn measure(machine: &Machine, figures: &mut Figures) -> Result<()> {
    let mut typical = durations(machine, "apply", 1_000)?;
    note(figures, "apply_1000_rules_ms", quantile(&mut typical, 0.5));
    note(figures, "apply_1000_rules_ms_p90", quantile(&mut typical, 0.9));
    let mut great = durations(machine, "apply-prefixes", 10_000)?;
    note(figures, "apply_1000_rules_10000_prefixes_ms", quantile(&mut great, 0.5));
    Ok(())
}

/// Milliseconds of each change between two snapshots of 1,000 rules, of which every rule differs and has a value that no rule had
/// before.
fn durations(machine: &Machine, name: &str, prefixes: u32) -> Result<Vec<f64>> {
    let cgroup = Cgroup::new(machine, name)?;
    let options = Options { cgroup: cgroup.path().to_owned(), pin_dir: machine.pin_root().join(name) };
    let (mut kernel, _) = Kernel::open(&options).context("opening the kernel side")?;
    let facts = sockpilot_node::facts::read().context("reading this kernel's facts")?;
    let socket = TrialSocket::open(&options)
        .context("opening the trial socket")?
        .context("this kernel's sockets look unfamiliar")?;
    let mut trials = Trials::new(socket);
    let mut times = Vec::new();
    for number in 0..CHANGES + 2 {
        let received = changed(layers(1_000, prefixes), number).encode_to_vec();
        let began = Instant::now();
        let message = v1::Layers::decode(&received[..]).context("decoding the layers")?;
        let snapshot = snapshot_from_proto(&message).context("reading the layers")?;
        let readings = trials.readings(&snapshot, &facts);
        let compiled = compile_tried(&snapshot, &facts, &readings, number as u64 + 1, number as u64 + 1)
            .map_err(|refusals| anyhow::anyhow!("refused: {refusals:?}"))?;
        kernel.install(&compiled.tables).context("installing the tables")?;
        let time = began.elapsed();
        // The first two find both slots empty, and so fill them from nothing.
        if number >= 2 {
            times.push(time.as_secs_f64() * 1e3);
        }
        pass(PAUSE)?;
    }
    Ok(times)
}

/// The same rules, every other time in the opposite order, with values of their own.
fn changed(mut layers: v1::Layers, number: usize) -> v1::Layers {
    for layer in &mut layers.layers {
        if let Some(v1::layer::Body::Policy(policy)) = &mut layer.body {
            if number % 2 == 1 {
                policy.rules.reverse();
            }
            let sets = policy.rules.iter_mut().filter_map(|rule| rule.set.as_mut());
            for (index, set) in sets.enumerate() {
                set.cwnd_clamp_packets = u32::try_from(number * 1_000 + index + 1).ok();
            }
        }
    }
    layers
}
