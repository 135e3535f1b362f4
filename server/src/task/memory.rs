//! Gives memory back to the system that bursts have left: a thousand nodes that connect at once leave a fifth of what they need
//! from then on in holes of the heap, which glibc keeps by itself.

use std::time::Duration;

use crate::{
    store::Result,
    task::{Scope, Spec, Task},
};

/// Takes a few milliseconds for a heap of 100 MiB.
const PERIOD: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub struct Trim;

impl Task for Trim {
    fn spec(&self) -> Spec {
        Spec { name: "memory", period: PERIOD, retry_after: PERIOD, scope: Scope::Server }
    }

    async fn run(&mut self) -> Result<String> {
        // Whether it found anything, or panicked, which it cannot, is no matter.
        let _ = tokio::task::spawn_blocking(give_back).await;
        Ok(String::new())
    }
}

/// Other allocators do this by themselves.
fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes the heap's own locks, and touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
