//! What a run is bound by: judged from where the time of a stretch of updates went, and said with what to change.
//!
//! Three things work beside each other: the loader's threads, the copies to a GPU, the device. Where the device hardly waits for
//! batches, it is what binds. Else it is the busier of the other two, if that is busy most of the time; and of the loader's work, the
//! stage that takes longest.

use std::time::{Duration, Instant};

use mae_loader::{DecodeQuality, DecoderKind, Stats};
use serde::{Deserialize, Serialize};

/// Waiting below this share is what a run that keeps its device busy may have.
const LITTLE: f64 = 0.05;
/// What is busy for this share of the time binds what waits for it.
const BUSY: f64 = 0.75;
/// Updates that a judgement takes at least: fewer say how a stretch began.
const ENOUGH: u64 = 10;

/// What holds a run back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// The loader's threads wait for bytes.
    Reading,
    /// They decode.
    Decoding,
    /// They crop, resize and augment.
    Augmenting,
    /// Copies to the GPU take most of the time.
    Bus,
    /// The arithmetic, as it should be.
    Device,
    /// Nothing alone: the device waits although nothing is busy most of the time.
    Balanced,
}

/// Where the time of a stretch went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Shares {
    /// Share of the time that the device waited for batches.
    pub waiting: f64,
    /// Share of their time that the loader's threads read.
    pub reading: f64,
    /// That they decoded.
    pub decoding: f64,
    /// That they cropped, resized, augmented, and drew masks.
    pub augmenting: f64,
    /// That they had nothing to do.
    pub idle: f64,
    /// Share of the time that copies to the GPU took, where they run beside the training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copying: Option<f64>,
}

/// A stretch's shares, and what they come to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Utilisation {
    /// What held the run back.
    pub bound_by: Bound,
    /// Where the time went.
    #[serde(flatten)]
    pub shares: Shares,
}

impl Shares {
    /// What held the run back.
    pub fn judge(&self) -> Bound {
        if self.waiting < LITTLE {
            return Bound::Device;
        }
        let (loader, bus) = (1.0 - self.idle, self.copying.unwrap_or(0.0));
        if loader.max(bus) < BUSY {
            return Bound::Balanced;
        }
        if bus > loader {
            return Bound::Bus;
        }
        let stages = [
            (self.reading, Bound::Reading),
            (self.decoding, Bound::Decoding),
            (self.augmenting, Bound::Augmenting),
        ];
        let [first, others @ ..] = stages;
        let longest = others
            .into_iter()
            .fold(first, |a, b| if b.0 > a.0 { b } else { a });
        longest.1
    }

    /// Of a stretch in which the loader went from `before` to `after`.
    fn of(
        elapsed: Duration,
        waited: Duration,
        (before, after): (&Stats, &Stats),
        copying: Option<Duration>,
    ) -> Self {
        let spent = |stage: fn(&Stats) -> Duration| {
            stage(after).saturating_sub(stage(before)).as_secs_f64()
        };
        let [read, decode, augment, idle] = [
            spent(|stats| stats.read),
            spent(|stats| stats.decode),
            spent(|stats| stats.resize + stats.mask),
            spent(|stats| stats.idle),
        ];
        let threads = read + decode + augment + idle + spent(|stats| stats.hand_over);
        let of_threads = |time: f64| time / threads.max(1e-9);
        let of_time = |time: Duration| {
            let share = time.as_secs_f64() / elapsed.as_secs_f64().max(1e-9);
            share.min(1.0)
        };
        Shares {
            waiting: of_time(waited),
            reading: of_threads(read),
            decoding: of_threads(decode),
            augmenting: of_threads(augment),
            // Threads that came to the end of nothing have waited all along.
            idle: if threads > 0.0 { of_threads(idle) } else { 1.0 },
            copying: copying.map(of_time),
        }
    }
}

impl Utilisation {
    /// The verdict, the shares that led to it, and what to change.
    pub fn sentence(&self) -> String {
        self.said(DecoderKind::Turbo.resolve(DecodeQuality::Fast).is_ok())
    }

