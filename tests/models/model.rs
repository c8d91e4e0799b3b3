//! Running a model.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Tries every order of the threads' steps with up to so many preemptions, and says how many these were.
pub fn model(name: &str, preemptions: usize, run: impl Fn() + Send + Sync + 'static) {
    let (begun, orders) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&orders);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        run();
    });
    println!("{name}: {} orders, {:.1} s", orders.load(Ordering::Relaxed), begun.elapsed().as_secs_f64());
}
