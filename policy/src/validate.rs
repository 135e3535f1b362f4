//! What types cannot guarantee: ranges, sums, names that must differ, and matches that nothing can fulfil.

mod experiment;
mod matches;
mod rollout;

use std::{
    collections::{HashMap, HashSet},
    fmt::Display,
    hash::Hash,
};

use crate::{
    bucket::BUCKETS,
    fault::Collector,
    layout::ARMS_MAX,
    model::{
        ApplyTo, Arm, Comparison, Design, Direction, Experiment, HORIZON_S_MAX, Id, Labels, Match, Parameters, Policy,
        Rule, Value, Words, Zone,
    },
    parameter::{Action, Kind, LIVE_MASK, PARAMETERS, Phase, Question},
};
pub use rollout::{CONTROLLED_SHARE_BP_MAX, rollout};

/// Characters of a description.
pub const DESCRIPTION_CHARS_MAX: usize = 1_000;
/// Characters of an owner.
pub const OWNER_CHARS_MAX: usize = 200;
/// Greatest priority.
pub const PRIORITY_MAX: u32 = 1_000_000;
/// Rules of one policy.
pub const POLICY_RULES_MAX: usize = 1_000;
/// Prefixes in one list.
pub const LIST_PREFIXES_MAX: usize = 10_000;
/// Port ranges in one list.
pub const LIST_PORTS_MAX: usize = 256;
/// Services in one list.
pub const LIST_SERVICES_MAX: usize = 64;
/// Zones in a map or a list, and regions.
pub const ZONES_MAX: usize = 255;
/// Longest handshake that can be asked for: ten minutes.
pub const HANDSHAKE_RTT_US_MAX: u32 = 600_000_000;
/// Labels of a node or a selection.
pub const LABELS_MAX: usize = 64;
/// Characters of a label's key or value, and of a salt.
pub const LABEL_CHARS_MAX: usize = 63;
/// What is shown of a text that will not do.
const SHOWN_CHARS_MAX: usize = 80;
/// Characters of a node's id.
pub const NODE_ID_CHARS_MAX: usize = 63;

/// Checks a policy; the collector stands at it.
pub fn policy(policy: &Policy, faults: &mut Collector) {
    let Policy { description, priority, node_labels, rules } = policy;
    faults.field("description", |faults| self::description(description, faults));
    place(*priority, node_labels, faults);
    if rules.is_empty() || rules.len() > POLICY_RULES_MAX {
        faults.add_at("rules", format!("has {} rules; write 1 to {POLICY_RULES_MAX}", rules.len()));
    }
    distinct("rules", rules.iter().map(|rule| &rule.name), faults);
    faults.each("rules", rules, |faults, rule| {
        let Rule { name: _, matches, set, if_unsupported: _, apply_to } = rule;
        faults.field("match", |faults| matches::check(matches, faults));
        faults.field("set", |faults| parameters(set, matches, faults));
        if *apply_to == ApplyTo::NewAndEstablished {
            established(set, matches, faults);
        }
    });
}

/// Checks an experiment; the collector stands at it.
pub fn experiment(experiment: &Experiment, faults: &mut Collector) {
    let Experiment { words: Words { description, owner, duration_s: _ }, design } = experiment;
    faults.field("description", |faults| self::description(description, faults));
    if owner.chars().count() > OWNER_CHARS_MAX {
        faults.add_at("owner", format!("is longer than {OWNER_CHARS_MAX} characters; shorten it"));
    }
    if owner.chars().any(char::is_control) {
        faults.add_at("owner", "has control characters; remove them");
    }
    self::design(design, faults);
}

/// Checks an experiment's design; the collector stands at the experiment.
pub fn design(design: &Design, faults: &mut Collector) {
    let Design { priority, node_labels, comparison } = design;
    place(*priority, node_labels, faults);
    self::comparison(comparison, faults);
}

/// Checks what an experiment compares; the collector stands at the experiment.
pub fn comparison(comparison: &Comparison, faults: &mut Collector) {
    let Comparison { matches, unit, salt, arms, if_unsupported: _, measures, horizon_s, withholds } = comparison;
    faults.field("match", |faults| matches::check(matches, faults));
    if salt.chars().count() > LABEL_CHARS_MAX + 1 {
        faults.add_at("salt", format!("is longer than {} characters; shorten it", LABEL_CHARS_MAX + 1));
    }
    if !(2..=ARMS_MAX).contains(&arms.len()) {
        faults.add_at("arms", format!("has {} arms; write 2 to {ARMS_MAX}", arms.len()));
    }
    distinct("arms", arms.iter().map(|arm| &arm.name), faults);
    faults.each("arms", arms, |faults, arm| faults.field("set", |faults| parameters(&arm.set, matches, faults)));
    buckets(arms, faults);
    experiment::unit(*unit, arms, *horizon_s, faults);
    experiment::measures(measures, faults);
    experiment::holdback(withholds.as_ref(), arms, faults);
    if !(1..=HORIZON_S_MAX).contains(horizon_s) {
        faults.add_at("horizon_s", format!("is {horizon_s}; write 1 to {HORIZON_S_MAX} seconds"));
    }
}

