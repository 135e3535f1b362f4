//! Where a rollout is.

use sockpilot_proto::v1;

use crate::plan::{Place, Plan};

/// What a rollout is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Made, not started.
    Draft,
    /// On its way.
    Running,
    /// Held by a person, or by a step that was not decided in time.
    Paused,
    /// Nodes are given what everyone had before.
    RollingBack,
    /// Everyone has the revision.
    Completed,
    /// Everyone has what they had before.
    RolledBack,
    /// Something else took its place.
    Superseded,
    /// Some connected node did not go back in time.
    RollbackFailed,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Draft,
        Self::Running,
        Self::Paused,
        Self::RollingBack,
        Self::Completed,
        Self::RolledBack,
        Self::Superseded,
        Self::RollbackFailed,
    ];

    /// Whether it goes on by itself, or waits for somebody.
    #[must_use]
    pub fn is_active(self) -> bool {
        matches!(self, Self::Draft | Self::Running | Self::Paused | Self::RollingBack)
    }

    /// As it stands on the wire.
    #[must_use]
    pub fn to_proto(self) -> v1::RolloutState {
        match self {
            Self::Draft => v1::RolloutState::Draft,
            Self::Running => v1::RolloutState::Running,
            Self::Paused => v1::RolloutState::Paused,
            Self::RollingBack => v1::RolloutState::RollingBack,
            Self::Completed => v1::RolloutState::Completed,
            Self::RolledBack => v1::RolloutState::RolledBack,
            Self::Superseded => v1::RolloutState::Superseded,
            Self::RollbackFailed => v1::RolloutState::RollbackFailed,
        }
    }

    /// In words.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Draft => "a draft",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::RollingBack => "rolling back",
            Self::Completed => "completed",
            Self::RolledBack => "rolled back",
            Self::Superseded => "superseded",
            Self::RollbackFailed => "not rolled back everywhere",
        }
    }
}

/// What it is doing with the present step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing yet.
    Applying,
    /// Its nodes are getting it.
    Converging,
    /// Time and connections are awaited.
    Baking,
    /// The gates are awaited.
    Judging,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Applying, Self::Converging, Self::Baking, Self::Judging];

    /// As it stands on the wire.
    #[must_use]
    pub fn to_proto(self) -> v1::RolloutPhase {
        match self {
            Self::Applying => v1::RolloutPhase::Applying,
            Self::Converging => v1::RolloutPhase::Converging,
            Self::Baking => v1::RolloutPhase::Baking,
            Self::Judging => v1::RolloutPhase::Judging,
        }
    }
}

/// What somebody has asked to go over in the present step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promoted {
    /// Nothing.
    No,
    /// The bake time and the number of connections, not the gates.
    Wait,
    /// The gates, too.
    Gates,
}

/// All that a rollout remembers. Times are seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// What it is doing.
    pub state: State,
    /// In which step of which wave.
    pub place: Place,
    /// With that step.
    pub phase: Phase,
    /// Since when it is in this state and phase.
    pub state_s: i64,
    /// Since when the present step is tried, for its deadline.
    pub step_s: i64,
    /// Since when the step is in force on its nodes.
    pub in_force_s: Option<i64>,
    /// In the present step.
    pub promoted: Promoted,
    /// Goes back unless it is confirmed by then; `None`: it is, or needs not be.
    pub confirm_by_s: Option<i64>,
}

/// How long nodes have to go back, in seconds.
pub const ROLLBACK_S: i64 = 600;

impl Machine {
    /// A new one, not started.
    #[must_use]
    pub fn draft(plan: &Plan, now_s: i64) -> Self {
        Self {
            state: State::Draft,
            place: plan.first(),
            phase: Phase::Applying,
            state_s: now_s,
            step_s: now_s,
            in_force_s: None,
            promoted: Promoted::No,
            confirm_by_s: None,
        }
    }

    /// When it leaves its state by itself at the latest; `None`: it is over.
    #[must_use]
    pub fn deadline_s(&self, plan: &Plan) -> Option<i64> {
        let step_s = self.step_s + plan.wave(self.place).deadline_s;
        let own_s = match (self.state, self.phase) {
            (State::Draft | State::Paused, _) | (State::Running, Phase::Applying) => {
                self.state_s + plan.decision_deadline_s
            }
            (State::Running, Phase::Converging | Phase::Judging) => step_s,
            (State::Running, Phase::Baking) => {
                let baked_s = self.in_force_s.unwrap_or(self.state_s) + plan.wave(self.place).bake_s;
                step_s.max(baked_s)
            }
            (State::RollingBack, _) => self.state_s + ROLLBACK_S,
            (State::Completed | State::RolledBack | State::Superseded | State::RollbackFailed, _) => return None,
        };
        let confirm_s = self.confirm_by_s.filter(|_| matches!(self.state, State::Running | State::Paused));
        Some(confirm_s.map_or(own_s, |confirm_s| own_s.min(confirm_s)))
    }

    /// The same in another state, from now on.
    pub(crate) fn into_state(self, state: State, now_s: i64) -> Self {
        Self { state, state_s: now_s, ..self }
    }

    /// The same in another phase, from now on.
    pub(crate) fn into_phase(self, phase: Phase, now_s: i64) -> Self {
        Self { phase, state_s: now_s, ..self }
    }

    /// At the beginning of a step.
    pub(crate) fn at(self, place: Place, now_s: i64) -> Self {
        let (state, phase) = (State::Running, Phase::Applying);
        Self { state, phase, place, state_s: now_s, step_s: now_s, in_force_s: None, promoted: Promoted::No, ..self }
    }
}

/// What is to be done for a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    Nothing,
    /// Give the revision to the waves up to the present step.
    Assign,
    /// Give it to everyone.
    GiveEveryone,
    /// Give everyone what they had before, and nobody the revision.
    GoBack,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// What it is then.
    pub to: Machine,
    /// What is to be done in the same stroke.
    pub act: Act,
    /// Why, in words.
    pub reason: String,
}
