//! The rule and choice tables, layer by layer, and what becomes of every value.

use super::{ChoiceName, Effective, Violation};
use crate::{
    bucket::{BUCKETS, WHOLE_FLOW, salt},
    effective::{Effect, Place, effect},
    facts::KernelFacts,
    fault::Fault,
    layout::{ARMS_MAX, ChoiceEntry, RuleEntry, STANDBY},
    model::{ApplyTo, Arm, Comparison, Id, IfUnsupported, Layer, LayerBody, Rule, Term, Unit},
    parameter::{LIVE_MASK, PARAMETERS},
    readings::{Encoded, Readings},
    unit,
};

/// Builds the rule and choice tables, layer by layer.
pub(super) struct Choices<'a> {
    facts: &'a KernelFacts,
    readings: &'a Readings,
    pub(super) rules: Vec<RuleEntry>,
    pub(super) entries: Vec<ChoiceEntry>,
    pub(super) meanings: Vec<ChoiceName>,
    pub(super) names: Vec<String>,
    pub(super) effective: Vec<Effective>,
    pub(super) with_caveats: Vec<Effective>,
    pub(super) refusals: Vec<Violation>,
}

impl<'a> Choices<'a> {
    pub(super) fn new(facts: &'a KernelFacts, readings: &'a Readings) -> Self {
        Self {
            facts,
            readings,
            rules: vec![],
            entries: vec![ChoiceEntry::default()],
            meanings: vec![],
            names: vec![],
            effective: vec![],
            with_caveats: vec![],
            refusals: vec![],
        }
    }

    pub(super) fn layer(&mut self, index: usize, layer: &Layer) {
        let first = self.rules.len();
        let lease_ns = match layer.term {
            Term::Always => 0,
            Term::WhileInContact { lease_ms } => u64::from(lease_ms) * 1_000_000,
            Term::AfterSilence { lease_ms } => STANDBY | (u64::from(lease_ms) * 1_000_000),
        };
        let general = RuleEntry {
            lease_ns,
            ends_ns: layer.ends_s.map_or(0, |ends_s| ends_s.saturating_mul(1_000_000_000).max(1)),
            key: WHOLE_FLOW,
            layer: 1_u64.checked_shl(index as u32).unwrap_or(0),
            ..RuleEntry::default()
        };
        match &layer.body {
            LayerBody::Policy(rules) => {
                for (position, rule) in rules.iter().enumerate() {
                    let Rule { name, matches, set, if_unsupported, apply_to } = rule;
                    let field = format!("rules[{position}].set");
                    let place = Place { set, direction: matches.direction };
                    let first_choice = self.choice(index, layer, name, &field, &place, *if_unsupported);
                    if *apply_to == ApplyTo::NewAndEstablished {
                        self.live(index, layer, &format!("rules[{position}].apply_to"), *if_unsupported);
                    }
                    let (arm_starts, arm_ends) = ([BUCKETS as u16; ARMS_MAX], [BUCKETS as u16; ARMS_MAX]);
                    self.rules.push(RuleEntry { first_choice, arms: 1, arm_starts, arm_ends, ..general });
                }
            }
            LayerBody::Experiment(comparison) => {
                let Comparison { matches, unit, salt: text, arms, if_unsupported, .. } = &**comparison;
                let first_choice = self.entries.len() as u16;
                let (mut arm_starts, mut arm_ends) = ([BUCKETS as u16; ARMS_MAX], [BUCKETS as u16; ARMS_MAX]);
                for (position, arm) in arms.iter().enumerate() {
                    let Arm { name, first_bucket, weight_bp, set, withholds: _ } = arm;
                    if let (Some(start), Some(end)) = (arm_starts.get_mut(position), arm_ends.get_mut(position)) {
                        *start = (*first_bucket).min(BUCKETS) as u16;
                        *end = (first_bucket + weight_bp).min(BUCKETS) as u16;
                    }
                    let place = Place { set, direction: matches.direction };
                    self.choice(index, layer, name, &format!("arms[{position}].set"), &place, *if_unsupported);
                }
                let slot_ns = match unit {
                    Unit::TimeSlot { slot_s, .. } => u64::from(*slot_s) * 1_000_000_000,
                    _ => 0,
                };
                let (arms, salt, key) = (arms.len() as u16, salt(text), unit::key(*unit));
                self.rules.push(RuleEntry { first_choice, arms, salt, key, slot_ns, arm_starts, arm_ends, ..general });
            }
        }
        let layer_end = self.rules.len() as u32;
        self.rules[first..].iter_mut().for_each(|rule| rule.layer_end = layer_end);
    }

