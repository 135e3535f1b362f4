//! What the kernel program costs a connection end, against no program, an empty one, and two in C: one with fixed rules, one with our
//! algorithm over our tables.
//!
//! All take turns in random order within each round, on the same process and thread; differences are taken within a round,
//! so that what makes a machine slower for a while makes no difference. Then the kernel's own account, which is
//! free of noise, but has a meter that costs something too: the empty program's account is that of the meter.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use serde_json::json;
use sockpilot_tests::{machine::Machine, netns::Netns, random::Random, wait::check_interrupted};

use crate::{Figures, churn::Churner, note, quantile, variant::Variant};

/// Rounds, in each of which every variant has one turn.
const ROUNDS: usize = 60;
const TURN: Duration = Duration::from_millis(150);
/// Rounds under the kernel's account.
const ACCOUNT_ROUNDS: usize = 10;
const ENDS: f64 = 2.0;
/// What a daemon records by default of the connections that no layer matches.
const UNMATCHED_BP: u32 = 100;

type Series = BTreeMap<&'static str, Vec<f64>>;

pub fn measure(machine: &Machine, figures: &mut Figures) -> Result<()> {
    let mut variants = vec![
        Variant::none(machine)?,
        Variant::empty(machine)?,
        Variant::fixed_c(machine)?,
        Variant::same_c(machine, "same_c_1", 1)?,
        Variant::same_c(machine, "same_c_1000", 1_000)?,
        Variant::ours(machine, "ours_1", 1)?,
        Variant::ours(machine, "ours_100", 100)?,
        Variant::ours(machine, "ours_1000", 1_000)?,
        Variant::unmatched(machine, "unmatched_unrecorded", 0)?,
        Variant::unmatched(machine, "unmatched_recorded", UNMATCHED_BP)?,
    ];
    let netns = Netns::new()?;
    let mut churner = Churner::start(machine, &netns)?;
    let series = paired(&mut churner, &mut variants)?;
    let accounts = accounted(&mut churner, &mut variants)?;
    report(figures, &mut variants, &series, &accounts)
}

/// CPU microseconds per connection of every turn, by variant, in the order of rounds.
fn paired(churner: &mut Churner, variants: &mut [Variant]) -> Result<Series> {
    let mut random = Random(1);
    let mut series = Series::new();
    let mut order: Vec<usize> = (0..variants.len()).collect();
    for _ in 0..ROUNDS {
        check_interrupted()?;
        for left in (1..order.len()).rev() {
            order.swap(left, (random.bits() % (left as u64 + 1)) as usize);
        }
        for at in &order {
            let variant = &mut variants[*at];
            let turn = churner.turn(&variant.cgroup, TURN)?;
            variant.expected += 2 * turn.with_warm_up;
            variant.drain()?;
            series.entry(variant.name).or_default().push(turn.us_per_connection());
        }
    }
    Ok(series)
}

/// What the kernel says about a program.
pub struct Accounted {
    ns_per_call: f64,
    calls_per_connection: f64,
}

impl Accounted {
    pub fn ns_per_connection(&self) -> f64 {
        self.ns_per_call * self.calls_per_connection
    }
}

/// The kernel's account of each variant, taking turns.
pub fn accounted(churner: &mut Churner, variants: &mut [Variant]) -> Result<BTreeMap<&'static str, Accounted>> {
    let _stats = aya::sys::enable_stats(aya::sys::Stats::RunTime).context("turning on the kernel's account")?;
    let (mut ns, mut calls) = (Series::new(), Series::new());
    for _ in 0..ACCOUNT_ROUNDS {
        check_interrupted()?;
        for variant in variants.iter_mut().filter(|variant| variant.name != "none") {
            let before = variant.account()?;
            let turn = churner.turn(&variant.cgroup, TURN)?;
            let after = variant.account()?;
            variant.expected += 2 * turn.with_warm_up;
            variant.drain()?;
            let runs = (after.calls - before.calls) as f64;
            ns.entry(variant.name).or_default().push((after.time_ns - before.time_ns) as f64 / runs);
            calls.entry(variant.name).or_default().push(runs / turn.with_warm_up as f64);
        }
    }
    let calls = |name| calls.get(name).cloned().unwrap_or_default();
    let each = |(name, mut ns): (&'static str, Vec<f64>)| {
        let calls_per_connection = quantile(&mut calls(name), 0.5);
        (name, Accounted { ns_per_call: quantile(&mut ns, 0.5), calls_per_connection })
    };
    Ok(ns.into_iter().map(each).collect())
}

fn report(
    figures: &mut Figures,
    variants: &mut [Variant],
    series: &Series,
    accounts: &BTreeMap<&'static str, Accounted>,
) -> Result<()> {
    let none = series.get("none").context("no turn without a program")?;
    let meter_ns = accounts.get("empty").map_or(f64::NAN, |empty| empty.ns_per_call);
    println!(
        "\nper connection end:  CPU us over none [quartiles]   by account: ns/call  calls  ns  ns without the meter"
    );
    let (mut cost, mut account) = (BTreeMap::new(), BTreeMap::new());
    for Variant { name, .. } in &*variants {
        let mut over: Vec<f64> = series[name].iter().zip(none).map(|(with, without)| (with - without) / ENDS).collect();
        let (low, middle, high) = (quantile(&mut over, 0.25), quantile(&mut over, 0.5), quantile(&mut over, 0.75));
        cost.insert(*name, middle);
        let Some(said) = accounts.get(name) else {
            println!("  {name:<12} 0 (of {:.2})", quantile(&mut none.clone(), 0.5) / ENDS);
            continue;
        };
        let per_end = said.ns_per_connection() / ENDS;
        let net = per_end - meter_ns * said.calls_per_connection / ENDS;
        account.insert(*name, net);
        println!(
            "  {name:<12} {middle:6.3} [{low:.3} {high:.3}]   {:6.1} {:5.1} {per_end:7.0} {net:7.0}",
            said.ns_per_call,
            said.calls_per_connection / ENDS
        );
        figures.insert(
            format!("kernel_{name}"),
            json!({
                "cpu_us_per_connection_end": round(middle),
                "quartiles": [round(low), round(high)],
                "ns_per_call": round(said.ns_per_call),
                "calls_per_connection_end": round(said.calls_per_connection / ENDS),
                "ns_per_connection_end": round(per_end),
                "ns_per_connection_end_without_meter": round(net),
            }),
        );
    }
    println!();
    note(figures, "kernel_cpu_us_per_connection_end_none", quantile(&mut none.clone(), 0.5) / ENDS);
    note(figures, "kernel_cpu_us_per_connection_end", cost["ours_1000"]);
    note(figures, "kernel_vs_c", cost["ours_1000"] / cost["same_c_1000"]);
    note(figures, "kernel_vs_fixed_c", cost["ours_1000"] / cost["fixed_c"]);
    note(figures, "kernel_vs_c_by_account", account["ours_1000"] / account["same_c_1000"]);
    note(figures, "kernel_vs_fixed_c_by_account", account["ours_1000"] / account["fixed_c"]);
    let unmatched = account["unmatched_recorded"] - account["unmatched_unrecorded"];
    note(figures, "kernel_recording_unmatched_ns_per_connection_end", unmatched);
    let lost = variants.iter_mut().map(Variant::records_lost).sum::<Result<u64>>()?;
    note(figures, "records_lost", lost as f64);
    Ok(())
}

fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
