//! The most memory that a process has had, as the system tells it.

use crate::ledger::Memory;

/// The peaks of the mesh's processes together, the broker's and the vendors'. `None` where the system does not tell.
pub(super) fn peaks(mesh: &[u32], broker: Option<u32>, vendors: Option<u32>) -> Option<Memory> {
    let mesh = mesh.iter().map(|pid| peak(*pid)).sum::<Option<u64>>()?;
    Some(Memory { mesh, broker: peak(broker?)?, vendors: peak(vendors?)? })
}

/// The peak of one process, in bytes.
fn peak(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    peak_in(&status)
}

fn peak_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_from_the_systems_words() {
        assert_eq!(peak_in("Name:\tmesh\nVmPeak:\t  9999 kB\nVmHWM:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!(peak_in("Name:\tmesh\n"), None);
    }
}
