//! Waiting for something that will be, with a bound.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(20);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes Ctrl-C and SIGTERM end every wait with an error, so that all guards are dropped on the way out.
///
/// # Errors
/// If the kernel refuses the handler.
pub fn stop_on_signals() -> Result<()> {
    extern "C" fn remember(_: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    for signal in [nix::sys::signal::Signal::SIGINT, nix::sys::signal::Signal::SIGTERM] {
        // SAFETY: the handler only stores to an atomic.
        unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::Handler(remember)) }
            .context("installing a signal handler")?;
    }
    Ok(())
}

/// An error once a signal has come.
///
/// # Errors
/// See above.
pub fn check_interrupted() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// Waits until `look` finds something.
///
/// # Errors
/// When `limit` is over, saying what was waited for and what `look` said last; or when interrupted.
pub fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        check_interrupted()?;
        match look() {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() >= end => {
                return Err(error.context(format!("waited {limit:?} in vain: {what}")));
            }
            Err(_) => thread::sleep(STEP),
        }
    }
}

/// Passes the time, for traffic that has to flow for a while.
///
/// # Errors
/// When interrupted.
pub fn pass(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        check_interrupted()?;
        thread::sleep(STEP.min(end.saturating_duration_since(Instant::now())));
    }
    Ok(())
}
