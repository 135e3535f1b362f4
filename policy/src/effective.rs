//! What becomes of a value on a connection: what the node's kernel makes of it ([`crate::facts`]), what the settings of a network
//! namespace and the other values of the same connection make of that, and what was decided before it is set.

use crate::{
    facts::{KernelFacts, Outcome, outcome, ticks, whole_or_thousandths},
    model::{Direction, Parameters, Value},
    parameter::{
        KEEPALIVE_SLOTS, PARAMETERS, Parameter, Question, RTO_MAX_SLOT, SYN_RETRIES_SLOT, THIN_LINEAR_TIMEOUTS_SLOT,
        Times, TooLate, USER_TIMEOUT_SLOT, reply_slot,
        sysctl::{Part, name},
    },
    readings::{Encoded, Reading},
    schedule::{self, Schedule},
    validate::only_direction,
};

const SYN_RTO: usize = reply_slot(Question::SynTimeout);
const SYNACK_RTO: usize = reply_slot(Question::SynAckTimeout);

/// `TCP_TIMEOUT_INIT`.
const DEFAULT_RTO_MS: u32 = 1_000;
/// `TCP_RTO_MAX`, where no setting says otherwise.
const DEFAULT_RTO_MAX_MS: u32 = 120_000;
/// Times that are listed one by one.
const LISTED_MAX: usize = 12;

/// Where a value stands.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Everything that a connection gets with it, itself included.
    pub set: &'a Parameters,
    /// Which end of connections it is for; `None`: both.
    pub direction: Option<Direction>,
}

/// What becomes of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// What goes into the kernel tables.
    pub encoded: Encoded,
    /// The value that comes out, in the parameter's unit.
    pub effective: String,
    /// Why it differs from what was asked for; empty if it does not.
    pub note: String,
    /// What else is true of it.
    pub caveats: Vec<String>,
}

/// What becomes of the value in a slot, on a node with these facts, where setting it on a socket gave this reading, if it was
/// tried.
///
/// # Errors
/// Why this kernel cannot honour it.
pub fn effect<'a>(
    parameter: &'static Parameter,
    value: &Value,
    place: &Place<'_>,
    facts: &KernelFacts,
    reading: impl FnOnce(&Encoded) -> Option<&'a Reading>,
) -> Result<Effect, String> {
    let Outcome { encoded, differs } = outcome(parameter, value, facts, reading)?;
    let on = Namespace { facts, set: place.set };
    let differs = on.differs(parameter, value).or(differs);
    let (effective, note) = differs.unwrap_or_else(|| (value.to_string(), String::new()));
    let mut caveats = on.caveats(parameter, value, place.direction);
    caveats.extend(too_late(parameter, place.direction));
    Ok(Effect { encoded, effective, note, caveats })
}

/// What has been decided already when a parameter is set.
pub fn too_late(parameter: &Parameter, direction: Option<Direction>) -> impl Iterator<Item = String> {
    let TooLate { active, passive } = parameter.too_late;
    let acts_at = move |end| direction.is_none_or(|direction| direction == end);
    [(Direction::Active, active), (Direction::Passive, passive)]
        .into_iter()
        .filter(move |(end, text)| acts_at(*end) && !text.is_empty())
        .map(|(end, text)| match end {
            Direction::Active => format!("too late at connecting ends: {text}"),
            Direction::Passive => format!("too late at accepting ends: {text}"),
        })
}

/// Values of one connection in the daemon's network namespace.
struct Namespace<'a> {
    facts: &'a KernelFacts,
    set: &'a Parameters,
}

