//! What Linux says about this process, read from /proc; `None` elsewhere.

use std::fs;

/// What the process has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Page faults that needed no disk.
    pub(crate) minor_faults: u64,
    /// Processor time of all threads, in seconds.
    pub(crate) cpu_seconds: f64,
}

/// Processor time and page faults of all threads so far.
pub(crate) fn usage() -> Option<Usage> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the command's name, may hold spaces; it ends with the last parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    // Clock ticks are hundredths of a second on every Linux there is.
    Some(Usage {
        minor_faults: field(10)?,
        cpu_seconds: (field(14)? + field(15)?) as f64 / 100.0,
    })
}

/// Most resident memory since the start or the last [`forget_peak`], in bytes.
pub(crate) fn peak_memory() -> Option<u64> {
    status("VmHWM:")
}

/// Resident memory now, in bytes.
pub(crate) fn resident_memory() -> Option<u64> {
    status("VmRSS:")
}

fn status(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Begins a new peak. Where that is not allowed, the peak is that of the whole process.
pub(crate) fn forget_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn linux_answers() {
        let before = usage().unwrap();
        let memory = vec![1u8; 64 << 20];
        assert!(peak_memory().unwrap() > 64 << 20);
        assert!(resident_memory().unwrap() > 64 << 20);
        assert!(usage().unwrap().minor_faults > before.minor_faults);
        drop(memory);
    }
}
