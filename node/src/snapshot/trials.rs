//! Trying out the values of a snapshot before it is compiled, and remembering what came of them.

use std::collections::{BTreeMap, BTreeSet};

use sockpilot_policy::{
    facts::{KernelFacts, computed, values_to_try},
    model::Snapshot,
    parameter::{Action, PARAMETERS},
    readings::{Encoded, Errno, Reading, Readings, Trial},
};

use crate::kernel::{Family, KernelError, TrialSocket};

/// Values that are remembered. Of a snapshot with more, what comes out of the rest is computed.
pub const TRIED_MAX: usize = 4_096;

/// Refusals that say nothing about the value: out of memory, busy, try again.
const PASSING: [Errno; 3] = [Errno(12), Errno(16), Errno(11)];

/// What came of values so far. Pure.
#[derive(Debug, Default)]
pub struct Memory {
    /// Under which they were tried: with others, others may come out.
    facts: Option<KernelFacts>,
    /// Nothing stands for what the kernel set but did not give back.
    tried: BTreeMap<Trial, Option<Reading>>,
    /// Parameters, as a mask over the slots, of which it was logged that this kernel does not do as computed.
    reported: u64,
}

/// What this kernel makes of a value, other than computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surprise {
    /// The parameter's name.
    pub parameter: &'static str,
    /// What was set.
    pub set: Encoded,
    /// What should have been given back.
    pub computed: Encoded,
    /// What was.
    pub read: Encoded,
}

impl Memory {
    /// What of these is still to be tried under these facts, by slot, and how many there is no room for.
    pub fn missing(&mut self, wanted: &BTreeSet<Trial>, facts: &KernelFacts) -> (BTreeMap<usize, Vec<Encoded>>, usize) {
        if self.facts.as_ref() != Some(facts) {
            self.tried.clear();
            self.facts = Some(facts.clone());
        }
        let is_new = |trial: &&Trial| !self.tried.contains_key(*trial);
        let all: Vec<Trial> = wanted.iter().filter(is_new).cloned().collect();
        if self.tried.len() + all.len() > TRIED_MAX {
            self.tried.retain(|trial, _| wanted.contains(trial));
        }
        let room = TRIED_MAX - self.tried.len();
        let left_out = all.len().saturating_sub(room);
        let mut missing: BTreeMap<usize, Vec<Encoded>> = BTreeMap::new();
        for (slot, value) in all.into_iter().take(room) {
            missing.entry(slot).or_default().push(value);
        }
        (missing, left_out)
    }

    /// Notes what came of a value. Returns what to log about it, once for each parameter.
    pub fn note(&mut self, trial: Trial, reading: Option<Reading>) -> Option<Surprise> {
        if let Some(Reading::Refused(errno)) = &reading
            && PASSING.contains(errno)
        {
            return None;
        }
        let surprise = self.surprise(&trial, reading.as_ref());
        self.reported |= u64::from(surprise.is_some()) << trial.0;
        self.tried.insert(trial, reading);
        surprise
    }

    fn surprise(&self, (slot, set): &Trial, reading: Option<&Reading>) -> Option<Surprise> {
        let (parameter, facts) = (PARAMETERS.get(*slot)?, self.facts.as_ref()?);
        let Some(Reading::Read(read)) = reading else { return None };
        let computed = computed(parameter, set, facts);
        let new = *read != computed && self.reported >> slot & 1 == 0;
        new.then(|| Surprise { parameter: parameter.name, set: set.clone(), computed, read: read.clone() })
    }

    /// What is known of these.
    #[must_use]
    pub fn readings(&self, wanted: &BTreeSet<Trial>) -> Readings {
        wanted.iter().filter_map(|trial| Some((trial.clone(), self.tried.get(trial)?.clone()?))).collect()
    }
}

/// What counts for connections of both families: a refusal, else what differs more from the value, else either.
#[must_use]
pub fn of_both(value: &Encoded, ipv4: Option<Reading>, ipv6: Option<Reading>) -> Option<Reading> {
    let as_asked = Reading::Read(value.clone());
    match (ipv4, ipv6) {
        (Some(Reading::Refused(errno)), _) | (_, Some(Reading::Refused(errno))) => Some(Reading::Refused(errno)),
        (None, either) | (either, None) => either,
        (Some(ipv4), Some(ipv6)) => Some(if ipv4 == as_asked { ipv6 } else { ipv4 }),
    }
}

/// Tries values where that is possible.
#[derive(Debug, Default)]
pub struct Trials {
    socket: Option<TrialSocket>,
    memory: Memory,
    /// Logged already; it would be logged with every snapshot.
    in_trouble: bool,
}

impl Trials {
    /// On this socket. Without one nothing is tried.
    #[must_use]
    pub fn new(socket: TrialSocket) -> Self {
        Self { socket: Some(socket), ..Self::default() }
    }

    /// What the kernel makes of everything that a snapshot would set, as far as it can be tried. What cannot is computed: that
    /// must never keep a policy from being in force.
    pub fn readings(&mut self, snapshot: &Snapshot, facts: &KernelFacts) -> Readings {
        let Some(socket) = &self.socket else { return Readings::default() };
        let wanted = values_to_try(snapshot, facts);
        let (missing, left_out) = self.memory.missing(&wanted, facts);
        if left_out > 0 {
            tracing::warn!(left_out, "too many different values to try them all; what comes of the rest is computed");
        }
        for (slot, values) in missing {
            match try_values(socket, slot, &values) {
                Ok(readings) => {
                    for (value, reading) in values.into_iter().zip(readings) {
                        if let Some(surprise) = self.memory.note((slot, value), reading) {
                            let Surprise { parameter, set, computed, read } = surprise;
                            tracing::warn!(parameter, ?set, ?computed, ?read, "this kernel gives back another value");
                        }
                    }
                    self.in_trouble = false;
                }
                Err(error) => {
                    if !self.in_trouble {
                        let error = anyhow::Error::from(error);
                        tracing::warn!("cannot try values on a socket, so what comes of them is computed: {error:#}");
                    }
                    self.in_trouble = true;
                    break;
                }
            }
        }
        self.memory.readings(&wanted)
    }
}

fn try_values(socket: &TrialSocket, slot: usize, values: &[Encoded]) -> Result<Vec<Option<Reading>>, KernelError> {
    let readings = socket.try_values(Family::Ipv4, slot, values)?;
    let Some(Action::Option { ipv6: Some(_), .. }) = PARAMETERS.get(slot).map(|parameter| parameter.action) else {
        return Ok(readings);
    };
    // A node may be without IPv6.
    let Ok(others) = socket.try_values(Family::Ipv6, slot, values) else { return Ok(readings) };
    let both = readings.into_iter().zip(others).zip(values);
    Ok(both.map(|((ipv4, ipv6), value)| of_both(value, ipv4, ipv6)).collect())
}

#[cfg(test)]
mod tests;