    /// `turbo`: whether this build has the faster decoder.
    fn said(&self, turbo: bool) -> String {
        const SMALLER: &str =
            "smaller stored images (mae shard SRC DST --short-side 256 --quality 90)";
        let shares = &self.shares;
        let percent = |share: f64| format!("{:.0}%", 100.0 * share);
        let waited = percent(shares.waiting);
        let held = |what: &str, share: f64| {
            format!(
                "the device waited {waited} of the time for batches, the loader's threads {what} {} of theirs",
                percent(share)
            )
        };
        match self.bound_by {
            Bound::Reading => format!(
                "bound by reading: {}. What helps: a faster disk or network, --cache on a local disk, {SMALLER}; more --threads, where many \
                 readers get more than few",
                held("read", shares.reading)
            ),
            Bound::Decoding => {
                let decoder = match turbo {
                    true => "--decode-quality fast",
                    false => "a build with --features turbo",
                };
                format!(
                    "bound by decoding: {}. What helps: more cores (--threads), {SMALLER}, {decoder}",
                    held("decoded", shares.decoding)
                )
            }
            Bound::Augmenting => format!(
                "bound by cropping and augmenting: {}. What helps: more cores (--threads), {SMALLER}, fewer augmentations",
                held("cropped, resized and augmented", shares.augmenting)
            ),
            Bound::Bus => format!(
                "bound by the bus: the device waited {waited} of the time for batches, and copies to it took {}. What helps: a link with all \
                 its lanes (nvidia-smi -q shows its width and generation), nothing else that copies over it, a smaller --input-size",
                percent(shares.copying.unwrap_or(0.0))
            ),
            Bound::Device => format!(
                "bound by the device, as it should be: it waited {waited} of the time for batches, the loader's threads had nothing to do \
                 {} of theirs. What helps: a faster device, a smaller model, on a GPU --precision bf16 and --cuda-graphs",
                percent(shares.idle)
            ),
            Bound::Balanced => format!(
                "bound by nothing alone: {}. What helps: a larger --prefetch, where images or reads differ much from each other",
                held("had nothing to do", shares.idle)
            ),
        }
    }
}

/// Measures a stretch of updates. What comes before the first one is over is no part of it: memory is touched, kernels are loaded,
/// the loader begins.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    begun: Option<Mark>,
    now: Option<Mark>,
    updates: u64,
    waited: Duration,
}

/// A moment, and what was counted until then.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    loader: Stats,
    copying: Option<Duration>,
}

impl Gauge {
    /// An update is over, for which the device waited so long. So far, the loader and the copies have taken what is given.
    pub(crate) fn add(&mut self, waited: Duration, loader: Stats, copying: Option<Duration>) {
        let mark = Mark {
            at: Instant::now(),
            loader,
            copying,
        };
        if self.begun.is_none() {
            self.begun = Some(mark);
            return;
        }
        self.now = Some(mark);
        self.updates += 1;
        self.waited += waited;
    }

    /// Updates of the stretch so far.
    pub(crate) fn updates(&self) -> u64 {
        self.updates
    }

