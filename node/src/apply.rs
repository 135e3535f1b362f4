//! From a snapshot's bytes to kernel tables, or to the reasons against. Pure.

use std::{collections::BTreeMap, sync::Arc};

use prost::Message;
use sha2::{Digest, Sha256};
use sockpilot_outcomes::Choice;
use sockpilot_policy::{
    compile::{Compiled, Effective, Refusal, Tables, compile_tried},
    facts::KernelFacts,
    fault::{Fault, Faults},
    model::{Layer, LayerBody, Match, Snapshot},
    trial::Readings,
};
use sockpilot_proto::{convert, v1};

use crate::{kernel::Services, ledger::Version};

/// What it takes to put a snapshot in force.
#[derive(Debug)]
pub struct Plan {
    /// For the kernel.
    pub tables: Tables,
    /// What choice `index + 1` of these tables is in outcomes.
    pub choices: Vec<Arc<Choice>>,
    /// Values that the kernel changes, or of which more is to be told, for the acknowledgement.
    pub effective: Vec<v1::EffectiveValue>,
    /// Which cgroups the layers need.
    pub needs: Vec<Need>,
}

/// A cgroup that a layer needs to be attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// The layer.
    pub layer: String,
    /// Path in the layer: `rules[3].match.services[0]`; empty for the node's own, which every layer needs.
    pub field: String,
    /// The service; `/` is the node's own cgroup.
    pub cgroup: String,
}

/// Needs that are told of in one acknowledgement.
const NEEDS_MAX: usize = 1_000;
/// Of a reason that is told with them, in characters.
const REASON_CHARS_MAX: usize = 200;

/// Values of which an answer tells; how many more there are is said by layer. A status lists as many.
pub const EFFECTIVE_MAX: usize = 1_000;
/// Violations in one answer; the rest is counted in the last one.
pub const VIOLATIONS_MAX: usize = 100;

/// Reads a snapshot.
///
/// # Errors
/// Everything that stands against it on any node.
pub fn read(version: &Version, layers: &[u8]) -> Result<Snapshot, Vec<v1::RuleViolation>> {
    if Sha256::digest(layers).as_slice() != version.content_hash {
        return Err(about_all("the content does not have the hash that was announced; it was damaged on the way"));
    }
    let message = v1::Layers::decode(layers)
        .map_err(|_| about_all("the content cannot be decoded; upgrade the node daemon if the server is newer"))?;
    // What a newer server says in fields unknown here is dropped in decoding. Enforcing the rest would be another policy.
    if message.encoded_len() != layers.len() {
        return Err(about_all("the content has fields that this daemon does not know; upgrade the node daemon"));
    }
    convert::snapshot_from_proto(&message).map_err(|faults| bounded(invalid(&message, &faults)))
}

/// Plans a snapshot for a node with these facts, whose kernel gave these readings.
///
/// # Errors
/// Everything that stands against it on this node.
pub fn plan(
    version: &Version,
    snapshot: &Snapshot,
    facts: &KernelFacts,
    readings: &Readings,
    install: u64,
) -> Result<Plan, Vec<v1::RuleViolation>> {
    let compiled = compile_tried(snapshot, facts, readings, version.generation, install);
    let Compiled { tables, choices, effective, with_caveats } =
        compiled.map_err(|refusals| bounded(refusals.into_iter().map(refused).collect()))?;
    let choices =
        choices.iter().filter_map(|choice| Some(named(snapshot.layers.get(choice.layer)?, choice.name.as_str())));
    let effective = told(effective, with_caveats);
    Ok(Plan { tables, choices: choices.collect(), effective, needs: needs(snapshot) })
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
            LayerBody::Experiment { matches, .. } => named("match", matches),
        }
    }
    needs
}

/// What is needed and not attached, as a server is told it: beside the effective values, because there the rule has no effect.
#[must_use]
pub fn unattached(needs: &[Need], services: &Services) -> Vec<v1::EffectiveValue> {
    let Services { own: _, attached: _, absent, troubled, outlived: _ } = services;
    let told = needs.iter().filter_map(|Need { layer, field, cgroup }| {
        let trouble = troubled.iter().find(|(path, _)| path == cgroup);
        let note = match trouble {
            Some((_, error)) => error.chars().take(REASON_CHARS_MAX).collect(),
            None if absent.contains(cgroup) => {
                "this node has no such cgroup now; it is attached to when it appears".to_owned()
            }
            None => return None,
        };
        let (layer, field, requested) = (layer.clone(), field.clone(), cgroup.clone());
        Some(v1::EffectiveValue {
            layer,
            field,
            requested,
            effective: "not attached".to_owned(),
            note,
            caveats: vec![],
        })
    });
    told.take(NEEDS_MAX).collect()
}

/// A violation that is about the snapshot as a whole.
#[must_use]
pub fn about_all(description: impl Into<String>) -> Vec<v1::RuleViolation> {
    vec![v1::RuleViolation { layer: String::new(), field: String::new(), description: description.into() }]
}

fn named(layer: &Layer, choice: &str) -> Arc<Choice> {
    Arc::new(Choice { layer: layer.name.to_string(), revision: layer.revision, name: choice.to_owned() })
}

fn effective_to_proto(effective: Effective) -> v1::EffectiveValue {
    let Effective { layer, field, requested, effective, note, caveats } = effective;
    v1::EffectiveValue { layer: layer.to_string(), field, requested, effective, note, caveats }
}

