//! What one node's kernel makes of a parameter: whether it can honour it, and the value that really comes out.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    model::{LayerBody, Parameters, Snapshot, Value},
    parameter::{Action, Encoding, PARAMETERS, Parameter, sysctl::Part},
    readings::{Encoded, Reading, Trial},
};

/// The kernel that lets a program which walks over sockets set their options first (`iter/tcp`).
const LIVE_SINCE: (u32, u32) = (5, 16);

/// What a node's kernel can do, as far as parameters depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFacts {
    /// As `uname -r` says.
    pub release: String,
    /// Timer ticks per second.
    pub hz: u32,
    /// Congestion controls that can be used.
    pub congestion_controls: Vec<String>,
    /// `net.core.wmem_max`, bytes.
    pub wmem_max: u32,
    /// `net.core.rmem_max`, bytes.
    pub rmem_max: u32,
    /// Settings of the daemon's network namespace, by name, as far as anything is computed from them: [`sysctls_to_read`].
    pub sysctls: BTreeMap<String, u32>,
}

/// The settings from which something is computed. Of several numbers the last counts.
pub fn sysctls_to_read() -> impl Iterator<Item = &'static str> {
    let sysctls = PARAMETERS.iter().flat_map(|parameter| parameter.sysctls);
    let read = sysctls.filter(|sysctl| matches!(sysctl.part, Part::Computed | Part::While(_)));
    let names: BTreeSet<_> = read.map(|sysctl| sysctl.name).collect();
    names.into_iter()
}

impl KernelFacts {
    /// Major and minor number of the release, if it begins with them.
    #[must_use]
    pub fn version(&self) -> Option<(u32, u32)> {
        let mut numbers = self.release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }

    /// A setting of the daemon's network namespace; nothing if this kernel lacks it or the node does not say.
    #[must_use]
    pub fn sysctl(&self, name: &str) -> Option<u32> {
        self.sysctls.get(name).copied()
    }

    /// Whether connections that are open can be changed. A release that says no version is believed to be new.
    ///
    /// # Errors
    /// Why not.
    pub fn changes_open_connections(&self) -> Result<(), String> {
        let (major, minor) = LIVE_SINCE;
        if self.version().is_none_or(|version| version >= LIVE_SINCE) {
            return Ok(());
        }
        Err(format!("this node's kernel is {}; changing open connections takes Linux {major}.{minor}", self.release))
    }
}

/// What becomes of a requested value on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What goes into the kernel tables.
    pub encoded: Encoded,
    /// The effective value and why it differs, if it does.
    pub differs: Option<(String, String)>,
}

/// What goes into the kernel tables for a value, on a node with these facts.
///
/// # Errors
/// Why this kernel cannot honour it.
pub fn encode(parameter: &Parameter, value: &Value, facts: &KernelFacts) -> Result<Encoded, String> {
    let (major, minor) = parameter.since;
    if facts.version().is_some_and(|version| version < parameter.since) {
        return Err(format!("this node's kernel is {}; it takes Linux {major}.{minor}", facts.release));
    }
    let number = match (parameter.encoding, value) {
        (Encoding::CongestionControl, Value::Name(name)) => {
            return if facts.congestion_controls.contains(name) {
                Ok(Encoded::Name(name.clone()))
            } else {
                let known = facts.congestion_controls.join(", ");
                Err(format!("this node has no congestion control {name}; it has {known}"))
            };
        }
        (_, Value::Name(_)) | (Encoding::CongestionControl, Value::Number(_)) => {
            return Err("this daemon does not understand the value; its version is older than the server's".to_owned());
        }
        (Encoding::AskedByNv, _) if !facts.congestion_controls.iter().any(|name| name == "nv") => {
            return Err("only the congestion control nv asks for it, and this node has none".to_owned());
        }
        (Encoding::TwoTicks, Value::Number(ms)) if ticks(*ms, facts.hz) < 2 => {
            let least = 2000_u32.div_ceil(facts.hz);
            return Err(format!("this node's kernel has {} timer ticks a second; write at least {least}", facts.hz));
        }
        (Encoding::Ticks, Value::Number(ms)) => u32::try_from(ticks(*ms, facts.hz).max(1)).unwrap_or(u32::MAX),
        (Encoding::TwoTicks, Value::Number(ms)) => ms * 1000,
        (Encoding::CodePoint, Value::Number(number)) => number << 2,
        (
            Encoding::Plain
            | Encoding::Milliseconds
            | Encoding::SendBuffer
            | Encoding::ReceiveBuffer
            | Encoding::AskedByNv,
            Value::Number(number),
        ) => *number,
    };
    Ok(Encoded::Number(number))
}