    /// What the stretch was bound by, once it is long enough.
    pub(crate) fn reading(&self) -> Option<Utilisation> {
        let (begun, now) = (self.begun?, self.now?);
        if self.updates < ENOUGH {
            return None;
        }
        let copying = now.copying.zip(begun.copying);
        let shares = Shares::of(
            now.at.duration_since(begun.at),
            self.waited,
            (&begun.loader, &now.loader),
            copying.map(|(now, begun)| now.saturating_sub(begun)),
        );
        Some(Utilisation {
            bound_by: shares.judge(),
            shares,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a run whose device waits for 40% of the time.
    fn starved(reading: f64, decoding: f64, augmenting: f64) -> Shares {
        Shares {
            waiting: 0.4,
            reading,
            decoding,
            augmenting,
            idle: 1.0 - reading - decoding - augmenting,
            copying: None,
        }
    }

    #[test]
    fn the_busiest_binds_what_waits_for_it() {
        let bus = |copying| Shares {
            copying: Some(copying),
            ..starved(0.05, 0.2, 0.05)
        };
        for (shares, verdict) in [
            (starved(0.9, 0.05, 0.05), Bound::Reading),
            (starved(0.1, 0.8, 0.05), Bound::Decoding),
            (starved(0.1, 0.35, 0.5), Bound::Augmenting),
            (bus(0.95), Bound::Bus),
            (bus(0.5), Bound::Balanced),
            (starved(0.1, 0.3, 0.2), Bound::Balanced),
        ] {
            assert_eq!(shares.judge(), verdict, "{shares:?}");
        }
        // A loader that is busier than the bus.
        let both = Shares {
            copying: Some(0.8),
            ..starved(0.1, 0.85, 0.05)
        };
        assert_eq!(both.judge(), Bound::Decoding);
    }

    #[test]
    fn a_device_that_hardly_waits_binds() {
        for shares in [starved(0.0, 0.97, 0.03), starved(0.1, 0.1, 0.1)] {
            let shares = Shares {
                waiting: 0.04,
                copying: Some(0.9),
                ..shares
            };
            assert_eq!(shares.judge(), Bound::Device);
        }
    }

    #[test]
    fn every_verdict_says_its_shares_and_what_helps() {
        let said = |bound_by, shares: Shares, turbo| Utilisation { bound_by, shares }.said(turbo);
        let starved = starved(0.2, 0.6, 0.1);
        let bus = Shares {
            copying: Some(0.88),
            ..starved
        };
        for (text, parts) in [
            (
                said(Bound::Reading, starved, true),
                ["40%", "read 20%", "--cache"],
            ),
            (
                said(Bound::Decoding, starved, true),
                ["40%", "decoded 60%", "--decode-quality fast"],
            ),
            (
                said(Bound::Decoding, starved, false),
                ["--threads", "--short-side", "--features turbo"],
            ),
            (
                said(Bound::Augmenting, starved, true),
                ["40%", "augmented 10%", "fewer"],
            ),
            (said(Bound::Bus, bus, true), ["the bus", "40%", "took 88%"]),
            (
                said(Bound::Device, starved, true),
                ["as it should be", "40%", "do 10%"],
            ),
            (
                said(Bound::Balanced, starved, true),
                ["nothing alone", "do 10%", "--prefetch"],
            ),
        ] {
            for part in parts {
                assert!(text.contains(part), "{part}: {text}");
            }
        }
    }

    fn stats(milliseconds: [u64; 4]) -> Stats {
        let [read, decode, resize, idle] = milliseconds.map(Duration::from_millis);
        let mut stats = Stats::default();
        (stats.read, stats.decode, stats.resize, stats.idle) = (read, decode, resize, idle);
        stats
    }

    #[test]
    fn shares_are_of_the_stretch_alone() {
        let shares = Shares::of(
            Duration::from_secs(2),
            Duration::from_millis(500),
            (&stats([900, 0, 50, 9000]), &stats([1000, 600, 250, 9100])),
            Some(Duration::from_secs(1)),
        );
        let expected = Shares {
            waiting: 0.25,
            reading: 0.1,
            decoding: 0.6,
            augmenting: 0.2,
            idle: 0.1,
            copying: Some(0.5),
        };
        assert_eq!(format!("{shares:.9?}"), format!("{expected:.9?}"));
        let nothing = Shares::of(
            Duration::ZERO,
            Duration::ZERO,
            (&stats([0; 4]), &stats([0; 4])),
            None,
        );
        assert_eq!((nothing.idle, nothing.waiting), (1.0, 0.0));
    }

    #[test]
    fn a_gauge_leaves_out_the_first_update_and_wants_enough() {
        let mut gauge = Gauge::default();
        let mut decoded = 0;
        let mut add = |gauge: &mut Gauge| {
            decoded += 100;
            gauge.add(Duration::from_secs(9), stats([0, decoded, 0, 0]), None);
        };
        for _ in 0..ENOUGH {
            add(&mut gauge);
        }
        assert_eq!((gauge.updates(), gauge.reading()), (ENOUGH - 1, None));
        add(&mut gauge);
        let reading = gauge.reading().unwrap();
        assert_eq!(reading.bound_by, Bound::Decoding);
        assert_eq!((reading.shares.decoding, reading.shares.idle), (1.0, 0.0));
    }

    #[test]
    fn it_stands_in_the_log_in_one_piece() {
        let utilisation = Utilisation {
            bound_by: Bound::Bus,
            shares: Shares {
                copying: Some(0.75),
                ..starved(0.25, 0.25, 0.25)
            },
        };
        let text = serde_json::to_string(&utilisation).unwrap();
        assert!(
            text.starts_with(r#"{"bound_by":"bus","waiting":0.4,"#),
            "{text}"
        );
        assert_eq!(
            serde_json::from_str::<Utilisation>(&text).unwrap(),
            utilisation
        );
    }
}
