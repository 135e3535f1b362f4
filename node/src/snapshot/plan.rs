//! From a snapshot's bytes to the plan of its kernel tables, or to the reasons against. Pure.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};
use sockpilot_outcomes::Choice;
use sockpilot_policy::{
    compile::{ChoiceName, Compiled, Tables, Violation, compile_tried},
    facts::KernelFacts,
    fault::Fault,
    model::{Layer, LayerBody, Match, Snapshot},
    readings::Readings,
    unit::on_node,
};
use sockpilot_proto::{convert, v1};

use super::{
    answer::{Need, about_all, reported},
    version::Version,
};
use crate::records::{attribution::Meaning, measuring::Measuring};

/// What it takes to put a snapshot in force.
#[derive(Debug)]
pub struct Plan {
    /// For the kernel.
    pub tables: Tables,
    /// What choice `index + 1` of these tables is in outcomes.
    pub choices: Vec<Meaning>,
    /// Values that the kernel changes, or of which there is more to say, for the acknowledgement.
    pub effective: Vec<v1::EffectiveValue>,
    /// Which cgroups the layers need.
    pub needs: Vec<Need>,
}

/// `v1::Layers` as far as its parts are told apart.
#[derive(Clone, PartialEq, Message)]
struct Parts {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    layers: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    zones: Vec<Bytes>,
}

/// Reads a snapshot, and what in its layers this daemon does not know.
///
/// # Errors
/// Everything that stands against it as a whole on any node.
pub fn read(version: &Version, content: &Bytes) -> Result<(v1::Layers, Vec<Violation>), Vec<v1::RuleViolation>> {
    if Sha256::digest(content).as_slice() != version.content_hash {
        return Err(about_all("the content does not have the hash that was announced; it was damaged on the way"));
    }
    let undecoded = "the content cannot be decoded; upgrade the node daemon if the server is newer";
    let message = v1::Layers::decode(content.clone()).map_err(|_| about_all(undecoded))?;
    let parts = Parts::decode(content.clone()).map_err(|_| about_all(undecoded))?;
    // What a newer server says in fields unknown here is dropped in decoding. Enforcing the rest would be another policy.
    let mut zones = message.zones.iter().zip(&parts.zones);
    if parts.encoded_len() != content.len() || zones.any(|(zone, part)| zone.encoded_len() != part.len()) {
        return Err(about_all("the content has fields that this daemon does not know; upgrade the node daemon"));
    }
    let layers = message.layers.iter().zip(&parts.layers).enumerate();
    let unknown = layers.filter(|(_, (layer, part))| layer.encoded_len() != part.len()).map(|(index, _)| Violation {
        layer: Some(index),
        fault: Fault {
            field: String::new(),
            description: "has fields that this daemon does not know; upgrade the node daemon".to_owned(),
        },
    });
    let unknown = unknown.collect();
    Ok((message, unknown))
}

/// What layers mean on this node.
///
/// # Errors
/// What is invalid in them.
pub fn understand(message: &v1::Layers, node_id: &str) -> Result<Snapshot, Vec<Violation>> {
    let snapshot = convert::snapshot_from_proto(message);
    let snapshot = snapshot.map_err(|faults| faults.as_slice().iter().map(invalid).collect::<Vec<_>>())?;
    Ok(on_node(&snapshot, node_id))
}

/// Plans a snapshot for a node with these facts, whose kernel gave these readings.
///
/// # Errors
/// Everything that stands against it on this node.
pub fn plan(
    version: &Version,
    message: &v1::Layers,
    snapshot: &Snapshot,
    facts: &KernelFacts,
    readings: &Readings,
    install: u64,
) -> Result<Plan, Vec<Violation>> {
    let compiled = compile_tried(snapshot, facts, readings, version.generation, install)?;
    let Compiled { tables, choices, effective, with_caveats } = compiled;
    let measured: Vec<_> = message.layers.iter().map(measuring).collect();
    let meaning = |choice: &ChoiceName| {
        let measured = measured.get(choice.layer).cloned().flatten();
        Some(meaning(snapshot.layers.get(choice.layer)?, choice, measured))
    };
    let choices = choices.iter().filter_map(meaning).collect();
    let effective = reported(effective, with_caveats);
    Ok(Plan { tables, choices, effective, needs: needs(snapshot) })
}

fn measuring(layer: &v1::Layer) -> Option<Arc<Measuring>> {
    let measuring = match (&layer.body, &layer.rollout) {
        (Some(v1::layer::Body::Experiment(experiment)), _) => Measuring::of(experiment),
        (_, Some(rollout)) => Measuring::of_rollout(rollout),
        _ => None,
    };
    measuring.map(Arc::new)
}

