//! Names of samples: the file's path without its ending, so that a sample can be traced back to its file, changed only
//! where a WebDataset reader would misread it.

use std::collections::HashSet;
use std::path::{Component, Path};

/// Gives out keys, each once.
#[derive(Debug, Default)]
pub(super) struct Keys(HashSet<String>);

impl Keys {
    /// A key for the file at `path`, relative to the source.
    pub(super) fn of(&mut self, path: &Path) -> String {
        let parts = path.components().filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_string_lossy()),
            _ => None,
        });
        let mut parts: Vec<String> = parts
            .map(|part| part.replace(|c: char| c.is_control(), "_"))
            .collect();
        if let Some(last) = parts.last_mut() {
            // A key ends at the first dot of the base name.
            let stem = last
                .rfind('.')
                .filter(|&at| at > 0)
                .map_or(last.as_str(), |at| &last[..at]);
            *last = stem.replace('.', "_");
        }
        let mut key = parts.join("/");
        if key.starts_with("__") {
            // Readers skip `__…__` names.
            key.insert(0, 'x');
        }
        self.unique(key)
    }

    /// `key`, or where it was given out before, `key` and a number.
    pub(super) fn unique(&mut self, key: String) -> String {
        let mut unique = key.clone();
        let mut count = 1;
        while !self.0.insert(unique.clone()) {
            count += 1;
            unique = format!("{key}-{count}");
        }
        unique
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_follow_paths_and_never_repeat() {
        let mut keys = Keys::default();
        let mut key = |path: &str| keys.of(Path::new(path));
        assert_eq!(
            key("n01440764/n01440764_10026.JPEG"),
            "n01440764/n01440764_10026"
        );
        assert_eq!(key("a.b/c.d.jpg"), "a.b/c_d");
        assert_eq!(key("a.b/c_d.png"), "a.b/c_d-2");
        assert_eq!(key("a.b/c_d"), "a.b/c_d-3");
        assert_eq!(key("/../x/./1.jpg"), "x/1");
        assert_eq!(key("__cls__/1.jpg"), "x__cls__/1");
        assert_eq!(key("a\nb.jpg"), "a_b");
    }
}