/// What comes out where a node with these facts sets an encoded value, as far as can be computed: in the unit in which the
/// kernel gives it back.
#[must_use]
pub fn computed(parameter: &Parameter, encoded: &Encoded, facts: &KernelFacts) -> Encoded {
    let Encoded::Number(number) = encoded else { return encoded.clone() };
    let hz = u64::from(facts.hz);
    let number = match parameter.encoding {
        Encoding::Milliseconds => ticks(*number, facts.hz) * 1000 / hz,
        Encoding::TwoTicks => (u64::from(*number) * hz).div_ceil(1_000_000) * 1_000_000 / hz,
        // net/core/sock.c
        Encoding::SendBuffer => u64::from(*number.min(&facts.wmem_max)) * 2,
        Encoding::ReceiveBuffer => u64::from(*number.min(&facts.rmem_max)) * 2,
        Encoding::Plain | Encoding::Ticks | Encoding::CodePoint | Encoding::CongestionControl | Encoding::AskedByNv => {
            u64::from(*number)
        }
    };
    Encoded::Number(u32::try_from(number).unwrap_or(u32::MAX))
}

/// What a value becomes on a node with these facts, where setting it on a socket gave this reading, if it was tried.
///
/// # Errors
/// Why this kernel cannot honour it.
pub fn outcome<'a>(
    parameter: &Parameter,
    value: &Value,
    facts: &KernelFacts,
    reading: impl FnOnce(&Encoded) -> Option<&'a Reading>,
) -> Result<Outcome, String> {
    let encoded = encode(parameter, value, facts)?;
    let computed = computed(parameter, &encoded, facts);
    let explained = why(parameter, &encoded, facts);
    let (comes_out, why, source) = match reading(&encoded) {
        Some(Reading::Refused(refusal)) => return Err(refusal.describe()),
        Some(Reading::Read(read)) if *read == computed => (read, explained, "read back from a socket"),
        Some(Reading::Read(read)) => (read, "taken so by this kernel".to_owned(), "read back from a socket"),
        None if parameter.encoding == Encoding::Ticks => (&computed, explained, "computed from HZ"),
        None => (&computed, explained, "computed"),
    };
    let effective = in_unit(parameter, comes_out, facts);
    let differs = (effective != value.to_string()).then(|| (effective, format!("{why}; {source}")));
    Ok(Outcome { encoded, differs })
}

/// Timer ticks of a time, rounded up.
pub(crate) fn ticks(ms: u32, hz: u32) -> u64 {
    (u64::from(ms) * u64::from(hz)).div_ceil(1000)
}

/// A value that the kernel gave back, in the parameter's unit.
fn in_unit(parameter: &Parameter, read: &Encoded, facts: &KernelFacts) -> String {
    let number = match read {
        Encoded::Name(name) => return name.clone(),
        Encoded::Number(number) => number,
    };
    match parameter.encoding {
        Encoding::Ticks => whole_or_thousandths(u64::from(*number) * 1_000_000 / u64::from(facts.hz)),
        Encoding::TwoTicks => whole_or_thousandths(u64::from(*number)),
        // The two bits below are ECN's.
        Encoding::CodePoint => (number >> 2).to_string(),
        _ => number.to_string(),
    }
}

/// A number of thousandths, as a whole number where it is one.
pub(crate) fn whole_or_thousandths(number: u64) -> String {
    match (number / 1000, number % 1000) {
        (whole, 0) => whole.to_string(),
        (whole, rest) => format!("{whole}.{rest:03}"),
    }
}

/// Why what comes out may not be what was asked for, where it is as computed.
fn why(parameter: &Parameter, encoded: &Encoded, facts: &KernelFacts) -> String {
    let buffer = |max: u32, sysctl: &str| match encoded {
        Encoded::Number(bytes) if *bytes > max => {
            format!("cut to {sysctl} {max}, then doubled by the kernel; automatic tuning is off")
        }
        _ => "doubled by the kernel for its bookkeeping; automatic tuning is off".to_owned(),
    };
    match parameter.encoding {
        Encoding::SendBuffer => buffer(facts.wmem_max, "net.core.wmem_max"),
        Encoding::ReceiveBuffer => buffer(facts.rmem_max, "net.core.rmem_max"),
        Encoding::Ticks | Encoding::TwoTicks | Encoding::Milliseconds => {
            format!("rounded up to timer ticks, {} a second here", facts.hz)
        }
        Encoding::Plain | Encoding::CodePoint | Encoding::CongestionControl | Encoding::AskedByNv => {
            "taken so by this kernel".to_owned()
        }
    }
}

/// Everything that a snapshot would set by a socket option on a node with these facts. What cannot be honoured at all is not
/// among it.
#[must_use]
pub fn values_to_try(snapshot: &Snapshot, facts: &KernelFacts) -> BTreeSet<Trial> {
    let sets = snapshot.layers.iter().flat_map(|layer| -> Vec<&Parameters> {
        match &layer.body {
            LayerBody::Policy(rules) => rules.iter().map(|rule| &rule.set).collect(),
            LayerBody::Experiment(comparison) => comparison.arms.iter().map(|arm| &arm.set).collect(),
        }
    });
    let values = sets.flat_map(Parameters::iter);
    values
        .filter_map(|(slot, value)| {
            let parameter = PARAMETERS.get(slot)?;
            let Action::Option { .. } = parameter.action else { return None };
            Some((slot, encode(parameter, value, facts).ok()?))
        })
        .collect()
}