/// Checks that the arms own every bucket at most once. What is left belongs to nobody.
fn buckets(arms: &[Arm], faults: &mut Collector) {
    faults.each("arms", arms, |faults, arm| {
        if !(1..=BUCKETS).contains(&arm.weight_bp) {
            faults.add_at("weight_bp", format!("is {}; write 1 to {BUCKETS} basis points (100 are 1%)", arm.weight_bp));
        }
    });
    let sum: u64 = arms.iter().map(|arm| u64::from(arm.weight_bp)).sum();
    if sum > u64::from(BUCKETS) {
        faults.add_at("arms", format!("have {sum} basis points together; make them {BUCKETS} at most"));
    }
    let mut order: Vec<usize> = (0..arms.len()).collect();
    order.sort_by_key(|&index| arms[index].first_bucket);
    let mut free = 0_u64;
    for index in order {
        let arm = &arms[index];
        let end = u64::from(arm.first_bucket) + u64::from(arm.weight_bp);
        let field = format!("arms[{index}].first_bucket");
        if u64::from(arm.first_bucket) < free {
            faults.add_at(&field, format!("{} overlaps another arm; begin at {free}", arm.first_bucket));
        } else if end > u64::from(BUCKETS) && sum <= u64::from(BUCKETS) {
            faults.add_at(&field, format!("ends after bucket {}; move the arm down", BUCKETS - 1));
        }
        free = free.max(end);
    }
}

/// Checks what people say of something.
pub fn description(description: &str, faults: &mut Collector) {
    if description.chars().count() > DESCRIPTION_CHARS_MAX {
        faults.add(format!("is longer than {DESCRIPTION_CHARS_MAX} characters; shorten it"));
    }
}

/// Checks where a layer stands, and on which nodes.
fn place(priority: u32, node_labels: &Labels, faults: &mut Collector) {
    if priority > PRIORITY_MAX {
        faults.add_at("priority", format!("is {priority}; write at most {PRIORITY_MAX}"));
    }
    faults.field("node_labels", |faults| labels(node_labels, faults));
}

/// Checks labels; the collector stands at them.
pub fn labels(labels: &Labels, faults: &mut Collector) {
    if labels.len() > LABELS_MAX {
        faults.add(format!("has {} labels; write at most {LABELS_MAX}", labels.len()));
    }
    for (key, value) in labels {
        for why in [label_key(key), label_value(key, value)].into_iter().filter_map(Result::err) {
            faults.add(why);
        }
    }
}

/// Checks one label.
///
/// # Errors
/// The fault, with a remedy.
pub fn label(key: &str, value: &str) -> Result<(), String> {
    label_key(key)?;
    label_value(key, value)
}

/// What is said of a text that will not do: its beginning, for it may have megabytes.
#[must_use]
pub fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).collect::<String>().escape_debug().to_string()
}

fn label_key(key: &str) -> Result<(), String> {
    let sound = (1..=LABEL_CHARS_MAX).contains(&key.chars().count())
        && !key.chars().any(|c| c.is_control() || c.is_whitespace());
    let shown = shown(key);
    if sound {
        Ok(())
    } else {
        Err(format!("key \"{shown}\" must have 1 to {LABEL_CHARS_MAX} characters without spaces"))
    }
}

fn label_value(key: &str, value: &str) -> Result<(), String> {
    let sound = value.chars().count() <= LABEL_CHARS_MAX && !value.chars().any(char::is_control);
    let shown = shown(key);
    if sound {
        Ok(())
    } else {
        Err(format!("value of \"{shown}\" must have at most {LABEL_CHARS_MAX} printable characters"))
    }
}

/// Checks a node's id.
///
/// # Errors
/// The fault, with a remedy.
pub fn node_id(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let sound = (1..=NODE_ID_CHARS_MAX).contains(&text.len())
        && text.starts_with(plain)
        && text.chars().all(|c| plain(c) || c == '-' || c == '.');
    if sound {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "\"{}\" is no node id; use 1 to {NODE_ID_CHARS_MAX} characters of a-z, 0-9, '-' and '.', a letter or digit first",
            shown(text)
        ))
    }
}

fn distinct<'a, T: Display + Eq + Hash + 'a>(list: &str, names: impl Iterator<Item = &'a T>, faults: &mut Collector) {
    let mut seen = HashSet::new();
    for (index, name) in names.enumerate() {
        if !seen.insert(name) {
            faults.add_at(&format!("{list}[{index}].name"), format!("\"{name}\" stands here twice; names must differ"));
        }
    }
}

