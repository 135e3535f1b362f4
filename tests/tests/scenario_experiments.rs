//! Experiments on the real kernel, from the design to the verdict: an effect that is there is found, with the right sign and where the
//! clients measured it themselves; one that is not there is not.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use sockpilot_policy::bucket::{flow_bucket, salt};
use sockpilot_proto::v1::{self, VerdictKind};
use sockpilot_tests::{
    admin::{Admin, everyone},
    cgroup::Cgroup,
    documents::{arm, experiment},
    experiments::{effect, measure, row, settled},
    link::Way,
    machine::{Needs, scenario},
    node::Node,
    server::{Database, Server},
    shaper::{Character, LossOf},
    traffic::{Flow, Opening},
    wait::eventually,
    world::{Pair, Wire, short_path, socket},
};

const SYN_LOSS: f64 = 0.3;
const FLOWS: usize = 1_600;
const HORIZON_S: u32 = 5;
/// Until the horizon of all has passed, and the reports have come.
const PATIENCE: Duration = Duration::from_secs(90);

/// An experiment on the SYN's timeout; without one, both arms do the same.
fn design(id: &str, syn_rto_ms: Option<u32>) -> v1::Experiment {
    let set = v1::Parameters { syn_rto_ms, ..v1::Parameters::default() };
    let arms = vec![arm("control", 5_000, v1::Parameters::default()), arm("quick", 5_000, set)];
    let success = v1::MeasureRole::Success;
    v1::Experiment {
        measures: vec![measure("handshake_us", true, success), measure("connected", false, v1::MeasureRole::Guardrail)],
        horizon_s: HORIZON_S,
        ..experiment(id, 50, v1::Match::default(), arms)
    }
}

/// The mean logarithm of what connect() took, by arm.
fn by_arm(flows: &[Flow], salted: &str) -> BTreeMap<&'static str, f64> {
    let mut logs: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for flow in flows {
        let name = if flow_bucket(salt(salted), &flow.key()) < 5_000 { "control" } else { "quick" };
        logs.entry(name).or_default().push((flow.connect_us as f64).ln());
    }
    logs.into_iter().map(|(name, logs)| (name, logs.iter().sum::<f64>() / logs.len() as f64)).collect()
}

#[test]
fn an_effect_is_found_where_it_is_and_nowhere_else() {
    scenario(Needs::Kernel, |machine| {
        let server = Server::start(machine, Database::Embedded, &[])?;
        let admin = server.admin()?;
        let wire = Wire::new(short_path())?;
        wire.link.set(Way::Forth, Character { loss: SYN_LOSS, loss_of: LossOf::Syn, ..short_path() });
        let cgroup = Cgroup::new(machine, "managed")?;
        let _node = Node::start(machine, "node", &server.url(), &cgroup, &[])?;
        admin.wait_for_nodes(&["node"])?;
        let mut pair = Pair::start(machine, &wire, Some(&cgroup), None)?;
        for (id, syn_rto_ms) in [("effect", Some(200)), ("nothing", None)] {
            let stored = admin.put_experiment(design(id, syn_rto_ms), everyone())?;
            admin.wait_in_force("node", &stored.name, stored.revision)?;
        }

        let opening =
            Opening { at_once: 64, patience_ms: 30_000, ..Opening::new(socket("10.1.0.2", pair.port)?, FLOWS) };
        let flows = pair.client.open(&opening)?;
        ensure!(flows.iter().all(|flow| flow.error.is_none()), "a connection failed");
        let logs = by_arm(&flows, "effect");
        let of_clients = logs["quick"] - logs["control"];

        let found = settled(&admin, "experiments/effect", FLOWS as u64)?;
        let handshake = row(&found, "ln(handshake_us)")?;
        let absolute = effect(&found, "ln(handshake_us)")?;
        println!("measured by the clients: {of_clients:.3}, by the experiment: {absolute:?}");
        ensure!(of_clients < -0.1, "a quick retry must show: {of_clients}");
        ensure!(
            absolute.lower <= of_clients && of_clients <= absolute.upper,
            "{absolute:?} does not hold {of_clients}"
        );
        ensure!((absolute.effect - of_clients).abs() < 0.1, "{absolute:?} is not near {of_clients}");
        ensure!(handshake.standing() == v1::Standing::Better, "{handshake:?}");
        let verdict = found.verdict.clone().context("no verdict")?;
        ensure!((verdict.kind(), verdict.arm.as_str()) == (VerdictKind::Ship, "quick"), "{verdict:?}");
        ensure!(found.share_checks.iter().all(|check| !check.mismatch), "{:?}", found.share_checks);

        let nothing = settled(&admin, "experiments/nothing", FLOWS as u64)?;
        let verdict = nothing.verdict.clone().context("no verdict")?;
        ensure!(verdict.kind() == VerdictKind::KeepRunning, "an A/A: {verdict:?}");
        let absolute = effect(&nothing, "ln(handshake_us)")?;
        ensure!(absolute.lower < 0.0 && 0.0 < absolute.upper, "{absolute:?}");

        judged_again(&admin, &found)?;
        conclude(&admin)
    });
}

/// What a verdict was drawn from gives the same results, byte for byte; and other questions have answers, too.
fn judged_again(admin: &Admin, found: &v1::ExperimentResults) -> Result<()> {
    let request = v1::ListVerdictsRequest { parent: found.name.clone(), ..v1::ListVerdictsRequest::default() };
    let verdicts = eventually("the task has drawn the verdict", PATIENCE, || {
        let listed = admin.call(admin.experiments().list_verdicts(request.clone()))?.verdicts;
        let newest =
            listed.first().and_then(|verdict| verdict.results.as_ref()?.verdict.as_ref()).map(v1::Verdict::kind);
        ensure!(newest == Some(VerdictKind::Ship), "{newest:?}");
        Ok(listed)
    })?;
    for verdict in verdicts {
        let evidence = verdict.evidence.context("no evidence")?;
        let again = sockpilot_judge::judge(&evidence)?;
        ensure!(Some(again) == verdict.results, "{} is not drawn again", verdict.name);
    }
    let request =
        v1::GetExperimentPowerRequest { name: found.name.clone(), ..v1::GetExperimentPowerRequest::default() };
    let power = admin.call(admin.experiments().get_experiment_power(request))?;
    ensure!(power.measures.iter().any(|measure| measure.units > 100.0), "{power:?}");
    Ok(())
}

/// What is shipped is an ordinary revision of a policy, for nobody yet.
fn conclude(admin: &Admin) -> Result<()> {
    let request = v1::ConcludeExperimentRequest {
        name: "experiments/effect".to_owned(),
        ship_arm: "quick".to_owned(),
        policy: "policies/syn".to_owned(),
        reason: "it is quicker".to_owned(),
        ..v1::ConcludeExperimentRequest::default()
    };
    let concluded = admin.call(admin.experiments().conclude_experiment(request))?;
    let experiment = concluded.experiment.context("no experiment")?;
    ensure!(
        experiment.state() == v1::ExperimentState::Concluded && experiment.shipped_arm == "quick",
        "{experiment:?}"
    );
    let policy = concluded.policy.context("no policy")?;
    let set = policy.rules.first().and_then(|rule| rule.set.clone()).context("no rule")?;
    ensure!(set.syn_rto_ms == Some(200), "{policy:?}");
    admin.wait_in_force("node", "experiments/effect", 0)
}
