//! Sizes in bytes, as people write and read them.

use mae_loader::MemoryBound;

/// Reads `3e9`, `500MB`, `1.5GiB` or plain bytes; for clap's `value_parser`.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is not a size: write bytes, 3e9, 500MB or 2GiB");
    let text = text.trim();
    let unit_at = text
        .find(|c: char| c.is_ascii_alphabetic() && !matches!(c, 'e' | 'E'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let factor: f64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => 1_048_576.0,
        "gib" => 1_073_741_824.0,
        "tib" => 1_099_511_627_776.0,
        _ => return Err(bad()),
    };
    let bytes = number.trim().parse::<f64>().map_err(|_| bad())? * factor;
    // Above 2^53 a float no longer holds every byte, and no disk does either.
    if (1.0..9e15).contains(&bytes) {
        Ok(bytes.round() as u64)
    } else {
        Err(bad())
    }
}

/// `1.8 MB`, in powers of 1000 as disks are sold.
pub(crate) fn show_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.95 {
            return if unit == "B" {
                format!("{bytes} B")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// A loader's memory bound, with its parts.
pub(crate) fn show_memory(bound: MemoryBound) -> String {
    format!(
        "{} of memory ({} batches, {} threads, {} order)",
        show_bytes(bound.total()),
        show_bytes(bound.batches),
        show_bytes(bound.threads),
        show_bytes(bound.order)
    )
}

/// `1 shard`, `3 shards`.
pub(crate) fn show_count(count: u64, thing: &str) -> String {
    let plural = match (count, thing.strip_suffix('s')) {
        (1, _) => "",
        (_, Some(_)) => "es",
        (_, None) => "s",
    };
    format!("{count} {thing}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("7", 7),
            ("3e9", 3_000_000_000),
            ("1.5 GB", 1_500_000_000),
            ("2GiB", 2 << 30),
            ("10k", 10_000),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "0", "-1", "x", "3 apples", "1e99", "nan", "GB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_short() {
        assert_eq!(show_bytes(999), "999 B");
        assert_eq!(show_bytes(1_842_014), "1.8 MB");
        assert_eq!(show_bytes(999_960), "1.0 MB");
        assert_eq!(show_bytes(5_200_000_000_000), "5.2 TB");
    }

    #[test]
    fn counts_agree_with_their_nouns() {
        assert_eq!(
            [1, 3].map(|n| show_count(n, "shard")),
            ["1 shard", "3 shards"]
        );
        assert_eq!(
            [1, 0].map(|n| show_count(n, "class")),
            ["1 class", "0 classes"]
        );
    }
}
