//! Images a second and the share of time spent waiting for data, over the stretch since the last report.

use std::time::{Duration, Instant};

/// Counts images and waiting; [`Throughput::report`] closes a stretch and opens the next.
#[derive(Debug)]
pub struct Throughput {
    since: Instant,
    images: u64,
    waited: Duration,
}

/// One stretch's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// Images a second.
    pub images_per_second: f64,
    /// Share of the time spent waiting for data, 0 to 1.
    pub data_wait: f64,
}

impl Throughput {
    /// Starts counting at `now`.
    pub fn new(now: Instant) -> Self {
        Throughput {
            since: now,
            images: 0,
            waited: Duration::ZERO,
        }
    }

    /// Counts images done, and how long the step waited for them.
    pub fn add(&mut self, images: u64, waited: Duration) {
        self.images += images;
        self.waited += waited;
    }

    /// The figures since the last report, and a new start at `now`.
    pub fn report(&mut self, now: Instant) -> Rate {
        let seconds = now.duration_since(self.since).as_secs_f64().max(1e-9);
        let rate = Rate {
            images_per_second: self.images as f64 / seconds,
            data_wait: (self.waited.as_secs_f64() / seconds).min(1.0),
        };
        *self = Throughput::new(now);
        rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stretch_counts_for_itself() {
        let start = Instant::now();
        let mut throughput = Throughput::new(start);
        throughput.add(100, Duration::from_millis(500));
        throughput.add(100, Duration::from_millis(500));
        let rate = throughput.report(start + Duration::from_secs(4));
        assert_eq!(
            rate,
            Rate {
                images_per_second: 50.0,
                data_wait: 0.25
            }
        );
        let rate = throughput.report(start + Duration::from_secs(5));
        assert_eq!(rate, Rate::default());
    }
}
