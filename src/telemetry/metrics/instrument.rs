//! Counters, gauges and histograms: a few atomic numbers each, so that counting costs nanoseconds and takes no lock.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Buckets of a histogram at most, the last one (`+Inf`) included.
const BUCKETS: usize = 20;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Zero.
    pub const fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }

    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Zero.
    pub const fn new() -> Gauge {
        Gauge(AtomicI64::new(0))
    }

    /// From now on this number.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// One more, until the guard is dropped.
    pub fn enter(&'static self) -> Entered {
        self.0.fetch_add(1, Ordering::Relaxed);
        Entered(self)
    }

    /// The number.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What [`Gauge::enter`] added; dropping it takes it away.
#[derive(Debug)]
pub struct Entered(&'static Gauge);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How often a number was how large. Numbers are whole: nanoseconds, or texts, or tokens.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds of all buckets but the last, ascending.
    bounds: &'static [u64],
    /// How many of its unit are one of the unit it is shown in.
    scale: f64,
    /// Not cumulative.
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

/// A histogram as it was at one moment, in the unit it is shown in.
#[derive(Debug, PartialEq)]
pub struct Observed {
    /// Upper bound and how many numbers were not above it; without `+Inf`, for which `count` stands.
    pub buckets: Vec<(f64, u64)>,
    /// Sum of all numbers.
    pub sum: f64,
    /// How many numbers.
    pub count: u64,
}

impl Histogram {
    /// Of times, shown in seconds. Bounds are in nanoseconds.
    pub const fn of_times(bounds: &'static [u64]) -> Histogram {
        Histogram::new(bounds, 1e9)
    }

    /// Of whole numbers.
    pub const fn of_numbers(bounds: &'static [u64]) -> Histogram {
        Histogram::new(bounds, 1.0)
    }

    const fn new(bounds: &'static [u64], scale: f64) -> Histogram {
        assert!(bounds.len() < BUCKETS, "more bounds than there are buckets");
        Histogram { bounds, scale, buckets: [const { AtomicU64::new(0) }; BUCKETS], sum: AtomicU64::new(0) }
    }

    /// One more time.
    pub fn time(&self, time: Duration) {
        self.number(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// One more number.
    pub fn number(&self, number: u64) {
        let bucket = self.bounds.partition_point(|&bound| bound < number);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(number, Ordering::Relaxed);
    }

    /// What there is now.
    pub fn read(&self) -> Observed {
        let mut count = 0;
        let mut buckets = Vec::with_capacity(self.bounds.len());
        for (index, bucket) in self.buckets[..=self.bounds.len()].iter().enumerate() {
            count += bucket.load(Ordering::Relaxed);
            if let Some(&bound) = self.bounds.get(index) {
                buckets.push((bound as f64 / self.scale, count));
            }
        }
        Observed { buckets, sum: self.sum.load(Ordering::Relaxed) as f64 / self.scale, count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_in_the_first_bucket_that_is_not_below_it() {
        let histogram = Histogram::of_numbers(&[1, 10]);
        for number in [0, 1, 2, 10, 11, 1_000_000] {
            histogram.number(number);
        }
        let expected = Observed { buckets: vec![(1.0, 2), (10.0, 4)], sum: 1_000_024.0, count: 6 };
        assert_eq!(histogram.read(), expected);
    }

    #[test]
    fn times_are_shown_in_seconds() {
        let histogram = Histogram::of_times(&[1_000_000]);
        histogram.time(Duration::from_micros(500));
        histogram.time(Duration::from_millis(1500));
        assert_eq!(histogram.read(), Observed { buckets: vec![(0.001, 1)], sum: 1.5005, count: 2 });
    }

    #[test]
    fn a_gauge_forgets_who_left() {
        static GAUGE: Gauge = Gauge::new();
        let entered = (GAUGE.enter(), GAUGE.enter());
        assert_eq!(GAUGE.get(), 2);
        drop(entered);
        assert_eq!(GAUGE.get(), 0);
        GAUGE.set(7);
        assert_eq!(GAUGE.get(), 7);
    }
}
