//! Ranks as threads: what they come to together, and how they end where one of them does not go on.

use std::fs;
use std::path::Path;

use super::*;

/// Of a test: long enough for a busy machine, short enough to wait for.
const SHORT: Patience = Patience {
    meet: Duration::from_secs(20),
    silence: Duration::from_secs(3),
    leave: Duration::from_secs(1),
    poll: Duration::from_millis(5),
};

fn pattern() -> ShardPattern {
    "s-%d.tar".parse().unwrap()
}

fn meet(rank: usize, world: usize, dir: &Path, patience: Patience) -> Result<Ranks> {
    let launch = Launch {
        rank,
        world,
        ..Launch::default()
    };
    Ranks::meet_within(&launch, dir, &pattern(), patience)
}

/// What each rank of a job comes to.
fn job<T: Send>(world: usize, dir: &Path, work: impl Fn(Ranks) -> T + Sync) -> Vec<T> {
    let run = |rank| work(meet(rank, world, dir, SHORT).unwrap());
    thread::scope(|scope| {
        let ranks: Vec<_> = (0..world)
            .map(|rank| scope.spawn(move || run(rank)))
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn sum(ranks: &Ranks, stage: Stage) -> Result<String> {
    let part = ranks.rank.to_string();
    ranks.reduce(stage, part, |parts| Ok(parts.join("+")))
}

fn error(result: Result<String>) -> String {
    result.expect_err("an error").to_string()
}

#[test]
fn all_ranks_come_to_what_rank_0_makes_of_their_parts() {
    for world in [1, 2, 3, 5] {
        let dir = tempfile::tempdir().unwrap();
        let came = job(world, dir.path(), |ranks| {
            let found = sum(&ranks, Stage::Found)?;
            let packed = sum(&ranks, Stage::Packed)?;
            ranks.leave(Ok((found, packed)))
        });
        let expected = ["0", "0+1", "0+1+2", "", "0+1+2+3+4"][world - 1];
        for came in came {
            assert_eq!(came.unwrap(), (expected.to_owned(), expected.to_owned()));
        }
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            0,
            "nothing is left"
        );
    }
}

#[test]
fn parts_cover_all_once() {
    for (world, len) in [(1, 7), (3, 7), (3, 2), (4, 0), (3, 9)] {
        let parts = (0..world).map(|rank| {
            let ranks = Ranks {
                rank,
                world,
                meeting: None,
            };
            ranks.part(len)
        });
        assert!(parts.flatten().eq(0..len), "{world} ranks, {len} things");
    }
}

#[test]
fn a_rank_that_fails_ends_all_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let said = job(3, dir.path(), |ranks| {
        let result = if ranks.rank == 1 {
            Err(anyhow::anyhow!("no such thing"))
        } else {
            sum(&ranks, Stage::Found)
        };
        error(ranks.leave(result))
    });
    assert_eq!(
        said,
        [
            "rank 1 failed: no such thing",
            "no such thing",
            "rank 0 ended the job: rank 1 failed: no such thing"
        ]
    );
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing is left"
    );
}

#[test]
fn a_rank_that_dies_is_given_up_and_named() {
    for dead in [0, 2] {
        let dir = tempfile::tempdir().unwrap();
        let said = job(3, dir.path(), |ranks| {
            if ranks.rank == dead {
                // As a killed process does, it says nothing more.
                drop(ranks);
                return String::new();
            }
            let started = Instant::now();
            let result = sum(&ranks, Stage::Packed);
            let waited = started.elapsed();
            assert!(waited >= SHORT.silence, "{waited:?}");
            error(ranks.leave(result))
        });
        let expected = format!("rank {dead} has given no sign of life for 3 s");
        for (rank, said) in said.iter().enumerate().filter(|(rank, _)| *rank != dead) {
            assert!(said.contains(&expected), "rank {rank}: {said}");
        }
    }
}

#[test]
fn a_rank_that_does_not_come_is_named() {
    let hasty = Patience {
        meet: Duration::from_millis(300),
        ..SHORT
    };
    let dir = tempfile::tempdir().unwrap();
    let said = |rank| meet(rank, 3, dir.path(), hasty).err().unwrap().to_string();
    let first = said(0);
    assert!(
        first.contains("of 3 ranks, rank 1, 2 did not come"),
        "{first}"
    );
    let other = said(1);
    assert!(other.contains("of 3 ranks, rank 0 did not come"), "{other}");
}

#[test]
fn what_an_interrupted_job_left_is_not_taken_for_a_rank() {
    let dir = tempfile::tempdir().unwrap();
    let board = Board::new(dir.path(), &pattern());
    for rank in 0..2 {
        let mut old = Notice::new(process_name());
        old.met = vec![Some("a".into()), Some("b".into())];
        old.stage = Stage::Packed;
        old.failed = Some("long ago".into());
        board.put_up(rank, &old).unwrap();
        board.send(&old.process, Stage::Found, &"old").unwrap();
    }
    let came = job(2, dir.path(), |ranks| {
        let found = sum(&ranks, Stage::Found);
        ranks.leave(found)
    });
    assert_eq!(
        came.into_iter().map(Result::unwrap).collect::<Vec<_>>(),
        ["0+1"; 2]
    );
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing is left"
    );
}

#[test]
fn a_job_whose_notices_another_run_has_taken_down_ends() {
    let dir = tempfile::tempdir().unwrap();
    let said = job(2, dir.path(), |ranks| {
        sum(&ranks, Stage::Found).unwrap();
        if ranks.rank == 0 {
            return error(sum(&ranks, Stage::Packed));
        }
        Board::new(dir.path(), &pattern()).remove();
        loop {
            if let Err(error) = ranks.check() {
                return error.to_string();
            }
        }
    });
    for said in said {
        assert!(said.contains("notice was taken away"), "{said}");
    }
}
