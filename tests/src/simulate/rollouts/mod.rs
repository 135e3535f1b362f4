//! Rollouts of revisions whose truth is known, through a careful plan: how often one that does no harm is rolled back by mistake, how many
//! arrive, and how soon harm is stopped.

mod connections;
mod fleet;
mod walk;

use sockpilot_judge::gates::{DEFAULT_GATES, Metric, metric::Form};
use sockpilot_rollout::machine::State;

use self::{
    connections::Harm,
    walk::{Ended, Plan, Walk},
};

/// What became of rollouts, as shares of all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcomes {
    /// Rolled back by a gate.
    pub rolled_back: f64,
    /// Not decided by a deadline, and paused.
    pub paused: f64,
    /// Everywhere.
    pub completed: f64,
    /// Passed the first step.
    pub passed_first_step: f64,
    /// Came into the second wave.
    pub reached_second_wave: f64,
    /// How long it took in the middle, in seconds.
    pub median_s: f64,
}

/// Of a revision that is as good as the one before.
#[must_use]
pub fn harmless(plan: &str, runs: u64) -> Outcomes {
    let plan = Plan::named(plan);
    let pools = plan.pools(Harm::None);
    outcomes(runs, |run| Walk::new(&plan, &pools, &pools, 0x600d_0000 + run).end())
}

/// Of one that does harm of so many margins by one of the gates, each in turn.
#[must_use]
pub fn harmful(plan: &str, runs: u64, margins: f64) -> Outcomes {
    let plan = Plan::named(plan);
    let pools = plan.pools(Harm::None);
    let harmed = DEFAULT_GATES.map(|name| plan.pools(harm(name, margins)));
    outcomes(runs, |run| {
        let harmed = &harmed[run as usize % harmed.len()];
        Walk::new(&plan, &pools, harmed, 0xbad_0000 + run).end()
    })
}

fn harm(name: &str, margins: f64) -> Harm {
    let metric = Metric::named(name).expect("a metric");
    let by = margins * f64::from(metric.margin_bp) / 10_000.0;
    match metric.form {
        // What is sent again is sent, too.
        Form::Per(_) => Harm::More(metric.quantity, by / (1.0 - by)),
        Form::Share => Harm::More(metric.quantity, by),
        Form::Time => Harm::Times(metric.quantity, 1.0 + by),
    }
}

/// Each run has a seed of its own, so it does not matter which thread walks it.
fn outcomes(runs: u64, run: impl Fn(u64) -> Ended + Sync) -> Outcomes {
    let of = |from: u64, to: u64| (from..to).map(&run).collect::<Vec<_>>();
    let mut ended = std::thread::scope(|scope| {
        let other = scope.spawn(|| of(runs / 2, runs));
        let mut all = of(0, runs / 2);
        all.extend(other.join().expect("a simulation does not panic"));
        all
    });
    ended.sort_by_key(|ended| ended.after_s);
    let share = |is: fn(&Ended) -> bool| ended.iter().filter(|ended| is(ended)).count() as f64 / runs as f64;
    Outcomes {
        rolled_back: share(|ended| ended.state == State::RollingBack),
        paused: share(|ended| ended.state == State::Paused),
        completed: share(|ended| ended.state == State::Completed),
        passed_first_step: share(|ended| ended.place.wave > 1 || ended.place.step > 1),
        reached_second_wave: share(|ended| ended.place.wave > 1),
        median_s: ended.get(ended.len() / 2).map_or(f64::NAN, |ended| ended.after_s as f64),
    }
}