/// What is told of values: first of those that the kernel changes. Of what is left out the last entry of its layer says how much.
fn told(effective: Vec<Effective>, with_caveats: Vec<Effective>) -> Vec<v1::EffectiveValue> {
    let mut all = effective.into_iter().chain(with_caveats).map(effective_to_proto);
    let mut told: Vec<_> = all.by_ref().take(EFFECTIVE_MAX).collect();
    let mut left_out: BTreeMap<String, usize> = BTreeMap::new();
    for value in all {
        *left_out.entry(value.layer).or_default() += 1;
    }
    told.extend(left_out.into_iter().map(|(layer, values)| v1::EffectiveValue {
        layer,
        caveats: vec![format!("{values} more values have notes that are not listed")],
        ..v1::EffectiveValue::default()
    }));
    told
}

fn refused(refusal: Refusal) -> v1::RuleViolation {
    let Refusal { layer, fault: Fault { field, description } } = refusal;
    v1::RuleViolation { layer: layer.map(|layer| layer.to_string()).unwrap_or_default(), field, description }
}

/// Faults have paths from the top of the snapshot, violations from their layer.
fn invalid(message: &v1::Layers, faults: &Faults) -> Vec<v1::RuleViolation> {
    let violation = |fault: &Fault| {
        let (layer, field) = split_path(&fault.field)
            .and_then(|(index, field)| Some((message.layers.get(index)?.name.clone(), field)))
            .unwrap_or((String::new(), &fault.field));
        v1::RuleViolation { layer, field: field.to_owned(), description: fault.description.clone() }
    };
    faults.as_slice().iter().map(violation).collect()
}

/// `layers[2].policy.rules[0].name` is 2 and `rules[0].name`.
fn split_path(path: &str) -> Option<(usize, &str)> {
    let (index, rest) = path.strip_prefix("layers[")?.split_once(']')?;
    let field = rest.strip_prefix('.').unwrap_or(rest);
    let field = field.strip_prefix("policy.").or_else(|| field.strip_prefix("experiment.")).unwrap_or(field);
    Some((index.parse().ok()?, field))
}

fn bounded(mut violations: Vec<v1::RuleViolation>) -> Vec<v1::RuleViolation> {
    let more = violations.len().saturating_sub(VIOLATIONS_MAX);
    if more > 0 {
        violations.truncate(VIOLATIONS_MAX);
        violations.extend(about_all(format!("{more} more violations are not listed")));
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::facts;

    /// Plans where nothing was tried.
    fn planned(version: &Version, layers: &[u8], install: u64) -> Result<Plan, Vec<v1::RuleViolation>> {
        plan(version, &read(version, layers)?, &facts(), &Readings::default(), install)
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
        v1::Layer { name: format!("policies/{name}"), revision: 3, priority: 10, lease_ms: 0, standby: false, body }
    }

    fn experiment() -> v1::Layer {
        let arm = |name: &str, weight_bp, syn_rto_ms| v1::Arm {
            name: name.into(),
            weight_bp,
            first_bucket: None,
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
        let names: Vec<_> =
            plan.choices.iter().map(|choice| (choice.layer.as_str(), choice.revision, choice.name.as_str())).collect();
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
        let violations = planned(&version, &bytes, 1).expect_err("must be refused");
        assert!(violations[0].description.contains("hash"), "{violations:?}");
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
        let newer = |from_the_future| NewerParameters { initial_cwnd_packets: Some(40), from_the_future };
        for (parameters, sound) in [(newer(None), true), (newer(Some(1)), false)] {
            // The same bytes as the message has them: length-delimited fields around the parameters.
            let field = |tag: u8, body: Vec<u8>| [vec![tag << 3 | 2, body.len() as u8], body].concat();
            let rule = [field(1, b"far".to_vec()), field(3, parameters.encode_to_vec())].concat();
            let layer = [field(1, b"policies/web".to_vec()), vec![2 << 3, 1], field(5, field(1, rule))].concat();
            let bytes = field(1, layer);
            let content_hash = Sha256::digest(&bytes).into();
            let version = Version { database_epoch: "e".into(), generation: 1, content_hash };
            assert_eq!(planned(&version, &bytes, 1).is_ok(), sound);
        }
    }

    #[test]
    fn names_what_this_kernel_cannot_do() {
        let missing = v1::Parameters { congestion_control: Some("nv".into()), ..Default::default() };
        let (version, bytes) = snapshot(vec![policy("web", vec![rule("far", cwnd(40)), rule("near", missing)])]);
        let violations = planned(&version, &bytes, 1).expect_err("must be refused");
        let [violation] = violations.as_slice() else { panic!("{violations:?}") };
        assert_eq!((&*violation.layer, &*violation.field), ("policies/web", "rules[1].set.congestion_control"));
    }

    #[test]
    fn names_what_is_invalid_by_layer_and_path_in_it() {
        let layers = vec![experiment(), policy("web", vec![rule("far", cwnd(0)), rule("far", cwnd(1))])];
        let (version, bytes) = snapshot(layers);
        let violations = planned(&version, &bytes, 1).expect_err("must be refused");
        assert!(violations.len() >= 2 && violations.iter().all(|violation| violation.layer == "policies/web"));
        assert!(violations.iter().all(|violation| violation.field.starts_with("rules[")), "{violations:?}");
    }

    #[test]
    fn answers_are_bounded() {
        let rules = (0..500).map(|n| rule(&format!("r{n}"), cwnd(0))).collect();
        let (version, bytes) = snapshot(vec![policy("web", rules)]);
        let violations = planned(&version, &bytes, 1).expect_err("must be refused");
        assert_eq!(violations.len(), VIOLATIONS_MAX + 1);
        assert!(violations.last().is_some_and(|last| last.description.starts_with("400 more")));
    }
}
