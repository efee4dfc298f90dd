//! Masks from what other programs keep of them.

/// The visible patches `[B, K]` of masks that are known by `ids_restore` `[B, L]` alone, where each of the L = `patches` patches stands
/// among the shuffled ones: those that stand at the first K = `keep` places, in that order.
///
/// Of places that no patch has, the patch is 0: [`MaeInput::from_host`](crate::MaeInput::from_host) finds that they contradict each other.
pub fn ids_keep(ids_restore: &[u32], patches: usize, keep: usize) -> Vec<u32> {
    if patches == 0 || keep == 0 {
        return vec![];
    }
    let rows = ids_restore.chunks_exact(patches);
    let mut kept = vec![0; rows.len() * keep];
    for (kept, restore) in kept.chunks_exact_mut(keep).zip(rows) {
        for (patch, &place) in (0..).zip(restore) {
            if let Some(kept) = kept.get_mut(place as usize) {
                *kept = patch;
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_places_are_the_visible_patches() {
        // Patch 2 stands first, then 0, 3, 1; in the second mask 3, 2, 1, 0.
        let restore = [1, 3, 0, 2, 3, 2, 1, 0];
        assert_eq!(ids_keep(&restore, 4, 2), [2, 0, 3, 2]);
        assert_eq!(ids_keep(&restore, 4, 4), [2, 0, 3, 1, 3, 2, 1, 0]);
        assert!(ids_keep(&restore, 4, 0).is_empty() && ids_keep(&[], 0, 1).is_empty());
    }
}
