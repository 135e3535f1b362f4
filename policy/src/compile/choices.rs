//! The rule and choice tables, layer by layer, and what becomes of every value.

use super::{BreakerOf, ChoiceName, Effective, Violation};
use crate::{
    breaker::threshold,
    bucket::{BUCKETS, WHOLE_FLOW, salt},
    effective::{Effect, Place, effect},
    facts::KernelFacts,
    fault::Fault,
    layout::{ARMS_MAX, ChoiceEntry, RuleEntry, STANDBY},
    model::{ApplyTo, Comparison, Group, Id, IfUnsupported, Layer, LayerBody, Portion, Rollout, Rule, Term, Unit},
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
    pub(super) breakers: Vec<BreakerOf>,
}

/// Arms of nobody.
const NO_ARMS: [u16; ARMS_MAX] = [BUCKETS as u16; ARMS_MAX];

/// An entry with these arms, by first bucket and number of buckets.
fn with_arms(mut entry: RuleEntry, arms: impl Iterator<Item = (u32, u32)>) -> RuleEntry {
    let bounds = entry.arm_starts.iter_mut().zip(&mut entry.arm_ends);
    for ((start, end), (first, weight)) in bounds.zip(arms) {
        (*start, *end) = (first.min(BUCKETS) as u16, (first + weight).min(BUCKETS) as u16);
    }
    entry
}

