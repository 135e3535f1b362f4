//! Gives memory back to the system that bursts have left: a thousand nodes that connect at once leave a fifth of what they need
//! from then on in holes of the heap, which glibc keeps by itself.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Takes a few milliseconds for a heap of 100 MiB.
const EVERY: Duration = Duration::from_secs(15);

/// Until told to stop.
pub async fn run(stop: CancellationToken) {
    loop {
        tokio::select! {
            () = sleep(EVERY) => {}
            () = stop.cancelled() => return,
        }
        // Whether it found anything, or panicked, which it cannot, is no matter.
        let _ = tokio::task::spawn_blocking(give_back).await;
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
