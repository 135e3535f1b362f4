//! What this node's kernel can do.

use std::{fs, io};

use nix::{
    sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, setsockopt, socket, sockopt},
    time::{ClockId, clock_getres},
};
use sockpilot_policy::facts::{KernelFacts, sysctls_to_read};

const RELEASE: &str = "/proc/sys/kernel/osrelease";
const CONGESTION_CONTROLS: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";

/// Why the kernel does not tell.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: &'static str,
        /// What was said about it.
        #[source]
        source: io::Error,
    },
    /// The length of a timer tick is unknown.
    #[error("cannot ask for the length of a timer tick")]
    Tick(#[source] nix::Error),
    /// The length of a timer tick is no length.
    #[error("a timer tick of {0} ns makes no sense")]
    StrangeTick(i64),
    /// A probe of the buffer limits failed.
    #[error("cannot probe the greatest socket buffers")]
    Buffers(#[source] nix::Error),
}

/// Asks the kernel.
///
/// # Errors
/// If it does not tell.
pub fn read() -> Result<KernelFacts, FactsError> {
    let (wmem_max, rmem_max) = greatest_buffers().map_err(FactsError::Buffers)?;
    Ok(KernelFacts {
        release: text(RELEASE)?.trim().to_owned(),
        hz: hz()?,
        congestion_controls: text(CONGESTION_CONTROLS)?.split_whitespace().map(str::to_owned).collect(),
        wmem_max,
        rmem_max,
        sysctls: sysctls_to_read().filter_map(|name| Some((name.to_owned(), sysctl(name)?))).collect(),
    })
}

fn text(path: &'static str) -> Result<String, FactsError> {
    fs::read_to_string(path).map_err(|source| FactsError::Read { path, source })
}

/// A setting of this network namespace, of several numbers the last. Kernels lack some of them, and namespaces others.
fn sysctl(name: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).ok()?;
    text.split_whitespace().last()?.parse().ok()
}

/// `sysconf(_SC_CLK_TCK)` is a constant of the ABI, not HZ. The resolution of the coarse clocks is one timer tick.
fn hz() -> Result<u32, FactsError> {
    let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_err(FactsError::Tick)?;
    hz_of_tick(tick.tv_sec() * 1_000_000_000 + tick.tv_nsec())
}

fn hz_of_tick(tick_ns: i64) -> Result<u32, FactsError> {
    // No kernel has fewer than 12 ticks a second or more than 10,000.
    if !(100_000..=83_333_334).contains(&tick_ns) {
        return Err(FactsError::StrangeTick(tick_ns));
    }
    // To the nearest: 300 a second are not a whole number of nanoseconds.
    Ok(((1_000_000_000 + tick_ns / 2) / tick_ns) as u32)
}

/// `net.core.wmem_max` and `rmem_max`, as sockets meet them: the files are not there in every network namespace.
fn greatest_buffers() -> nix::Result<(u32, u32)> {
    let probe = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // The kernel cuts the request to the limit and doubles it.
    let request = i32::MAX as usize;
    setsockopt(&probe, sockopt::SndBuf, &request)?;
    setsockopt(&probe, sockopt::RcvBuf, &request)?;
    let limit = |doubled: usize| (doubled / 2) as u32;
    Ok((limit(getsockopt(&probe, sockopt::SndBuf)?), limit(getsockopt(&probe, sockopt::RcvBuf)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_counted_to_the_nearest() {
        let cases = [(10_000_000, 100), (4_000_000, 250), (3_333_333, 300), (1_000_000, 1_000), (976_562, 1_024)];
        for (tick_ns, expected) in cases {
            assert_eq!(hz_of_tick(tick_ns).expect("sound"), expected);
        }
        assert!(matches!(hz_of_tick(1), Err(FactsError::StrangeTick(1))));
        assert!(hz_of_tick(0).is_err() && hz_of_tick(1_000_000_000).is_err());
    }

    #[test]
    fn this_kernel_tells() {
        let facts = read().expect("readable");
        assert!(!facts.release.is_empty() && facts.congestion_controls.iter().any(|name| name == "cubic"), "{facts:?}");
        assert!((100..=1_024).contains(&facts.hz), "{facts:?}");
        assert!(facts.sysctl("net.ipv4.tcp_syn_retries").is_some_and(|retries| retries >= 1), "{facts:?}");
        for (path, probed) in [("wmem_max", facts.wmem_max), ("rmem_max", facts.rmem_max)] {
            if let Ok(sysctl) = fs::read_to_string(format!("/proc/sys/net/core/{path}")) {
                assert_eq!(sysctl.trim(), probed.to_string(), "{path}");
            }
        }
    }
}
