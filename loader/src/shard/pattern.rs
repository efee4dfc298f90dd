//! Names of numbered shards, written as Python's `ShardWriter` has them: `train-%06d.tar`.

use std::fmt;
use std::str::FromStr;

/// A file name with one `%d` or `%06d` for the shard's number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardPattern {
    before: String,
    width: usize,
    after: String,
}

impl ShardPattern {
    /// The name of shard `number`.
    pub fn name(&self, number: u64) -> String {
        format!(
            "{}{number:0width$}{}",
            self.before,
            self.after,
            width = self.width
        )
    }

    /// Whether `name` is that of a shard of this pattern.
    pub fn matches(&self, name: &str) -> bool {
        let digits = name
            .strip_prefix(&self.before)
            .and_then(|rest| rest.strip_suffix(&self.after));
        digits
            .and_then(|digits| digits.parse().ok())
            .is_some_and(|number| self.name(number) == name)
    }
}

impl FromStr for ShardPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |reason: &str| {
            format!("shard pattern `{text}`: {reason}; write for example train-%06d.tar")
        };
        let (before, rest) = text
            .split_once('%')
            .ok_or_else(|| bad("it has no %d for the shard's number"))?;
        let (width, after) = rest
            .split_once('d')
            .ok_or_else(|| bad("`%` is not followed by `d`"))?;
        let padded = width.strip_prefix('0').unwrap_or(width);
        let width = match (width, padded.parse::<usize>()) {
            ("", _) => 0,
            (_, Ok(digits)) if width.starts_with('0') && digits <= 20 => digits,
            _ => return Err(bad("between `%` and `d` goes a width such as 06")),
        };
        if after.contains('%') {
            return Err(bad("it has more than one number"));
        }
        if text.contains('/') {
            return Err(bad("it names a file in the target folder, not a path"));
        }
        if text.starts_with('.') {
            return Err(bad("files with a leading dot are not seen as shards"));
        }
        if !after.ends_with(".tar") {
            return Err(bad(
                "shards are plain tars, to be read by offset, and end in .tar",
            ));
        }
        if before.ends_with(|c: char| c.is_ascii_digit())
            || after.starts_with(|c: char| c.is_ascii_digit())
        {
            return Err(bad("the number runs into other digits"));
        }
        Ok(Self {
            before: before.to_owned(),
            width,
            after: after.to_owned(),
        })
    }
}

impl fmt::Display for ShardPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.width {
            0 => write!(f, "{}%d{}", self.before, self.after),
            width => write!(f, "{}%0{width}d{}", self.before, self.after),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_and_recognise_shards() {
        let pattern: ShardPattern = "train-%06d.tar".parse().unwrap();
        assert_eq!(pattern.name(12), "train-000012.tar");
        assert_eq!(pattern.name(12_345_678), "train-12345678.tar");
        assert_eq!(pattern.to_string(), "train-%06d.tar");
        assert!(pattern.matches("train-000012.tar") && pattern.matches("train-12345678.tar"));
        for other in [
            "train-12.tar",
            "train-.tar",
            "test-000012.tar",
            "train-000012.tar.gz",
            "train-+00012.tar",
        ] {
            assert!(!pattern.matches(other), "{other}");
        }
        assert_eq!("%d.tar".parse::<ShardPattern>().unwrap().name(7), "7.tar");
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        for bad in [
            "a.tar",
            "%s.tar",
            "%6d.tar",
            "%06d",
            "%06d.tar.gz",
            "%d-%d.tar",
            "x/%d.tar",
            ".%d.tar",
            "v2%d.tar",
            "%099d.tar",
        ] {
            let error = bad.parse::<ShardPattern>().unwrap_err();
            assert!(error.contains("train-%06d.tar"), "{bad}: {error}");
        }
    }
}
