//! Memory that was freed goes back to the system. The allocator keeps what a large request took for the next one; who pays
//! for memory by what is resident, or shares a machine, wants it back.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::backend::local::kernel::give_back_freed;
use crate::telemetry::metrics::process::Process;

/// How often the resident memory is looked at.
const INTERVAL: Duration = Duration::from_secs(5);

/// So many bytes more than there were are worth a look for what was freed.
const WORTH: f64 = 16.0 * 1024.0 * 1024.0;

/// Gives back for ever.
pub async fn give_back() {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut least = 0.0;
    loop {
        ticks.tick().await;
        let Some(now) = Process::now().resident_bytes else { return };
        if now < least + WORTH {
            least = now.min(least);
            continue;
        }
        // It may take a while, and the allocator's locks.
        let _ = tokio::task::spawn_blocking(give_back_freed).await;
        least = Process::now().resident_bytes.unwrap_or(now);
    }
}
