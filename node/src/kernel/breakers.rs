//! The circuit breakers of the kernel program: which of them counts for which canary, and which have acted.
//!
//! One goes on counting for its rollout, revision and share through all snapshots that have these, and through restarts of the daemon. One
//! that has acted keeps the canary ended, whatever its share, until no table in force has this revision of this rollout.

use std::collections::HashSet;

use sockpilot_policy::{
    bucket::salt,
    compile::BreakerOf,
    layout::{BREAKERS_MAX, Breaker, TICKET_MAX, breaker_mark},
};

use super::{KernelError, pins::Maps};

/// When a breaker has acted that another daemon, or another share of the canary, had.
const LONG_AGO_NS: u64 = 1;

/// What a breaker has counted, and whether it has acted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// Whose.
    pub of: BreakerOf,
    /// Bad ends of connections in the canary and in its control, up to now or until it acted.
    pub canary_bad_ends: u64,
    /// See above.
    pub control_bad_ends: u64,
    /// It has ended the canary.
    pub tripped: bool,
    /// When, by the fleet's time, in nanoseconds since 1970; `None`: not known.
    pub trip_ns: Option<u64>,
}

/// A breaker that tables refer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Armed {
    of: BreakerOf,
    position: u32,
    ticket: u32,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Breakers {
    /// Of the tables in force; `None`: not known.
    in_force: Option<Vec<Armed>>,
    /// Rollouts and revisions of canaries that have been ended.
    ended: HashSet<u64>,
}

impl Breakers {
    pub(super) fn remember(&mut self, ended: impl Iterator<Item = (String, u64)>) {
        self.ended = ended.map(|(rollout, revision)| identity(&rollout, revision)).collect();
    }

    /// Finds a breaker for each that coming tables have. Those of the tables in force go on.
    pub(super) fn prepare(&self, wanted: &[BreakerOf], maps: &Maps) -> Result<Vec<Armed>, KernelError> {
        if wanted.is_empty() {
            return Ok(vec![]);
        }
        let (held, ended) = (self.held(maps)?, self.ended(maps)?);
        let used = self.in_force.as_ref().map(|armed| armed.iter().map(|armed| armed.position).collect());
        let armed = assign(&held, used.as_ref(), wanted).ok_or(KernelError::Breakers)?;
        for Armed { of, position, ticket } in &armed {
            let identity = identity(&of.rollout, of.revision);
            let before = held.get(*position as usize).copied().unwrap_or_default();
            if before.ticket != *ticket {
                let (ticket, threshold, share_bp) = (*ticket, of.threshold, of.share_bp);
                let fresh = Breaker { identity, ticket, threshold, share_bp, ..Breaker::default() };
                maps.breakers.set_checked(*position, &fresh)?;
                maps.trips.set_checked(*position, &0)?;
            }
            if ended.contains(&identity) && maps.trips.get(*position)? == 0 {
                maps.trips.set_checked(*position, &LONG_AGO_NS)?;
            }
        }
        Ok(armed)
    }

    /// The tables that have these are in force now: what others have counted is over.
    pub(super) fn in_force(&mut self, armed: Vec<Armed>, maps: &Maps) -> Result<(), KernelError> {
        if armed.is_empty() && self.in_force.as_ref().is_some_and(Vec::is_empty) {
            return Ok(());
        }
        // One may have acted while the tables were filled.
        let (ended, held) = (self.ended(maps)?, self.held(maps)?);
        let armed = &*self.in_force.insert(armed);
        for (position, held) in (0..).zip(held) {
            if !armed.iter().any(|armed| armed.position == position) && held.identity != 0 {
                maps.breakers.set(position, &Breaker { ticket: held.ticket, ..Breaker::default() })?;
            }
        }
        for Armed { of, position, .. } in armed {
            if ended.contains(&identity(&of.rollout, of.revision)) && maps.trips.get(*position)? == 0 {
                maps.trips.set(*position, &LONG_AGO_NS)?;
            }
        }
        Ok(())
    }

    /// The tables in force have these.
    pub(super) fn recognise(&mut self, wanted: &[BreakerOf], maps: &Maps) -> Result<(), KernelError> {
        let held = self.held(maps)?;
        let found = wanted.iter().filter_map(|of| {
            let position = held.iter().position(|held| counts_for(held, of))?;
            Some(Armed { of: of.clone(), position: position as u32, ticket: held[position].ticket })
        });
        self.in_force(found.collect(), maps)
    }

    /// What those in force have counted.
    pub(super) fn counted(&self, maps: &Maps) -> Result<Vec<Counted>, KernelError> {
        let Some(in_force) = self.in_force.as_ref().filter(|armed| !armed.is_empty()) else { return Ok(vec![]) };
        let ahead_ns = maps.active.get(0)?.clock_ahead_ns;
        let counted = in_force.iter().map(|Armed { of, position, .. }| {
            let trip_ns = maps.trips.get(*position)?;
            let Breaker { canary_bad_ends, control_bad_ends, .. } = maps.breakers.get(*position)?;
            let time_known = trip_ns > LONG_AGO_NS && ahead_ns != 0;
            Ok(Counted {
                of: of.clone(),
                canary_bad_ends,
                control_bad_ends,
                tripped: trip_ns != 0,
                trip_ns: time_known.then(|| trip_ns.wrapping_add(ahead_ns)),
            })
        });
        counted.collect()
    }

    fn held(&self, maps: &Maps) -> Result<Vec<Breaker>, KernelError> {
        (0..BREAKERS_MAX as u32).map(|position| maps.breakers.get(position)).collect()
    }