    /// Has arms pass over the layers of the policy that they withhold: the canary, and what stands by for it.
    pub(super) fn withhold(&mut self, layers: &[Layer]) {
        let mut first = 0_usize;
        for (index, layer) in layers.iter().enumerate() {
            let Some(entry) = self.rules.get_mut(first) else { return };
            first = entry.layer_end as usize;
            let LayerBody::Experiment(comparison) = &layer.body else { continue };
            let Some(policy) = &comparison.withholds else { continue };
            let of_policy = |(at, other): (usize, &Layer)| (at > index && other.name == *policy).then_some(at);
            let later = layers.iter().enumerate().filter_map(of_policy);
            entry.withholds = later.fold(0, |all, at| all | 1_u64.checked_shl(at as u32).unwrap_or(0));
            let arms = comparison.arms.iter().enumerate().filter(|(_, arm)| arm.withholds);
            entry.withholding = arms.fold(0, |all, (at, _)| all | 2_u64 << at);
        }
    }

    fn choice(
        &mut self,
        index: usize,
        layer: &Layer,
        name: &Id,
        path: &str,
        place: &Place<'_>,
        if_unsupported: IfUnsupported,
    ) -> u16 {
        let mut entry = ChoiceEntry::default();
        for (slot, value) in place.set.iter() {
            let Some(parameter) = PARAMETERS.get(slot) else { continue };
            let field = format!("{path}.{}", parameter.name);
            let (name, requested) = (layer.name.clone(), value.to_string());
            match effect(parameter, value, place, self.facts, |encoded| self.readings.get(slot, encoded)) {
                Ok(Effect { encoded, effective, note, caveats }) => {
                    entry.parameters |= 1 << slot;
                    entry.values[slot] = match encoded {
                        Encoded::Number(number) => number,
                        Encoded::Name(name) => self.name(name),
                    };
                    let changed = effective != requested;
                    let is_plain = !changed && caveats.is_empty();
                    let of_value = Effective { layer: name, field, requested, effective, note, caveats };
                    if changed {
                        self.effective.push(of_value);
                    } else if !is_plain {
                        self.with_caveats.push(of_value);
                    }
                }
                Err(note) if if_unsupported == IfUnsupported::Skip => {
                    let (effective, caveats) = ("skipped".to_owned(), vec![]);
                    self.effective.push(Effective { layer: name, field, requested, effective, note, caveats });
                }
                Err(description) => {
                    self.refusals.push(Violation { layer: Some(index), fault: Fault { field, description } });
                }
            }
        }
        self.entries.push(entry);
        self.meanings.push(ChoiceName { layer: index, name: name.clone() });
        (self.entries.len() - 1) as u16
    }

    /// Has the newest choice apply to open connections too.
    fn live(&mut self, index: usize, layer: &Layer, field: &str, if_unsupported: IfUnsupported) {
        let Some(entry) = self.entries.last_mut() else { return };
        let (layer, field) = (layer.name.clone(), field.to_owned());
        match (self.facts.changes_open_connections(), if_unsupported) {
            (Ok(()), _) => entry.live = entry.parameters & LIVE_MASK,
            (Err(note), IfUnsupported::Skip) => {
                let (requested, effective) = ("NEW_AND_ESTABLISHED".to_owned(), "NEW".to_owned());
                self.effective.push(Effective { layer, field, requested, effective, note, caveats: vec![] });
            }
            (Err(description), IfUnsupported::Reject) => {
                self.refusals.push(Violation { layer: Some(index), fault: Fault { field, description } });
            }
        }
    }

    fn name(&mut self, name: String) -> u32 {
        let position = self.names.iter().position(|known| *known == name).unwrap_or_else(|| {
            self.names.push(name);
            self.names.len() - 1
        });
        position as u32
    }
}
