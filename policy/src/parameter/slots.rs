//! Where parameters stand in the table, alone and as masks.

use super::{
    definition::{Action, Phase, Question},
    table::{
        PARAMETERS, SOL_TCP, TCP_KEEPCNT, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_RTO_MAX_MS, TCP_SYNCNT,
        TCP_THIN_LINEAR_TIMEOUTS, TCP_USER_TIMEOUT, TCP_WINDOW_CLAMP,
    },
};

/// The options to set in a phase, as a mask over the slots.
#[must_use]
pub const fn phase_mask(phase: Phase) -> u64 {
    let mut mask = 0;
    let mut slot = 0;
    while slot < PARAMETERS.len() {
        if let Action::Option { phases, .. } = PARAMETERS[slot].action
            && phases & phase as u8 != 0
        {
            mask |= 1 << slot;
        }
        slot += 1;
    }
    mask
}

/// The slot of `max_rto_ms`.
pub const RTO_MAX_SLOT: usize = option_slot(TCP_RTO_MAX_MS);
/// The slot of `user_timeout_ms`.
pub const USER_TIMEOUT_SLOT: usize = option_slot(TCP_USER_TIMEOUT);
/// The slot of `syn_retries`.
pub const SYN_RETRIES_SLOT: usize = option_slot(TCP_SYNCNT);
/// The slots of `keepalive_idle_s`, `keepalive_interval_s` and `keepalive_probes`.
pub const KEEPALIVE_SLOTS: [usize; 3] =
    [option_slot(TCP_KEEPIDLE), option_slot(TCP_KEEPINTVL), option_slot(TCP_KEEPCNT)];
/// The slot of `thin_linear_timeouts`.
pub const THIN_LINEAR_TIMEOUTS_SLOT: usize = option_slot(TCP_THIN_LINEAR_TIMEOUTS);

/// The slot of the parameter that is set by an option of `SOL_TCP`.
///
/// # Panics
/// When compiling, if none is.
#[must_use]
pub const fn option_slot(option: i32) -> usize {
    let mut slot = 0;
    while slot < PARAMETERS.len() {
        if let Action::Option { level: SOL_TCP, name, .. } = PARAMETERS[slot].action
            && name == option
        {
            return slot;
        }
        slot += 1;
    }
    panic!("no parameter is set by this option")
}

/// The slot of the parameter that answers a question.
///
/// # Panics
/// When compiling, if no parameter does.
#[must_use]
pub const fn reply_slot(question: Question) -> usize {
    let mut slot = 0;
    while slot < PARAMETERS.len() {
        if let Action::Reply(asked) = PARAMETERS[slot].action
            && asked as u8 == question as u8
        {
            return slot;
        }
        slot += 1;
    }
    panic!("no parameter answers this question")
}

/// The slot of the parameter that reflects the traffic class.
///
/// # Panics
/// When compiling, if there is none.
#[must_use]
pub const fn reflect_slot() -> usize {
    let mut slot = 0;
    while slot < PARAMETERS.len() {
        if let Action::ReflectTrafficClass = PARAMETERS[slot].action {
            return slot;
        }
        slot += 1;
    }
    panic!("no parameter reflects the traffic class")
}

/// The options that are set when a connection is established.
pub const ESTABLISHED_MASK: u64 = phase_mask(Phase::ActiveEstablished) | phase_mask(Phase::PassiveEstablished);

/// The options that can be changed while a connection is open, and restored.
pub const LIVE_MASK: u64 = phase_mask(Phase::Live);

/// Those of them that stay on a socket when its connection has ended, and can be restored when it begins another one. The
/// clamp of the window goes by itself.
pub const STICKING_MASK: u64 = LIVE_MASK & !(1 << option_slot(TCP_WINDOW_CLAMP));

/// The parameters that are decided while a passive connection is but a request, as a mask over the slots.
pub const REQUEST_MASK: u64 = 1 << reply_slot(Question::SynAckTimeout)
    | 1 << reply_slot(Question::ReceiveWindow)
    | 1 << reply_slot(Question::Ecn);

/// The parameters that answer a question, as a mask over the slots.
pub const REPLY_MASK: u64 = {
    let (mut mask, mut slot) = (0, 0);
    while slot < PARAMETERS.len() {
        if let Action::Reply(_) = PARAMETERS[slot].action {
            mask |= 1 << slot;
        }
        slot += 1;
    }
    mask
};

/// The slot of a parameter by its field name.
#[must_use]
pub fn slot_by_name(name: &str) -> Option<usize> {
    PARAMETERS.iter().position(|parameter| parameter.name == name)
}