impl Namespace<'_> {
    /// What comes out where the settings make another value of it than the kernel itself.
    fn differs(&self, parameter: &'static Parameter, value: &Value) -> Option<(String, String)> {
        let Value::Number(number) = value else { return None };
        match slot_of(parameter)? {
            SYN_RTO => self.cut(*number),
            SYN_RETRIES_SLOT => {
                let retransmissions = self.syn()?.schedule().again_ticks.len().to_string();
                let linear = self.facts.sysctl(name::SYN_LINEAR_TIMEOUTS).unwrap_or_default();
                let note = format!(
                    "{} {linear} come before, and the time of all is bounded; computed",
                    name::SYN_LINEAR_TIMEOUTS
                );
                (retransmissions != number.to_string()).then_some((retransmissions, note))
            }
            THIN_LINEAR_TIMEOUTS_SLOT if *number == 0 && self.facts.sysctl(name::THIN_LINEAR_TIMEOUTS) == Some(1) => {
                let note = format!("{} turns them on for every connection; computed", name::THIN_LINEAR_TIMEOUTS);
                Some(("1".to_owned(), note))
            }
            _ => None,
        }
    }

    /// A first timeout above the greatest one.
    fn cut(&self, rto_ms: u32) -> Option<(String, String)> {
        let effective = whole_or_thousandths(self.rto_max_ticks() * 1_000_000 / u64::from(self.facts.hz));
        let note = format!("cut to max_rto_ms or {}, {} here; computed", name::RTO_MAX_MS, self.rto_max_ms());
        (self.ticks(rto_ms) > self.rto_max_ticks()).then_some((effective, note))
    }

    fn caveats(&self, parameter: &Parameter, value: &Value, direction: Option<Direction>) -> Vec<String> {
        let direction = direction.or_else(|| only_direction(parameter.action));
        let mut caveats: Vec<_> =
            parameter.times.iter().filter_map(|times| self.times(*times, value, direction)).collect();
        caveats.extend(parameter.sysctls.iter().filter_map(|sysctl| match sysctl.part {
            Part::While(value) if self.facts.sysctl(sysctl.name) == Some(value) => Some(format!(
                "{} is {value} in the daemon's network namespace (a connection's own counts): {}",
                sysctl.name, sysctl.effect
            )),
            _ => None,
        }));
        caveats
    }

    fn times(&self, times: Times, value: &Value, direction: Option<Direction>) -> Option<String> {
        let (text, used): (_, &[&str]) = match times {
            Times::Syn if direction != Some(Direction::Passive) => {
                let text = self.in_words("SYN", &self.syn()?.schedule());
                (text, &[name::SYN_LINEAR_TIMEOUTS, name::SYN_RETRIES, name::RTO_MAX_MS])
            }
            Times::SynAck if direction != Some(Direction::Active) => {
                let text = self.in_words("SYN-ACK", &self.syn_ack()?.schedule());
                (text, &[name::SYNACK_RETRIES])
            }
            Times::Unacknowledged if self.number(USER_TIMEOUT_SLOT).is_none() => {
                let retries2 = self.facts.sysctl(name::RETRIES2)?;
                let limit = schedule::unacknowledged_ticks(retries2.into(), self.rto_max_ticks(), self.facts.hz);
                let limit = self.duration(limit);
                (
                    format!(
                        "unacknowledged data is given up at the first timeout {limit} after it was first sent again"
                    ),
                    &[name::RETRIES2],
                )
            }
            Times::Idle if *value != Value::Number(0) => {
                (self.idle()?, &[name::KEEPALIVE_TIME, name::KEEPALIVE_INTVL, name::KEEPALIVE_PROBES])
            }
            Times::Syn | Times::SynAck | Times::Unacknowledged | Times::Idle => return None,
        };
        let values = used.iter().filter_map(|name| Some(format!("{name} {}", self.facts.sysctl(name)?)));
        let values: Vec<_> = values.collect();
        Some(format!(
            "{text}; with {} in the daemon's network namespace (a connection's own counts)",
            values.join(", ")
        ))
    }

    /// What a SYN meets, if the node says what its settings are.
    fn syn(&self) -> Option<schedule::Syn> {
        let retries = self.facts.sysctl(name::SYN_RETRIES)?;
        Some(schedule::Syn {
            rto_ticks: self.ticks(self.number(SYN_RTO).unwrap_or(DEFAULT_RTO_MS)),
            retries: self.number(SYN_RETRIES_SLOT).unwrap_or(retries).into(),
            linear_timeouts: self.facts.sysctl(name::SYN_LINEAR_TIMEOUTS).unwrap_or_default().into(),
            rto_max_ticks: self.rto_max_ticks(),
            user_timeout_ticks: self.number(USER_TIMEOUT_SLOT).map(|ms| self.ticks(ms)),
        })
    }

    /// What a SYN-ACK meets.
    fn syn_ack(&self) -> Option<schedule::SynAck> {
        Some(schedule::SynAck {
            rto_ticks: self.ticks(self.number(SYNACK_RTO).unwrap_or(DEFAULT_RTO_MS)),
            retries: self.facts.sysctl(name::SYNACK_RETRIES)?.into(),
            rto_max_ticks: self.ticks(DEFAULT_RTO_MAX_MS),
        })
    }

    fn idle(&self) -> Option<String> {
        let [idle, interval, probes] = KEEPALIVE_SLOTS;
        let of = |slot, name| self.number(slot).or_else(|| self.facts.sysctl(name)).map(u64::from);
        let idle_s = schedule::idle_s(
            of(idle, name::KEEPALIVE_TIME)?,
            of(interval, name::KEEPALIVE_INTVL)?,
            of(probes, name::KEEPALIVE_PROBES)?,
            self.number(USER_TIMEOUT_SLOT).map(u64::from),
        );
        Some(format!("if keepalive is on, a silent connection is given up {idle_s} s after the last packet came"))
    }

    fn rto_max_ms(&self) -> u32 {
        let sysctl = self.facts.sysctl(name::RTO_MAX_MS);
        self.number(RTO_MAX_SLOT).or(sysctl).unwrap_or(DEFAULT_RTO_MAX_MS)
    }

    fn rto_max_ticks(&self) -> u64 {
        self.ticks(self.rto_max_ms())
    }

    fn number(&self, slot: usize) -> Option<u32> {
        match self.set.get(slot)? {
            Value::Number(number) => Some(*number),
            Value::Name(_) => None,
        }
    }

    fn ticks(&self, ms: u32) -> u64 {
        ticks(ms, self.facts.hz).max(1)
    }

    fn in_words(&self, what: &str, schedule: &Schedule) -> String {
        let Schedule { again_ticks, given_up_ticks } = schedule;
        let listed: Vec<_> = again_ticks.iter().take(LISTED_MAX).map(|ticks| self.ms(*ticks)).collect();
        let more = if again_ticks.len() > LISTED_MAX { " …" } else { "" };
        let times = match again_ticks.len() {
            1 => "once".to_owned(),
            times => format!("{times} times"),
        };
        let end = self.duration(*given_up_ticks);
        format!(
            "an unanswered {what} is sent again {times}, after {}{more} ms, and given up after {end}",
            listed.join(", ")
        )
    }

    /// Milliseconds, to the nearest.
    fn ms(&self, ticks: u64) -> String {
        let hz = u64::from(self.facts.hz);
        ((ticks * 1000 + hz / 2) / hz).to_string()
    }

    fn duration(&self, ticks: u64) -> String {
        let ms = ticks * 1000 / u64::from(self.facts.hz);
        if ms < 1000 { format!("{ms} ms") } else { format!("{} s", whole_or_thousandths(ms)) }
    }
}

fn slot_of(parameter: &'static Parameter) -> Option<usize> {
    PARAMETERS.iter().position(|other| other.number == parameter.number)
}
