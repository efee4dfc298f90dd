//! Sizes in bytes, and other quantities, as people write and read them.

use mae_loader::MemoryBound;

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

/// `125 GFLOP`, `1.02 PFLOP`: three digits.
pub(crate) fn show_flop(flop: f64) -> String {
    let mut value = flop / 1e6;
    let units = ["MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"];
    for unit in units {
        if value < 999.5 {
            return three_digits(value, unit);
        }
        value /= 1e3;
    }
    three_digits(value, "ZFLOP")
}

fn three_digits(value: f64, unit: &str) -> String {
    let digits = match value {
        _ if value < 9.995 => 2,
        _ if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
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

/// `2h 05m`, `3m 20s`, `12s`.
pub(crate) fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m {s:02}s"),
        (h, m, _) => format!("{h}h {m:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_short() {
        assert_eq!(show_bytes(999), "999 B");
        assert_eq!(show_bytes(1_842_014), "1.8 MB");
        assert_eq!(show_bytes(999_960), "1.0 MB");
        assert_eq!(show_bytes(5_200_000_000_000), "5.2 TB");
    }

    #[test]
    fn operations_have_three_digits() {
        for (flop, shown) in [
            (2.5e5, "0.25 MFLOP"),
            (58.04e9, "58.0 GFLOP"),
            (999.6e9, "1.00 TFLOP"),
            (1.018e21, "1.02 ZFLOP"),
            (5e24, "5000 ZFLOP"),
        ] {
            assert_eq!(show_flop(flop), shown);
        }
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

    #[test]
    fn durations_read_well() {
        assert_eq!(duration(12.4), "12s");
        assert_eq!(duration(200.0), "3m 20s");
        assert_eq!(duration(7500.0), "2h 05m");
    }
}
