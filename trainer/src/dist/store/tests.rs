//! Ranks as threads of one process.

use super::*;
use crate::dist::watch::Stage;

type Ends = Arc<Mutex<Vec<String>>>;

fn launch(rank: usize, world: usize) -> Launch {
    Launch {
        rank,
        world,
        ..Launch::default()
    }
}

/// Stores of so many ranks, their watches, and why each ended.
fn stores(world: usize, patience: Duration) -> Vec<(Store, Arc<Watch>, Ends)> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut listeners: Vec<Option<TcpListener>> = vec![Some(listener)];
    listeners.resize_with(world, || None);
    let threads: Vec<_> = listeners
        .into_iter()
        .enumerate()
        .map(|(rank, listener)| {
            thread::spawn(move || {
                let (watch, ends) = (Arc::new(Watch::new()), Ends::default());
                let told = Arc::clone(&ends);
                let store = Store::meet(
                    &launch(rank, world),
                    (("127.0.0.1".into(), port), listener),
                    Arc::clone(&watch),
                    Patience::new(patience),
                    Arc::new(move |why| told.lock().unwrap().push(why.into())),
                );
                (store.unwrap(), watch, ends)
            })
        })
        .collect();
    threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect()
}

fn ended(ends: &Ends) -> String {
    for _ in 0..1000 {
        if let Some(why) = ends.lock().unwrap().first() {
            return why.clone();
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("no end was told");
}

#[test]
fn what_is_gathered_comes_by_rank() {
    let stores = stores(3, Duration::from_secs(60));
    thread::scope(|scope| {
        for (store, _, _) in &stores {
            scope.spawn(move || {
                for round in 0..50 {
                    let all = store.gather(Value::from(100 * round + store.rank)).unwrap();
                    let expected: Vec<Value> =
                        (0..3).map(|r| Value::from(100 * round + r)).collect();
                    assert_eq!(all, expected);
                }
                store.leave();
            });
        }
    });
    thread::sleep(Duration::from_millis(100));
    for (_, _, ends) in &stores {
        assert!(ends.lock().unwrap().is_empty());
    }
}

#[test]
fn a_failure_ends_all_and_those_that_wait() {
    let stores = stores(3, Duration::from_secs(60));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| stores[2].0.gather(Value::Null));
        stores[1].0.fail("its disk\nis full");
        let error = waiting.join().unwrap().unwrap_err().to_string();
        assert!(error.contains("rank 1 failed: its disk is full"), "{error}");
    });
    assert!(ended(&stores[0].2).contains("rank 1 failed"));
    assert!(stores[1].2.lock().unwrap().is_empty());
}

#[test]
fn a_dead_rank_is_named_to_all() {
    let stores = stores(3, Duration::from_secs(60));
    // As the kernel does for a process that was killed.
    let link = stores[2].0.shared.links[0].1.lock().unwrap();
    link.shutdown(std::net::Shutdown::Both).unwrap();
    drop(link);
    for rank in [0, 1] {
        assert!(ended(&stores[rank].2).starts_with("rank 2 is gone"));
    }
}

#[test]
fn a_rank_that_stands_still_is_named_to_all() {
    let stores = stores(2, Duration::from_secs(2));
    stores[1].1.enter(Stage::Data);
    for _ in 0..1000 {
        stores[0].1.enter(Stage::AllReduce);
        if !stores[0].2.lock().unwrap().is_empty() {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    for (_, _, ends) in &stores {
        let why = ended(ends);
        assert!(why.starts_with("rank 1 stands still"), "{why}");
    }
}
