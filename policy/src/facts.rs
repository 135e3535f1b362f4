//! What one node's kernel makes of a parameter: whether it can honour it, and the value that really comes out.

use crate::{
    model::Value,
    parameter::{Encoding, Parameter},
};

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
}

impl KernelFacts {
    /// Major and minor number of the release, if it begins with them.
    #[must_use]
    pub fn version(&self) -> Option<(u32, u32)> {
        let mut numbers = self.release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}

/// A value as the kernel tables hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encoded {
    /// In the kernel's unit.
    Number(u32),
    /// A name, to be held in the table of names.
    Name(String),
}

/// What becomes of a requested value on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What goes into the kernel tables.
    pub encoded: Encoded,
    /// The effective value and why it differs, if it does.
    pub differs: Option<(String, String)>,
}

/// What a value becomes on a node with these facts.
///
/// # Errors
/// Why this kernel cannot honour it.
pub fn encode(parameter: &Parameter, value: &Value, facts: &KernelFacts) -> Result<Outcome, String> {
    let exactly = |number| Ok(Outcome { encoded: Encoded::Number(number), differs: None });
    let (major, minor) = parameter.since;
    if facts.version().is_some_and(|version| version < parameter.since) {
        return Err(format!("this node's kernel is {}; it takes Linux {major}.{minor}", facts.release));
    }
    match (parameter.encoding, value) {
        (Encoding::CongestionControl, Value::Name(name)) => {
            if facts.congestion_controls.contains(name) {
                Ok(Outcome { encoded: Encoded::Name(name.clone()), differs: None })
            } else {
                Err(format!(
                    "this node has no congestion control {name}; it has {}",
                    facts.congestion_controls.join(", ")
                ))
            }
        }
        (_, Value::Name(_)) | (Encoding::CongestionControl, Value::Number(_)) => {
            Err("this daemon does not understand the value; its version is older than the server's".to_owned())
        }
        (Encoding::Plain, Value::Number(number)) => exactly(*number),
        (Encoding::AskedByNv, Value::Number(number)) => {
            if facts.congestion_controls.iter().any(|name| name == "nv") {
                exactly(*number)
            } else {
                Err("only the congestion control nv asks for it, and this node has none".to_owned())
            }
        }
        (Encoding::CodePoint, Value::Number(number)) => exactly(number << 2),
        (Encoding::Ticks, Value::Number(ms)) => {
            let ticks = (u64::from(*ms) * u64::from(facts.hz)).div_ceil(1000).max(1);
            let encoded = Encoded::Number(u32::try_from(ticks).unwrap_or(u32::MAX));
            Ok(Outcome { encoded, differs: rounded(*ms, ticks, facts.hz) })
        }
        (Encoding::TwoTicks, Value::Number(ms)) => {
            let ticks = (u64::from(*ms) * u64::from(facts.hz)).div_ceil(1000);
            if ticks < 2 {
                let least = 2000_u32.div_ceil(facts.hz);
                return Err(format!(
                    "this node's kernel has {} timer ticks a second; write at least {least}",
                    facts.hz
                ));
            }
            Ok(Outcome { encoded: Encoded::Number(ms * 1000), differs: rounded(*ms, ticks, facts.hz) })
        }
        (Encoding::SendBuffer, Value::Number(bytes)) => Ok(buffer(*bytes, facts.wmem_max, "net.core.wmem_max")),
        (Encoding::ReceiveBuffer, Value::Number(bytes)) => Ok(buffer(*bytes, facts.rmem_max, "net.core.rmem_max")),
    }
}

/// What a number of timer ticks is in milliseconds, if it is not what was asked.
fn rounded(ms: u32, ticks: u64, hz: u32) -> Option<(String, String)> {
    let hz = u64::from(hz);
    if ticks * 1000 == u64::from(ms) * hz {
        return None;
    }
    let (whole, rest) = (ticks * 1000 / hz, ticks * 1000 % hz);
    let effective = if rest == 0 { whole.to_string() } else { format!("{whole}.{:03}", rest * 1000 / hz) };
    Some((effective, format!("rounded up to timer ticks, {hz} a second here")))
}

/// Linux cuts a buffer size to the sysctl, doubles it (net/core/sock.c) and locks automatic tuning.
fn buffer(bytes: u32, max: u32, sysctl: &str) -> Outcome {
    let taken = bytes.min(max);
    let note = if taken < bytes {
        format!("cut to {sysctl} {max}, then doubled by the kernel; automatic tuning is off")
    } else {
        "doubled by the kernel for its bookkeeping; automatic tuning is off".to_owned()
    };
    Outcome { encoded: Encoded::Number(bytes), differs: Some((u64::from(taken).saturating_mul(2).to_string(), note)) }
}