    /// Rollouts and revisions of canaries that have been ended, as far as the kernel knows too.
    fn ended(&self, maps: &Maps) -> Result<HashSet<u64>, KernelError> {
        let mut ended = self.ended.clone();
        for (position, held) in (0..).zip(self.held(maps)?) {
            if held.identity != 0 && maps.trips.get(position)? != 0 {
                ended.insert(held.identity);
            }
        }
        Ok(ended)
    }
}

/// The breaker for each of the wanted: the one that counts for it already, else a free one with a new ticket. `used` are the positions
/// that tables in force refer to; `None`: it may be any that is somebody's.
fn assign(held: &[Breaker], used: Option<&HashSet<u32>>, wanted: &[BreakerOf]) -> Option<Vec<Armed>> {
    let mut ticket = held.iter().map(|breaker| breaker.ticket).max().unwrap_or_default();
    let mut taken = HashSet::new();
    let known: Vec<_> =
        wanted.iter().map(|of| held.iter().position(|held| counts_for(held, of)).map(|at| at as u32)).collect();
    taken.extend(known.iter().flatten().copied());
    let is_used = |position: u32, held: &Breaker| used.map_or(held.identity != 0, |used| used.contains(&position));
    let mut free = (0..).zip(held).filter(|(position, held)| !is_used(*position, held)).map(|(position, _)| position);
    let armed = wanted.iter().zip(known).map(|(of, known)| {
        let of = of.clone();
        if let Some(position) = known {
            return Some(Armed { of, position, ticket: held.get(position as usize)?.ticket });
        }
        let position = free.find(|position| !taken.contains(position))?;
        // Tickets begin again after 16 million canaries; 0 is none.
        ticket = ticket % TICKET_MAX + 1;
        Some(Armed { of, position, ticket })
    });
    armed.collect()
}

fn counts_for(held: &Breaker, of: &BreakerOf) -> bool {
    held.identity == identity(&of.rollout, of.revision)
        && held.share_bp == of.share_bp
        && held.threshold == of.threshold
}

fn identity(rollout: &str, revision: u64) -> u64 {
    // Never 0, which is nobody's.
    salt(&format!("{rollout}@{revision}")) | 1
}

/// What a rule says of its breaker, in the kernel's tables.
pub(super) fn of_rule(armed: &[Armed], compiled: u16) -> u16 {
    of(armed, u32::from(compiled)).map_or(0, |armed| armed.position as u16 + 1)
}

/// What a choice says of its breaker, in the kernel's tables.
pub(super) fn of_choice(armed: &[Armed], compiled: u32) -> u32 {
    let counting = of(armed, compiled >> 1).filter(|armed| armed.of.threshold > 0);
    counting.map_or(0, |armed| breaker_mark(armed.ticket, armed.position, compiled & 1 != 0))
}

fn of(armed: &[Armed], number: u32) -> Option<&Armed> {
    armed.get((number as usize).checked_sub(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(revision: u64, share_bp: u32) -> BreakerOf {
        let layer = "policies/web".parse().expect("a name");
        BreakerOf { layer, rollout: "rollouts/a".to_owned(), revision, share_bp, threshold: 8_199 }
    }

    fn counting(of: &BreakerOf, ticket: u32) -> Breaker {
        let BreakerOf { share_bp, threshold, .. } = *of;
        Breaker { identity: identity(&of.rollout, of.revision), ticket, share_bp, threshold, ..Breaker::default() }
    }

    fn places(armed: Option<Vec<Armed>>) -> Vec<(u32, u32)> {
        armed.expect("there is room").iter().map(|armed| (armed.position, armed.ticket)).collect()
    }

    #[test]
    fn what_counts_goes_on_and_what_is_new_takes_a_free_place_and_a_new_ticket() {
        let (old, new) = (of(2, 500), of(2, 1_000));
        let left_over = Breaker { ticket: 9, ..Breaker::default() };
        let held = [counting(&old, 8), counting(&of(7, 1), 3), left_over];
        let used = HashSet::from([0, 1]);
        assert_eq!(places(assign(&held, Some(&used), std::slice::from_ref(&old))), [(0, 8)]);
        assert_eq!(places(assign(&held, Some(&used), std::slice::from_ref(&new))), [(2, 10)]);
        assert_eq!(places(assign(&held, None, &[new.clone(), old])), [(2, 10), (0, 8)]);
        // Whoever filled the second place never came into force.
        assert_eq!(places(assign(&held, Some(&HashSet::from([0])), &[new.clone(), of(3, 1)])), [(1, 10), (2, 11)]);
        assert_eq!(assign(&held[..2], Some(&used), &[new]), None, "none is free");
    }

    #[test]
    fn tables_refer_to_where_it_is() {
        let armed = [Armed { of: of(2, 500), position: 5, ticket: 7 }];
        assert_eq!([0, 1].map(|compiled| of_rule(&armed, compiled)), [0, 6]);
        let marks = [0, 1 << 1, 1 << 1 | 1].map(|compiled| of_choice(&armed, compiled));
        assert_eq!(marks, [0, breaker_mark(7, 5, false), breaker_mark(7, 5, true)]);
        let latched = [Armed { of: BreakerOf { threshold: 0, ..of(2, 10_000) }, position: 5, ticket: 7 }];
        assert_eq!((of_rule(&latched, 1), of_choice(&latched, 1 << 1)), (6, 0));
    }
}
