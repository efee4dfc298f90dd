//! Which checkpoints to delete, as data: a function of the steps that exist, touching no file.

/// How many checkpoints a run keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The newest this many stay (at least one).
    pub last: usize,
    /// Besides those, the first checkpoint in every stretch of this many steps stays for good.
    pub every: Option<u64>,
}

impl Retention {
    /// The steps of `existing` (ascending) that may be deleted.
    pub fn to_delete(&self, existing: &[u64]) -> Vec<u64> {
        let old = existing.len().saturating_sub(self.last.max(1));
        let mut stretch = 0;
        existing[..old]
            .iter()
            .copied()
            .filter(|step| match self.every {
                Some(every) if every > 0 && step / every > stretch => {
                    stretch = step / every;
                    false
                }
                _ => true,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest() {
        let keep = Retention {
            last: 2,
            every: None,
        };
        assert_eq!(keep.to_delete(&[]), Vec::<u64>::new());
        assert_eq!(keep.to_delete(&[10, 20]), Vec::<u64>::new());
        assert_eq!(keep.to_delete(&[10, 20, 30, 40]), vec![10, 20]);
    }

    #[test]
    fn never_deletes_the_only_one() {
        assert_eq!(
            Retention {
                last: 0,
                every: None
            }
            .to_delete(&[7]),
            Vec::<u64>::new()
        );
    }

    #[test]
    fn keeps_the_first_of_every_stretch() {
        let keep = Retention {
            last: 1,
            every: Some(20),
        };
        assert_eq!(
            keep.to_delete(&[5, 10, 15, 20, 25, 30, 35, 40, 45]),
            vec![5, 10, 15, 25, 30, 35]
        );
        // Steps need not hit the multiples.
        assert_eq!(
            keep.to_delete(&[7, 14, 21, 28, 35, 42, 49]),
            vec![7, 14, 28, 35]
        );
    }

    /// Applied after every save, as a run does, it ends where applying it once would.
    #[test]
    fn is_stable_under_repetition() {
        let keep = Retention {
            last: 3,
            every: Some(10),
        };
        let mut steps: Vec<u64> = Vec::new();
        for step in (4..=60).step_by(4) {
            steps.push(step);
            let gone = keep.to_delete(&steps);
            steps.retain(|s| !gone.contains(s));
        }
        assert_eq!(steps, vec![12, 20, 32, 40, 52, 56, 60]);
    }
}
