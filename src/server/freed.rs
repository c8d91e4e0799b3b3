//! Memory that was freed goes back to the system. The allocator keeps what a large request took for the next one; who pays
//! for memory by what is resident, or shares a machine, wants it back.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::telemetry::metrics::process::Process;
use text2vec_kernel::give_back_freed;

/// How often the resident memory is looked at.
const INTERVAL: Duration = Duration::from_secs(5);

/// So many bytes more than the least there were are worth a look for what was freed.
const WORTH: f64 = 16.0 * 1024.0 * 1024.0;

/// A look that gave back less than this found memory in use: the next ones are further apart.
const LITTLE: f64 = 4.0 * 1024.0 * 1024.0;

/// At most so many intervals pass without a look, a minute in all.
const MOST_SKIPPED: u32 = 11;

/// Gives back for ever.
pub(super) async fn give_back() {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut least, mut last, mut skipped, mut to_skip) = (f64::INFINITY, 0.0, 0, 0);
    loop {
        ticks.tick().await;
        let Some(now) = Process::now().resident_bytes else { return };
        least = now.min(least);
        // What a request holds is freed when it ends, and nothing grows then: so looks go on while there is more than once.
        if now < least + WORTH || (skipped < to_skip && now < last + WORTH) {
            skipped += 1;
            continue;
        }
        // It may take a while, and the allocator's locks.
        let _ = tokio::task::spawn_blocking(give_back_freed).await;
        last = Process::now().resident_bytes.unwrap_or(now);
        least = last.min(least);
        to_skip = if now - last < LITTLE { (2 * to_skip + 1).min(MOST_SKIPPED) } else { 0 };
        skipped = 0;
    }
}
