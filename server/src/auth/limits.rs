//! How much one caller may ask for: so many calls a second, and so many at once.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// Callers that are remembered; beyond it, those that ask for nothing at the moment are forgotten.
const CALLERS_MAX: usize = 50_000;

/// How much one caller may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Calls in a second, on average.
    pub per_s: NonZeroU32,
    /// Calls that may come one upon the other after a pause.
    pub burst: NonZeroU32,
    /// Calls that are not yet answered.
    pub at_once: u32,
}

impl Limit {
    /// As numbers; of a second and of a burst at least one.
    #[must_use]
    pub fn new(per_s: u32, burst: u32, at_once: u32) -> Self {
        let at_least_one = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        Self { per_s: at_least_one(per_s), burst: at_least_one(burst), at_once }
    }
}

/// The limits of callers by what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Each person or token.
    pub person: Limit,
    /// Each node, but for its reports.
    pub node: Limit,
    /// The reports of each node.
    pub reports: Limit,
    /// Each address from which somebody calls who is not known.
    pub unknown: Limit,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            person: Limit::new(50, 500, 64),
            node: Limit::new(20, 200, 8),
            // A daemon sends one after the other; after an outage many.
            reports: Limit::new(20, 200, 2),
            unknown: Limit::new(2, 20, 8),
        }
    }
}

#[derive(Debug)]
struct OfCaller {
    rate: DefaultDirectRateLimiter,
    open: AtomicU32,
}

/// Counts callers' calls.
#[derive(Debug, Default)]
pub struct Limiter {
    callers: Mutex<HashMap<String, Arc<OfCaller>>>,
}

/// A call that is under way; until it is dropped.
#[derive(Debug)]
pub struct Turn(Arc<OfCaller>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Which limit a caller is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtLimit {
    Rate,
    Concurrency,
}

impl AtLimit {
    /// For metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Concurrency => "concurrency",
        }
    }
}

impl Limiter {
    /// One more call of a caller.
    ///
    /// # Errors
    /// If it is one too many.
    pub fn enter(&self, caller: &str, limit: &Limit) -> Result<Turn, AtLimit> {
        let of_caller = self.of(caller, limit);
        if of_caller.rate.check().is_err() {
            return Err(AtLimit::Rate);
        }
        let turn = Turn(of_caller.clone());
        if of_caller.open.fetch_add(1, Ordering::AcqRel) >= limit.at_once {
            Err(AtLimit::Concurrency)
        } else {
            Ok(turn)
        }
    }

    fn of(&self, caller: &str, limit: &Limit) -> Arc<OfCaller> {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = callers.get(caller) {
            return known.clone();
        }
        if callers.len() >= CALLERS_MAX {
            callers.retain(|_, of_caller| Arc::strong_count(of_caller) > 1);
        }
        let quota = Quota::per_second(limit.per_s).allow_burst(limit.burst);
        let new = Arc::new(OfCaller { rate: RateLimiter::direct(quota), open: AtomicU32::new(0) });
        callers.insert(caller.to_owned(), new.clone());
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_bounded_and_others_are_not() {
        let (limiter, limit) = (Limiter::default(), Limit::new(1, 3, 2));
        let first = limiter.enter("a", &limit).expect("room");
        let _second = limiter.enter("a", &limit).expect("room");
        assert_eq!(limiter.enter("a", &limit).err(), Some(AtLimit::Concurrency));
        assert!(limiter.enter("b", &limit).is_ok());
        drop(first);
        assert_eq!(limiter.enter("a", &limit).err(), Some(AtLimit::Rate), "three came one upon the other");
    }
}
