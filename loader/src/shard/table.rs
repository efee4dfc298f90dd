//! The table of a shard: its samples' keys and where each of their members lies.

use std::ops::Range;
use std::sync::Arc;

use crate::sample::Member;

/// Samples and members of one shard, in the order of the tar.
///
/// Flat, since a large dataset has millions of rows: one string of all keys, one list of all members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardTable {
    keys: String,
    samples: Vec<Row>,
    members: Vec<Member>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    key_end: usize,
    members_end: usize,
}

/// One sample of a [`ShardTable`].
#[derive(Debug, Clone, Copy)]
pub struct SampleView<'a> {
    /// The members' common name: their path up to the first dot of the base name.
    pub key: &'a str,
    /// The members, in the order of the tar.
    pub members: &'a [Member],
}

impl ShardTable {
    /// Number of samples, with or without an image.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there is no sample at all.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// The sample at `index`.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn sample(&self, index: usize) -> SampleView<'_> {
        let row = self.samples[index];
        SampleView {
            key: &self.keys[self.key_range(index, row)],
            members: &self.members[self.member_range(index, row)],
        }
    }

    /// All samples in order.
    pub fn samples(&self) -> impl ExactSizeIterator<Item = SampleView<'_>> {
        (0..self.len()).map(|index| self.sample(index))
    }

    /// The member at `place` among all members of the shard.
    pub(crate) fn member(&self, place: u32) -> &Member {
        &self.members[place as usize]
    }

    /// The places of a sample's members among all members of the shard.
    pub(crate) fn member_places(&self, index: usize) -> Range<usize> {
        self.member_range(index, self.samples[index])
    }

    /// Adds a member: to the last sample where `key` is the same, else to a new one. False, and nothing added, where
    /// the sample has a member of that suffix already.
    pub(crate) fn push(&mut self, key: &str, member: Member) -> bool {
        let continues = !self.is_empty() && self.sample(self.len() - 1).key == key;
        if continues {
            let last = self.len() - 1;
            if self
                .sample(last)
                .members
                .iter()
                .any(|m| m.suffix == member.suffix)
            {
                return false;
            }
            self.members.push(member);
            self.samples[last].members_end = self.members.len();
        } else {
            self.keys.push_str(key);
            self.members.push(member);
            self.samples.push(Row {
                key_end: self.keys.len(),
                members_end: self.members.len(),
            });
        }
        true
    }

    fn key_range(&self, index: usize, row: Row) -> Range<usize> {
        let start = index
            .checked_sub(1)
            .map_or(0, |before| self.samples[before].key_end);
        start..row.key_end
    }

    fn member_range(&self, index: usize, row: Row) -> Range<usize> {
        let start = index
            .checked_sub(1)
            .map_or(0, |before| self.samples[before].members_end);
        start..row.members_end
    }
}

/// Shares one allocation between equal suffixes: there are a handful of them among millions of members.
#[derive(Debug, Default)]
pub(crate) struct Suffixes(Vec<Arc<str>>);

impl Suffixes {
    pub(crate) fn share(&mut self, suffix: &str) -> Arc<str> {
        if let Some(known) = self.0.iter().find(|known| known.as_ref() == suffix) {
            return Arc::clone(known);
        }
        let suffix: Arc<str> = suffix.into();
        // Names without a scheme would make the list as long as the shard.
        if self.0.len() < 64 {
            self.0.push(Arc::clone(&suffix));
        }
        suffix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(suffix: &str, offset: u64) -> Member {
        Member {
            suffix: suffix.into(),
            offset,
            size: 1,
        }
    }

    #[test]
    fn consecutive_members_of_one_key_make_a_sample() {
        let mut table = ShardTable::default();
        assert!(table.push("a/1", member("cls", 512)));
        assert!(table.push("a/1", member("jpg", 1536)));
        assert!(!table.push("a/1", member("jpg", 2560)), "a repeated suffix");
        assert!(table.push("a/2", member("jpg", 2560)));
        assert!(
            table.push("a/1", member("jpg", 3584)),
            "a key that returns is a sample of its own"
        );

        let keys: Vec<_> = table.samples().map(|s| (s.key, s.members.len())).collect();
        assert_eq!(keys, [("a/1", 2), ("a/2", 1), ("a/1", 1)]);
        assert_eq!(table.member_places(1), 2..3);
        assert_eq!(table.member(2).offset, 2560);
    }
}