impl ChoiceName {
    fn of(layer: usize, name: &Id) -> Self {
        Self { layer, name: name.clone(), group: None, measured_only: false }
    }
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
            breakers: vec![],
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
            arm_starts: NO_ARMS,
            arm_ends: NO_ARMS,
            ..RuleEntry::default()
        };
        match &layer.body {
            LayerBody::Policy(rules) => self.policy(index, layer, rules, general),
            LayerBody::Experiment(comparison) => {
                let Comparison { matches, unit, salt: text, arms, if_unsupported, .. } = &**comparison;
                let first_choice = self.entries.len() as u16;
                let buckets = arms.iter().map(|arm| (arm.first_bucket, arm.weight_bp));
                for (position, arm) in arms.iter().enumerate() {
                    let place = Place { set: &arm.set, direction: matches.direction };
                    let entry = self.choice(index, layer, &format!("arms[{position}].set"), &place, *if_unsupported);
                    self.push(ChoiceName::of(index, &arm.name), entry);
                }
                let slot_ns = match unit {
                    Unit::TimeSlot { slot_s, .. } => u64::from(*slot_s) * 1_000_000_000,
                    _ => 0,
                };
                let (salt, key) = (salt(text), unit::key(*unit));
                let entry = RuleEntry { first_choice, by_bucket: 1, salt, key, slot_ns, ..general };
                self.rules.push(with_arms(entry, buckets));
            }
        }
        let layer_end = self.rules.len() as u16;
        self.rules[first..].iter_mut().for_each(|rule| rule.layer_end = layer_end);
    }

    fn policy(&mut self, index: usize, layer: &Layer, rules: &[Rule], general: RuleEntry) {
        let whole = [Portion::WHOLE];
        let (portions, others, breaker) = match &layer.rollout {
            Some(rollout) if !rollout.part.portions.is_empty() => {
                (&rollout.part.portions[..], &rollout.part.others[..], self.breaker(layer, rollout))
            }
            _ => (&whole[..], &[][..], 0),
        };
        let of_layer = RuleEntry {
            by_bucket: u16::from(!portions[0].is_whole()),
            salt: layer.rollout.as_ref().map_or(0, |rollout| salt(&rollout.salt)),
            // What everyone has is ended by nothing.
            breaker: if layer.term == Term::Always { 0 } else { breaker },
            ..general
        };
        let of_layer = with_arms(of_layer, portions.iter().map(|portion| (portion.first_bucket, portion.weight_bp)));
        for (position, Rule { name, matches, set, if_unsupported, apply_to }) in rules.iter().enumerate() {
            let field = format!("rules[{position}]");
            let place = Place { set, direction: matches.direction };
            let mut entry = self.choice(index, layer, &format!("{field}.set"), &place, *if_unsupported);
            if *apply_to == ApplyTo::NewAndEstablished {
                entry.live = self.live(index, layer, &entry, &format!("{field}.apply_to"), *if_unsupported);
            }
            self.portions((index, name), portions, &of_layer, entry, breaker);
        }
        for (name, _) in others {
            let nothing = portions.iter().map(|portion| Portion { sets: false, ..*portion }).collect::<Vec<_>>();
            self.portions((index, name), &nothing, &of_layer, ChoiceEntry::default(), breaker);
        }
    }

    /// One rule: a choice for each portion.
    fn portions(
        &mut self,
        (index, name): (usize, &Id),
        portions: &[Portion],
        of_layer: &RuleEntry,
        entry: ChoiceEntry,
        breaker: u16,
    ) {
        self.rules.push(RuleEntry { first_choice: self.entries.len() as u16, ..*of_layer });
        for Portion { group, sets, .. } in portions {
            let mark = match group {
                Some(Group::Canary) => u32::from(breaker) << 1,
                Some(Group::Control) => u32::from(breaker) << 1 | 1,
                _ => 0,
            };
            let entry = if *sets { entry } else { ChoiceEntry::default() };
            let meaning = ChoiceName { group: *group, measured_only: !sets, ..ChoiceName::of(index, name) };
            self.push(meaning, ChoiceEntry { breaker: mark, ..entry });
        }
    }

    /// One more than the position of the policy's breaker; 0: its layers have none.
    fn breaker(&mut self, layer: &Layer, rollout: &Rollout) -> u16 {
        let Rollout { revision, share_bp, breaker_ppm, unchanged, .. } = *rollout;
        let has_canary = layer.term != Term::Always || unchanged && (1..BUCKETS).contains(&share_bp);
        if !has_canary {
            return 0;
        }
        let threshold = if share_bp < BUCKETS { threshold(breaker_ppm) } else { 0 };
        let of = BreakerOf { layer: layer.name.clone(), rollout: rollout.resource(), revision, share_bp, threshold };
        let position = self.breakers.iter().position(|known| *known == of).unwrap_or_else(|| {
            self.breakers.push(of);
            self.breakers.len() - 1
        });
        position as u16 + 1
    }

    fn push(&mut self, meaning: ChoiceName, entry: ChoiceEntry) {
        self.entries.push(entry);
        self.meanings.push(meaning);
    }

    /// Has arms pass over the layers of the policy that they withhold: the canary, and what stands by for it.
    pub(super) fn withhold(&mut self, layers: &[Layer]) {
        let mut first = 0_usize;
        for (index, layer) in layers.iter().enumerate() {
            let Some(entry) = self.rules.get_mut(first) else { return };
            first = usize::from(entry.layer_end);
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
        path: &str,
        place: &Place<'_>,
        if_unsupported: IfUnsupported,
    ) -> ChoiceEntry {
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
        entry
    }

    /// What of a choice open connections get too.
    fn live(
        &mut self,
        index: usize,
        layer: &Layer,
        entry: &ChoiceEntry,
        field: &str,
        if_unsupported: IfUnsupported,
    ) -> u32 {
        let (layer, field) = (layer.name.clone(), field.to_owned());
        match (self.facts.changes_open_connections(), if_unsupported) {
            (Ok(()), _) => return (entry.parameters & LIVE_MASK) as u32,
            (Err(note), IfUnsupported::Skip) => {
                let (requested, effective) = ("NEW_AND_ESTABLISHED".to_owned(), "NEW".to_owned());
                self.effective.push(Effective { layer, field, requested, effective, note, caveats: vec![] });
            }
            (Err(description), IfUnsupported::Reject) => {
                self.refusals.push(Violation { layer: Some(index), fault: Fault { field, description } });
            }
        }
        0
    }

    fn name(&mut self, name: String) -> u32 {
        let position = self.names.iter().position(|known| *known == name).unwrap_or_else(|| {
            self.names.push(name);
            self.names.len() - 1
        });
        position as u32
    }
}
