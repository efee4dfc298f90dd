//! How many shards are shuffled at a time where a cache does not hold them all.

use super::Mixture;
use crate::order::Window;

impl Mixture {
    /// What `asked` comes to for these shards: never [`Window::Auto`]. Says so where shards will be fetched or inflated more than once an
    /// epoch, or are shuffled in parts.
    pub(crate) fn window(&self, asked: Window) -> Window {
        let parts: Vec<Vec<u64>> = self
            .datasets()
            .map(|dataset| dataset.cached_bytes())
            .collect();
        let cache = self.datasets().map(|dataset| dataset.cache_bytes()).min();
        let cache = cache.unwrap_or(u64::MAX);
        let all: u64 = parts.iter().flatten().sum();
        let fits = fitting(parts, cache);
        match asked {
            Window::Auto if all > cache => {
                tracing::info!(
                    "the cache may hold {cache} bytes (--cache-size) and the shards are {all}: they are shuffled {fits} at a time (--window)"
                );
                Window::Shards(fits)
            }
            Window::Auto => Window::All,
            Window::All | Window::Shards(_) => {
                let wide = !matches!(asked, Window::Shards(shards) if shards <= fits);
                if all > cache && wide {
                    tracing::warn!(
                        "the cache may hold {cache} bytes (--cache-size) and the shards are {all}: what is shuffled over more than {fits} of \
                         them at a time (--window) is fetched or inflated again and again"
                    );
                }
                asked
            }
        }
    }
}

/// The most shards of each part, at least 1, of which two windows lie in `cache` bytes, whichever shards come together. `parts` has the
/// bytes that each shard takes there.
fn fitting(mut parts: Vec<Vec<u64>>, cache: u64) -> u32 {
    for part in &mut parts {
        part.sort_unstable_by(|a, b| b.cmp(a));
    }
    let longest = parts.iter().map(Vec::len).max().unwrap_or(0);
    let mut taken = 0u64;
    for shard in 0..longest {
        let next: u64 = parts.iter().filter_map(|part| part.get(shard)).sum();
        taken = taken.saturating_add(next);
        if taken.saturating_mul(2) > cache {
            return shard.max(1) as u32;
        }
    }
    longest.max(1) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_windows_of_the_largest_shards_fit() {
        assert_eq!(fitting(vec![vec![10; 8]], 80), 4);
        assert_eq!(fitting(vec![vec![10; 8]], 79), 3);
        // The largest may come together.
        assert_eq!(fitting(vec![vec![1, 20, 1, 20, 1]], 80), 2);
        assert_eq!(fitting(vec![vec![1, 20, 1, 20, 1]], 82), 3);
        // Both parts have a window of their own at the same time; shards that are not in the cache take nothing there.
        assert_eq!(fitting(vec![vec![10; 8], vec![10; 2]], 80), 2);
        assert_eq!(fitting(vec![vec![10; 8], vec![0; 100]], 80), 4);
        assert_eq!(fitting(vec![vec![0; 100]], 0), 100);
        // One must be there.
        assert_eq!(fitting(vec![vec![10; 8]], 5), 1);
        assert_eq!(fitting(vec![], 5), 1);
    }
}
