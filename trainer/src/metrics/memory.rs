//! Memory in use: the process's, as Linux tells it, and the GPU's, as its driver does.

use std::fs;

use candle_core::Device;

use crate::error::Result;

/// Bytes of this process that are in the machine's memory; nothing where there is no /proc.
pub(crate) fn of_process() -> Option<u64> {
    resident(&fs::read_to_string("/proc/self/status").ok()?)
}

/// Bytes in use on the GPU, by every process; nothing where the host computes.
pub(crate) fn of_device(device: &Device) -> Result<Option<u64>> {
    let of_gpu = mae_model::memory::of_device(device)?;
    Ok(of_gpu.map(|(free, all)| all.saturating_sub(free)))
}

/// What /proc/self/status has: unlike statm's pages, in units that it names.
fn resident(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read() {
        let status = "Name:\tmae\nVmHWM:\t  900 kB\nVmRSS:\t   812 kB\n";
        assert_eq!(resident(status), Some(812 * 1024));
        assert_eq!(resident("Name:\tmae\n"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn linux_tells_of_this_process() {
        let memory = vec![1u8; 16 << 20];
        assert!(of_process().unwrap() > memory.len() as u64);
        assert_eq!(of_device(&Device::Cpu).unwrap(), None);
    }
}