fn parameters(set: &Parameters, matches: &Match, faults: &mut Collector) {
    let direction = matches.direction;
    for (slot, value) in set.iter() {
        let Some(parameter) = PARAMETERS.get(slot) else { continue };
        faults.field(parameter.name, |faults| {
            if let Err(problem) = in_range(parameter.kind, value) {
                faults.add(problem);
            }
            if matches.asks_handshake() && !acts_when_established(parameter.action, direction) {
                faults.add(
                    "is set before the handshake's time is known; remove it, or the handshake's time from the match",
                );
            }
            if let Some(only) = only_direction(parameter.action)
                && direction.is_some_and(|direction| direction != only)
            {
                let (only, other) = match only {
                    Direction::Active => ("active", "passive"),
                    Direction::Passive => ("passive", "active"),
                };
                faults.add(format!(
                    "acts on {only} connections, but the match asks for {other} ones; remove one of the two"
                ));
            }
        });
    }
}

/// Checks what a rule for open connections may ask for and set; the collector stands at the rule.
fn established(set: &Parameters, matches: &Match, faults: &mut Collector) {
    if matches.asks_handshake() {
        let problem = "is NEW_AND_ESTABLISHED, but how long the handshake of an open connection took is not known; \
                       remove it, or the handshake's time from the match";
        faults.add_at("apply_to", problem);
    }
    for (slot, _) in set.iter().filter(|(slot, _)| LIVE_MASK & 1 << slot == 0) {
        let Some(parameter) = PARAMETERS.get(slot) else { continue };
        let problem = "cannot be changed and restored while a connection is open; set it in a policy of its own, or \
                       write apply_to: NEW";
        faults.add_at(&format!("set.{}", parameter.name), problem);
    }
}

/// The only direction in which a parameter acts, if it is but one.
#[must_use]
pub fn only_direction(action: Action) -> Option<Direction> {
    match action {
        Action::Reply(Question::SynTimeout) => Some(Direction::Active),
        Action::Reply(Question::SynAckTimeout) | Action::ReflectTrafficClass => Some(Direction::Passive),
        Action::Reply(Question::ReceiveWindow | Question::Ecn | Question::BaseRtt) => None,
        Action::Option { phases, .. } => {
            let passive = phases & Phase::PassiveEstablished as u8 != 0;
            let active = phases & (Phase::Connect as u8 | Phase::ActiveEstablished as u8) != 0;
            match (active, passive) {
                (true, false) => Some(Direction::Active),
                (false, true) => Some(Direction::Passive),
                _ => None,
            }
        }
    }
}

/// Whether a parameter is set when a connection of this direction is established.
fn acts_when_established(action: Action, direction: Option<Direction>) -> bool {
    let Action::Option { phases, .. } = action else { return false };
    let in_phase = |phase: Phase| phases & phase as u8 != 0;
    (direction == Some(Direction::Passive) || in_phase(Phase::ActiveEstablished))
        && (direction == Some(Direction::Active) || in_phase(Phase::PassiveEstablished))
}

/// Checks a zone map; the collector stands at it.
pub fn zones(zones: &[Zone], faults: &mut Collector) {
    if zones.len() > ZONES_MAX {
        faults.add_at("zones", format!("has {} zones; write at most {ZONES_MAX}", zones.len()));
    }
    let prefixes: usize = zones.iter().map(|zone| zone.prefixes.len()).sum();
    if prefixes > LIST_PREFIXES_MAX {
        faults.add_at("zones", format!("have {prefixes} prefixes together; write at most {LIST_PREFIXES_MAX}"));
    }
    distinct("zones", zones.iter().map(|zone| &zone.name), faults);
    let mut seen = HashMap::new();
    faults.each("zones", zones, |faults, zone| {
        for (index, prefix) in zone.prefixes.iter().enumerate() {
            if let Some(other) = seen.insert(*prefix, &zone.name) {
                faults
                    .add_at(&format!("prefixes[{index}]"), format!("{prefix} stands in zone {other} too; remove one"));
            }
        }
    });
}

/// Whether a value is one that the parameter can have.
///
/// # Errors
/// The problem and the remedy.
pub fn in_range(kind: Kind, value: &Value) -> Result<(), String> {
    match (kind, value) {
        (Kind::Number { unit, min, max }, Value::Number(number)) if !(min..=max).contains(number) => {
            Err(format!("is {number}; write {min} to {max} {unit}"))
        }
        (Kind::On, Value::Number(0)) => Err("can only be turned on; write true or leave it out".to_owned()),
        (Kind::Name, Value::Name(name)) if !is_kernel_name(name) => {
            Err(format!("\"{}\" is no name; write 1 to 15 characters of a-z, 0-9, '-' and '_'", shown(name)))
        }
        (Kind::Number { .. } | Kind::On | Kind::Switch, Value::Number(_)) | (Kind::Name, Value::Name(_)) => Ok(()),
        (Kind::Number { .. } | Kind::On | Kind::Switch, Value::Name(_)) => Err("must be a number".to_owned()),
        (Kind::Name, Value::Number(_)) => Err("must be a name".to_owned()),
    }
}

/// A name as the kernel gives to congestion controls (`TCP_CA_NAME_MAX` is 16 with the terminating zero).
fn is_kernel_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
}

/// Reads an id, noting a fault at `name` if there is one.
pub fn id(text: &str, faults: &mut Collector) -> Option<Id> {
    faults.field("name", |faults| faults.take(text.parse()))
}