fn meaning(layer: &Layer, choice: &ChoiceName, measuring: Option<Arc<Measuring>>) -> Meaning {
    let ChoiceName { layer: _, name, group, measured_only } = choice;
    let own =
        Arc::new(Choice { layer: layer.name.to_string(), revision: layer.revision, name: name.as_str().to_owned() });
    let measured_as = match (&layer.rollout, group) {
        (None, _) => Some(Arc::clone(&own)),
        (Some(rollout), Some(group)) => {
            let (layer, revision, name) = (rollout.resource(), rollout.revision, group.name().to_owned());
            Some(Arc::new(Choice { layer, revision, name }))
        }
        (Some(_), None) => None,
    };
    Meaning { choice: own, measured_only: *measured_only, measured: measured_as.zip(measuring) }
}

fn needs(snapshot: &Snapshot) -> Vec<Need> {
    let mut needs = vec![];
    for layer in &snapshot.layers {
        let name = layer.name.to_string();
        needs.push(Need { layer: name.clone(), field: String::new(), cgroup: "/".to_owned() });
        let mut named = |field: &str, condition: &Match| {
            needs.extend(condition.services.iter().enumerate().map(|(index, path)| {
                let field = format!("{field}.services[{index}]");
                Need { layer: name.clone(), field, cgroup: path.to_string() }
            }));
        };
        match &layer.body {
            LayerBody::Policy(rules) => {
                for (index, rule) in rules.iter().enumerate() {
                    named(&format!("rules[{index}].match"), &rule.matches);
                }
            }
            LayerBody::Experiment(comparison) => named("match", &comparison.matches),
        }
    }
    needs
}

/// Faults have paths from the top of the snapshot, refusals from their layer.
fn invalid(fault: &Fault) -> Violation {
    let (layer, field) = split_path(&fault.field).map_or((None, &*fault.field), |(index, field)| (Some(index), field));
    Violation { layer, fault: Fault { field: field.to_owned(), description: fault.description.clone() } }
}

/// `layers[2].policy.rules[0].name` is 2 and `rules[0].name`.
fn split_path(path: &str) -> Option<(usize, &str)> {
    let (index, rest) = path.strip_prefix("layers[")?.split_once(']')?;
    let field = rest.strip_prefix('.').unwrap_or(rest);
    let field = field.strip_prefix("policy.").or_else(|| field.strip_prefix("experiment.")).unwrap_or(field);
    Some((index.parse().ok()?, field))
}

#[cfg(test)]
mod tests {
    use super::{
        super::answer::{VIOLATIONS_MAX, unattached, violations},
        *,
    };
    use crate::{kernel::Services, testing::facts};

    /// Plans where nothing was tried; without a plan, what is refused, or all together is.
    fn planned(version: &Version, content: &[u8], install: u64) -> Result<Plan, Vec<Violation>> {
        let whole = |violations: Vec<v1::RuleViolation>| {
            let fault =
                |violation: v1::RuleViolation| Fault { field: violation.field, description: violation.description };
            violations
                .into_iter()
                .map(|violation| Violation { layer: None, fault: fault(violation) })
                .collect::<Vec<_>>()
        };
        let (message, unknown) = read(version, &Bytes::copy_from_slice(content)).map_err(whole)?;
        if !unknown.is_empty() {
            return Err(unknown);
        }
        plan(version, &message, &understand(&message, "node")?, &facts(), &Readings::default(), install)
    }

    fn snapshot(layers: Vec<v1::Layer>) -> (Version, Vec<u8>) {
        let bytes = v1::Layers { layers, zones: vec![] }.encode_to_vec();
        let content_hash = Sha256::digest(&bytes).into();
        (Version { database_epoch: "e".into(), generation: 7, content_hash }, bytes)
    }

    fn rule(name: &str, set: v1::Parameters) -> v1::Rule {
        v1::Rule { name: name.into(), set: Some(set), ..Default::default() }
    }

    fn policy(name: &str, rules: Vec<v1::Rule>) -> v1::Layer {
        let body = Some(v1::layer::Body::Policy(v1::PolicyLayer { rules }));
        v1::Layer {
            name: format!("policies/{name}"),
            revision: 3,
            priority: 10,
            lease_ms: 0,
            standby: false,
            ends_s: 0,
            rollout: None,
            body,
        }
    }

    fn experiment() -> v1::Layer {
        let arm = |name: &str, weight_bp, syn_rto_ms| v1::Arm {
            name: name.into(),
            weight_bp,
            first_bucket: None,
            withholds: false,
            set: Some(v1::Parameters { syn_rto_ms, ..Default::default() }),
        };
        let arms = vec![arm("control", 9_000, None), arm("fast", 1_000, Some(201))];
        let body = v1::ExperimentLayer { unit: v1::Unit::Flow.into(), salt: "s".into(), arms, ..Default::default() };
        v1::Layer {
            name: "experiments/rto".into(),
            revision: 2,
            priority: 20,
            lease_ms: 600_000,
            standby: false,
            ends_s: 0,
            rollout: None,
            body: Some(v1::layer::Body::Experiment(body)),
        }
    }

