//! Why a connection gets what it gets: [`crate::decide`] in words.

mod unmet;

use crate::{
    compile::{Violation, compile},
    decide::{Choice, Decision, Flow, acts, rollout_bucket},
    effective::{Effect, Place, effect, too_late},
    facts::KernelFacts,
    given::Given,
    layout::{ACTIVE, PASSIVE},
    model::{
        ApplyTo, Comparison, Direction, Group, Id, IfUnsupported, Layer, LayerBody, Match, Parameters, Snapshot, Value,
        Zone,
    },
    parameter::{PARAMETERS, Parameter},
    unit::bucket_of,
};
pub use unmet::{Unmet, first_unmet};

/// What speaks for and against everything that a connection could get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation<'a> {
    /// One for each layer of the snapshot, in its order.
    pub layers: Vec<LayerExplained<'a>>,
    /// One for each parameter that a choice sets, by slot.
    pub parameters: Vec<ParameterExplained<'a>>,
    /// Why the node would refuse the snapshot; empty if it would not, or is not known.
    pub refusals: Vec<Violation>,
}

/// What one layer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerExplained<'a> {
    /// Whether it has ended because the last contact of the node with a server is too long ago.
    pub ended: bool,
    /// The rules that were asked, in order, the last of them the one that holds, if any does. An experiment has one, without a
    /// name.
    pub asked: Vec<Asked<'a>>,
    /// Its choice.
    pub choice: Option<Choice<'a>>,
    /// Its choice before the handshake's time was known, if that is another one.
    pub choice_before: Option<Option<Choice<'a>>>,
    /// The flow's bucket, if its match holds and no arm owns it, or the other revision of the policy in a rollout.
    pub free_bucket: Option<u32>,
    /// As what a rollout of the policy measures the connection, be it that nothing is set.
    pub group: Option<Group>,
    /// Whether a rule asked names services and the connection is accepted: the kernel gives an accepted socket the cgroup in which
    /// the listening one was made, not that of the process that accepts.
    pub of_listener: bool,
}

/// One match that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked<'a> {
    /// The rule's name.
    pub name: Option<&'a Id>,
    /// Path of the match in the layer.
    pub field: String,
    /// What speaks against it; `None` if it holds.
    pub unmet: Option<Unmet>,
}

/// Who wins a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterExplained<'a> {
    /// The parameter.
    pub parameter: &'static Parameter,
    /// What the connection gets; `None` if the node can honour none that is asked for.
    pub winner: Option<Asks<'a>>,
    /// What the node's kernel makes of it, if the node is known and the value has an effect.
    pub effective: Option<String>,
    /// Why that is not what was asked for; empty if it is.
    pub note: String,
    /// What else takes part, and what comes too late.
    pub caveats: Vec<String>,
    /// Whether a connection that is open already gets it too.
    pub open_too: bool,
    /// What else was asked for, in the order of the layers.
    pub losers: Vec<Asks<'a>>,
}

/// A choice that asks for a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asks<'a> {
    /// Position of the layer.
    pub layer: usize,
    /// The rule's or the arm's name.
    pub choice: &'a Id,
    /// Path of the parameter in the layer.
    pub field: String,
    /// The value.
    pub value: &'a Value,
    /// Why it loses, if not for the order of the layers.
    pub note: String,
}

/// Explains what a flow gets, on a node with these facts if they are known. `silence_ms` is as in [`crate::decide`].
///
/// What is set before the handshake is over was decided without its time, so the time counts only for what is set then.
#[must_use]
pub fn explain<'a>(
    snapshot: &'a Snapshot,
    flow: &Flow<'_>,
    silence_ms: u64,
    facts: Option<&KernelFacts>,
) -> Explanation<'a> {
    let given = Given::of(snapshot, flow, silence_ms);
    let layers = snapshot.layers.iter().enumerate();
    let layers = layers.map(|(index, layer)| {
        let ended = !acts(layer, flow, silence_ms);
        let (choice, choice_before) = (choice_of(given.after(), index), choice_of(&given.before, index));
        let name = |choice: &Option<Choice<'a>>| choice.as_ref().map(|choice| choice.name);
        let group = given.after().choices.iter().find(|choice| choice.layer == index).and_then(|choice| choice.group);
        let asked = if ended { vec![] } else { asked(layer, flow, &snapshot.zones) };
        let holds = asked.last().is_some_and(|asked| asked.unmet.is_none());
        LayerExplained {
            ended,
            free_bucket: if holds && choice.is_none() { bucket(layer, flow) } else { None },
            asked,
            group,
            of_listener: !ended && names_services(layer, choice.as_ref()) && flow.key.direction == PASSIVE,
            choice_before: (name(&choice) != name(&choice_before)).then_some(choice_before),
            choice,
        }
    });
    let parameters = (0..PARAMETERS.len()).filter_map(|slot| parameter(slot, snapshot, flow, &given, facts));
    // Neither number goes into the refusals.
    let refusals = facts.and_then(|facts| compile(snapshot, facts, 0, 0).err()).unwrap_or_default();
    Explanation { layers: layers.collect(), parameters: parameters.collect(), refusals }
}

