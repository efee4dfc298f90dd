//! How long an update takes, and what it waits for: arithmetic alone.
//!
//! A GPU computes its batches, and the gradients are summed over all GPUs while the last batch's backward runs, as far as they can be.
//! The loader works beside both. So an update takes the longer of the GPU's time and the loader's.

use serde::Serialize;

/// The gradients go out in pieces of so many bytes as the backward finishes them (25 MiB, as PyTorch's DDP). The last piece is done only
/// when the backward is, so nothing hides it.
const BUCKET: f64 = 25.0 * 1024.0 * 1024.0;

/// GPUs, and what they reach each other by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cluster {
    /// In a node.
    pub(super) gpus: u64,
    pub(super) nodes: u64,
    /// Bytes a second that a GPU sends to another of its node.
    pub(super) inside: f64,
    /// Bytes a second that a node sends to another.
    pub(super) between: f64,
}

impl Cluster {
    pub(super) fn ranks(&self) -> u64 {
        self.gpus * self.nodes
    }

    /// Bytes a second of the slowest link of a ring through every GPU, node by node.
    fn slowest(&self) -> f64 {
        match (self.gpus, self.nodes) {
            (_, 1) => self.inside,
            (1, _) => self.between,
            _ => self.inside.min(self.between),
        }
    }
}

/// The sum of the gradients over the ranks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct AllReduce {
    /// That each rank sends, and receives, for an update.
    pub(super) bytes: f64,
    pub(super) seconds: f64,
    /// Of those, what the last batch's backward can hide.
    pub(super) hidden_seconds: f64,
}

impl AllReduce {
    /// In a ring, which is bound by its slowest link: `2 (P - 1) / P` of the gradients go over each. The time that a message takes
    /// however short it is does not count. With a sharded optimiser half of it comes after the update: each rank's new weights.
    pub(super) fn new(cluster: &Cluster, gradients: f64, backward: f64, sharded: bool) -> Self {
        let ranks = cluster.ranks() as f64;
        let bytes = 2.0 * (ranks - 1.0) / ranks * gradients;
        let seconds = bytes / cluster.slowest();
        let with_backward = if sharded { seconds / 2.0 } else { seconds };
        let before_the_last = 1.0 - (BUCKET / gradients).min(1.0);
        AllReduce {
            bytes,
            seconds,
            hidden_seconds: (with_backward * before_the_last).min(backward),
        }
    }

    pub(super) fn exposed(&self) -> f64 {
        self.seconds - self.hidden_seconds
    }
}

/// What a run is bound by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Bound {
    Compute,
    AllReduce,
    Decoding,
    Reading,
    /// The batch does not fit, so there is no run.
    Memory,
}

/// Seconds that an update takes of each part.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Pace {
    pub(super) compute: f64,
    pub(super) all_reduce: AllReduce,
    /// Of all cores of a node.
    pub(super) decoding: f64,
    /// Where it is known how fast a node reads.
    pub(super) reading: Option<f64>,
}

impl Pace {
    /// Of a GPU alone, if the loader keeps up.
    pub(super) fn gpu(&self) -> f64 {
        self.compute + self.all_reduce.exposed()
    }

    pub(super) fn step(&self) -> f64 {
        let loader = self.decoding.max(self.reading.unwrap_or(0.0));
        self.gpu().max(loader)
    }

    /// What is longest; on the GPU, compute unless the sum of the gradients takes longer as a whole.
    pub(super) fn bound(&self) -> Bound {
        let reading = self.reading.unwrap_or(0.0);
        if self.gpu() >= self.decoding.max(reading) {
            match self.all_reduce.seconds > self.compute {
                true => Bound::AllReduce,
                false => Bound::Compute,
            }
        } else if self.decoding >= reading {
            Bound::Decoding
        } else {
            Bound::Reading
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(gpus: u64, nodes: u64) -> Cluster {
        Cluster {
            gpus,
            nodes,
            inside: 100.0,
            between: 10.0,
        }
    }

    #[test]
    fn a_ring_by_hand() {
        // 8 ranks: 7 steps to sum, 7 to hand round, an eighth of 800 bytes each.
        let ring = |gpus, nodes| AllReduce::new(&cluster(gpus, nodes), 800.0, 0.0, false);
        assert_eq!(ring(8, 1).bytes, 14.0 * 100.0);
        assert_eq!(ring(8, 1).seconds, 14.0);
        assert_eq!((ring(2, 1).bytes, ring(2, 1).seconds), (800.0, 8.0));
        // One link of the ring leaves each node.
        assert_eq!((ring(4, 2).bytes, ring(4, 2).seconds), (1400.0, 140.0));
        assert_eq!(ring(1, 8).seconds, 140.0);
        assert_eq!((ring(1, 1).bytes, ring(1, 1).seconds), (0.0, 0.0));
    }

    #[test]
    fn the_backward_hides_all_but_the_last_piece() {
        let cluster = Cluster {
            inside: 1e9,
            ..cluster(2, 1)
        };
        let sum = |backward, sharded| AllReduce::new(&cluster, 4.0 * BUCKET, backward, sharded);
        let whole = 4.0 * BUCKET / 1e9;
        let near = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-9;
        assert!(near(sum(1.0, false).exposed(), whole / 4.0));
        // Half of it in the backward, a quarter of which is the last piece.
        assert!(near(sum(1.0, true).exposed(), whole / 2.0 + whole / 8.0));
        // A backward that is too short.
        assert!(near(sum(whole / 8.0, false).exposed(), whole * 7.0 / 8.0));
        // Fewer gradients than a piece.
        let small = AllReduce::new(&cluster, BUCKET / 2.0, 1.0, false);
        assert_eq!(small.hidden_seconds, 0.0);
    }

    #[test]
    fn the_longest_part_binds() {
        let pace = |compute, sum: [f64; 2], decoding, reading| Pace {
            compute,
            all_reduce: AllReduce {
                bytes: 1.0,
                seconds: sum[0],
                hidden_seconds: sum[1],
            },
            decoding,
            reading,
        };
        for (pace, bound, step) in [
            (pace(3.0, [1.0, 1.0], 2.0, None), Bound::Compute, 3.0),
            (pace(3.0, [2.0, 1.0], 2.0, Some(3.5)), Bound::Compute, 4.0),
            (pace(3.0, [5.0, 2.0], 2.0, None), Bound::AllReduce, 6.0),
            (pace(3.0, [5.0, 2.0], 7.0, Some(6.5)), Bound::Decoding, 7.0),
            (pace(3.0, [1.0, 1.0], 2.0, Some(9.0)), Bound::Reading, 9.0),
        ] {
            assert_eq!((pace.bound(), pace.step()), (bound, step), "{pace:?}");
        }
    }
}