    fn cwnd(packets: u32) -> v1::Parameters {
        v1::Parameters { initial_cwnd_packets: Some(packets), ..Default::default() }
    }

    #[test]
    fn plans_layers_with_their_choices_in_order() {
        let (version, bytes) = snapshot(vec![experiment(), policy("web", vec![rule("far", cwnd(40))])]);
        let plan = planned(&version, &bytes, 5).expect("sound");
        let names: Vec<_> = plan
            .choices
            .iter()
            .map(|Meaning { choice, .. }| (choice.layer.as_str(), choice.revision, choice.name.as_str()))
            .collect();
        let expected = [("experiments/rto", 2, "control"), ("experiments/rto", 2, "fast"), ("policies/web", 3, "far")];
        assert_eq!(names, expected);
        assert_eq!((plan.tables.head.generation, plan.tables.head.install), (7, 5));
        // 201 ms are 50.25 ticks at 250 a second.
        let [effective] = plan.effective.as_slice() else { panic!("{:?}", plan.effective) };
        let expected = ("experiments/rto", "arms[1].set.syn_rto_ms", "201", "204");
        let found = (&*effective.layer, &*effective.field, &*effective.requested, &*effective.effective);
        assert_eq!(found, expected);
    }

    #[test]
    fn groups_of_a_rollout_are_measured_and_rules_keep_their_names() {
        let measures = vec![v1::Measure { quantity: "bad_end".into(), ..v1::Measure::default() }];
        let rollout = v1::LayerRollout {
            name: "rollouts/wide".into(),
            salt: "s".into(),
            revision: 3,
            flow_share_bp: 100,
            measures,
            breaker_ppm: 1_000,
            ..v1::LayerRollout::default()
        };
        let near = v1::Match { same_prefix: Some(24), ..v1::Match::default() };
        let canary = policy("web", vec![rule("far", cwnd(40))]);
        let canary = v1::Layer { lease_ms: 60_000, rollout: Some(rollout), ..canary };
        let standby = v1::Rule { r#match: Some(near), ..rule("near", cwnd(10)) };
        let standby = policy("web", vec![standby, rule("far", cwnd(20))]);
        let standby = v1::Layer { revision: 2, standby: true, rollout: canary.rollout.clone(), ..standby };
        let standby = v1::Layer { lease_ms: 60_000, ..standby };
        let (version, bytes) = snapshot(vec![canary.clone(), standby.clone()]);
        let plan = planned(&version, &bytes, 5).expect("sound");
        let said = |Meaning { choice, measured_only, measured }: &Meaning| {
            let group =
                measured.as_ref().map(|(group, _)| format!("{}@{} {}", group.layer, group.revision, group.name));
            let own = format!("{}@{}", choice.name, choice.revision);
            format!("{}{} {}", own, if *measured_only { " sets nothing" } else { "" }, group.unwrap_or_default())
        };
        let expected = [
            "far@3 rollouts/wide@3 canary",
            "near@3 sets nothing rollouts/wide@3 canary",
            "near@2 ",
            "near@2 rollouts/wide@3 control",
            "near@2 rollouts/wide@3 rest",
            "far@2 ",
            "far@2 rollouts/wide@3 control",
            "far@2 rollouts/wide@3 rest",
        ];
        assert_eq!(plan.choices.iter().map(said).collect::<Vec<_>>(), expected);
        assert_eq!(plan.tables.breakers.len(), 1);

        // What the node cannot tell apart, it refuses.
        let other = v1::LayerRollout { flow_share_bp: 200, ..canary.rollout.clone().unwrap_or_default() };
        let (version, bytes) = snapshot(vec![canary.clone(), v1::Layer { rollout: Some(other), ..standby }]);
        let refused = planned(&version, &bytes, 1).expect_err("must be refused");
        assert_eq!((refused[0].layer, &*refused[0].fault.field), (Some(1), "rollout"));
        let half = v1::LayerRollout { flow_share_bp: 6_000, ..canary.rollout.clone().unwrap_or_default() };
        let (version, bytes) = snapshot(vec![v1::Layer { rollout: Some(half), ..canary }]);
        let refused = planned(&version, &bytes, 1).expect_err("must be refused");
        assert_eq!(&*refused[0].fault.field, "rollout.flow_share_bp");
    }

    #[test]
    fn tells_what_is_not_attached_by_where_it_is_named() {
        let mut far = rule("far", cwnd(40));
        far.r#match = Some(v1::Match { services: vec!["/web".into(), "/db".into()], ..Default::default() });
        let (version, bytes) = snapshot(vec![policy("web", vec![far])]);
        let needs = planned(&version, &bytes, 5).expect("sound").needs;
        let mut services = Services { own: true, attached: vec!["/web".into(), "/db".into()], ..Default::default() };
        assert_eq!(unattached(&needs, &services), []);
        services.absent = services.attached.split_off(1);
        services.troubled = vec![("/".into(), "gone".repeat(1_000))];
        let found: Vec<_> = unattached(&needs, &services);
        let fields: Vec<_> =
            found.iter().map(|value| (&*value.field, &*value.requested, value.note.len() < 250)).collect();
        assert_eq!(fields, [("", "/", true), ("rules[0].match.services[1]", "/db", true)]);
    }

    #[test]
    fn an_empty_snapshot_is_sound() {
        let (version, bytes) = snapshot(vec![]);
        assert!(planned(&version, &bytes, 1).is_ok_and(|plan| plan.choices.is_empty()));
    }

    #[test]
    fn refuses_damaged_content() {
        let (version, mut bytes) = snapshot(vec![experiment()]);
        bytes[3] ^= 1;
        let refusals = planned(&version, &bytes, 1).expect_err("must be refused");
        assert!(refusals[0].fault.description.contains("hash"), "{refusals:?}");
    }

    #[test]
    fn refuses_what_it_would_otherwise_overlook() {
        #[derive(Clone, PartialEq, Message)]
        struct NewerParameters {
            #[prost(uint32, optional, tag = "4")]
            initial_cwnd_packets: Option<u32>,
            #[prost(uint32, optional, tag = "1000")]
            from_the_future: Option<u32>,
        }
        // The same bytes as the message has them: length-delimited fields around the parameters.
        let field = |tag: u8, body: Vec<u8>| [vec![tag << 3 | 2, body.len() as u8], body].concat();
        let layer = |from_the_future| {
            let parameters = NewerParameters { initial_cwnd_packets: Some(40), from_the_future };
            let rule = [field(1, b"far".to_vec()), field(3, parameters.encode_to_vec())].concat();
            field(1, [field(1, b"policies/web".to_vec()), vec![2 << 3, 1], field(5, field(1, rule))].concat())
        };
        let refused = |bytes: Vec<u8>| {
            let content_hash = Sha256::digest(&bytes).into();
            let version = Version { database_epoch: "e".into(), generation: 1, content_hash };
            planned(&version, &bytes, 1).err().map(|refusals| refusals[0].layer)
        };
        assert_eq!(refused(layer(None)), None);
        assert_eq!(refused([layer(None), layer(Some(1))].concat()), Some(Some(1)), "of the layer that has it");
        assert_eq!(refused([layer(None), field(3, vec![])].concat()), Some(None), "of all together");
        assert_eq!(refused([layer(None), field(2, field(9, vec![]))].concat()), Some(None), "zones are of all");
    }

    #[test]
    fn names_what_this_kernel_cannot_do() {
        let missing = v1::Parameters { congestion_control: Some("nv".into()), ..Default::default() };
        let (version, bytes) = snapshot(vec![policy("web", vec![rule("far", cwnd(40)), rule("near", missing)])]);
        let refusals = planned(&version, &bytes, 1).expect_err("must be refused");
        let [refusal] = refusals.as_slice() else { panic!("{refusals:?}") };
        assert_eq!((refusal.layer, &*refusal.fault.field), (Some(0), "rules[1].set.congestion_control"));
    }

    #[test]
    fn names_what_is_invalid_by_layer_and_path_in_it() {
        let layers = vec![experiment(), policy("web", vec![rule("far", cwnd(0)), rule("far", cwnd(1))])];
        let (version, bytes) = snapshot(layers);
        let refusals = planned(&version, &bytes, 1).expect_err("must be refused");
        assert!(refusals.len() >= 2 && refusals.iter().all(|refusal| refusal.layer == Some(1)), "{refusals:?}");
        assert!(refusals.iter().all(|refusal| refusal.fault.field.starts_with("rules[")), "{refusals:?}");
    }

    #[test]
    fn answers_are_bounded() {
        let faults = vec![Fault { field: "rules[0]".to_owned(), description: "no".to_owned() }; 5 * VIOLATIONS_MAX];
        assert_eq!(violations("policies/web", &faults[..VIOLATIONS_MAX]).len(), VIOLATIONS_MAX);
        let violations = violations("policies/web", &faults);
        assert_eq!(violations.len(), VIOLATIONS_MAX + 1);
        assert!(violations.iter().all(|violation| violation.layer == "policies/web"));
        assert!(violations.last().is_some_and(|last| last.description.starts_with("400 more")));
    }
}