/// The flow's bucket in an experiment.
fn bucket(layer: &Layer, flow: &Flow<'_>) -> Option<u32> {
    match &layer.body {
        LayerBody::Policy(_) => rollout_bucket(layer, flow),
        LayerBody::Experiment(comparison) => bucket_of(comparison, &flow.key, flow.begin_s),
    }
}

fn choice_of<'a>(decision: &Decision<'a>, layer: usize) -> Option<Choice<'a>> {
    decision.choices.iter().find(|choice| choice.layer == layer && !choice.measured_only).cloned()
}

/// Whether a match of a layer names services, up to the one that holds.
fn names_services(layer: &Layer, choice: Option<&Choice<'_>>) -> bool {
    match &layer.body {
        LayerBody::Policy(rules) => {
            let last = rules.iter().position(|rule| choice.is_some_and(|choice| rule.name == *choice.name));
            rules[..last.map_or(rules.len(), |last| last + 1)].iter().any(|rule| !rule.matches.services.is_empty())
        }
        LayerBody::Experiment(comparison) => !comparison.matches.services.is_empty(),
    }
}

fn asked<'a>(layer: &'a Layer, flow: &Flow<'_>, zones: &[Zone]) -> Vec<Asked<'a>> {
    let ask = |name, field, condition: &Match| Asked { name, field, unmet: first_unmet(condition, flow, zones) };
    match &layer.body {
        LayerBody::Policy(rules) => {
            let mut asked = vec![];
            for (index, rule) in rules.iter().enumerate() {
                asked.push(ask(Some(&rule.name), format!("rules[{index}].match"), &rule.matches));
                if asked.last().is_some_and(|asked| asked.unmet.is_none()) {
                    break;
                }
            }
            asked
        }
        LayerBody::Experiment(comparison) => vec![ask(None, "match".to_owned(), &comparison.matches)],
    }
}

fn parameter<'a>(
    slot: usize,
    snapshot: &'a Snapshot,
    flow: &Flow<'_>,
    given: &Given<'a>,
    facts: Option<&KernelFacts>,
) -> Option<ParameterExplained<'a>> {
    let parameter = &PARAMETERS[slot];
    let direction = if flow.key.direction == ACTIVE { Direction::Active } else { Direction::Passive };
    let decision = given.decision(slot);
    let set = everything(decision);
    let asking = decision.choices.iter().filter_map(|choice| Some((asks(slot, snapshot, choice)?, choice.apply_to)));
    let mut explained = ParameterExplained {
        parameter,
        winner: None,
        effective: None,
        note: String::new(),
        caveats: vec![],
        open_too: false,
        losers: vec![],
    };
    for ((mut asks, if_unsupported), apply_to) in asking {
        if explained.winner.is_some() {
            explained.losers.push(asks);
            continue;
        }
        let place = Place { set: &set, direction: Some(direction) };
        match facts.map(|facts| effect(parameter, asks.value, &place, facts, |_| None)) {
            Some(Err(why)) if if_unsupported == IfUnsupported::Skip => {
                asks.note = format!("skipped: {why}");
                explained.losers.push(asks);
                continue;
            }
            Some(Err(why)) => explained.note = format!("the node refuses all its layers: {why}"),
            Some(Ok(Effect { encoded: _, effective, note, caveats })) => {
                (explained.effective, explained.note, explained.caveats) = (Some(effective), note, caveats);
            }
            None => explained.caveats = too_late(parameter, Some(direction)).collect(),
        }
        if !given.acts(slot) {
            let (other, this) = match direction {
                Direction::Active => ("passive", "active"),
                Direction::Passive => ("active", "passive"),
            };
            (explained.effective, explained.caveats) = (None, vec![]);
            explained.note = format!("acts on {other} connections only; this one is {this}");
        }
        let able = facts.is_none_or(|facts| facts.changes_open_connections().is_ok());
        explained.open_too = apply_to == ApplyTo::NewAndEstablished && able;
        explained.winner = Some(asks);
    }
    (explained.winner.is_some() || !explained.losers.is_empty()).then_some(explained)
}

/// All that the connection gets.
fn everything(decision: &Decision<'_>) -> Parameters {
    let values = decision.values.iter().enumerate();
    let values = values.filter_map(|(slot, value)| Some((slot, value.as_ref()?.0)));
    values.fold(Parameters::default(), |set, (slot, value)| set.with(slot, value.clone()))
}

fn asks<'a>(slot: usize, snapshot: &'a Snapshot, choice: &Choice<'a>) -> Option<(Asks<'a>, IfUnsupported)> {
    let value = choice.set.get(slot)?;
    let (path, if_unsupported) = match &snapshot.layers[choice.layer].body {
        LayerBody::Policy(rules) => {
            let (index, rule) = rules.iter().enumerate().find(|(_, rule)| rule.name == *choice.name)?;
            (format!("rules[{index}]"), rule.if_unsupported)
        }
        LayerBody::Experiment(comparison) => {
            let Comparison { arms, if_unsupported, .. } = &**comparison;
            let index = arms.iter().position(|arm| arm.name == *choice.name)?;
            (format!("arms[{index}]"), *if_unsupported)
        }
    };
    let field = format!("{path}.set.{}", PARAMETERS.get(slot)?.name);
    Some((Asks { layer: choice.layer, choice: choice.name, field, value, note: String::new() }, if_unsupported))
}
