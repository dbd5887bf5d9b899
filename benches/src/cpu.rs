//! CPU time of processes and the cores of this machine, from /proc.

use std::fs;

/// Seconds of CPU that a process and its children have taken, all their threads together.
///
/// Source: the first number of /proc/PID/task/TID/schedstat is the time on a CPU in nanoseconds
/// (Documentation/scheduler/sched-stats.rst of the kernel). A thread that has ended is not counted any more; neither
/// contestant ends threads while it is measured.
///
/// # Errors
/// The process is gone.
pub fn spent(pid: u32) -> Result<f64, String> {
    let mut nanoseconds = 0;
    for pid in family(pid)? {
        let tasks = format!("/proc/{pid}/task");
        for task in fs::read_dir(&tasks).map_err(|e| format!("{tasks}: {e}"))?.flatten() {
            let path = task.path().join("schedstat");
            // A thread may end between the list and the look.
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let first = text.split_whitespace().next().and_then(|n| n.parse::<u64>().ok());
            nanoseconds += first.ok_or_else(|| format!("{}: no number in it", path.display()))?;
        }
    }
    Ok(nanoseconds as f64 / 1e9)
}

/// A process, its children, and theirs.
///
/// # Errors
/// The process is gone.
pub fn family(pid: u32) -> Result<Vec<u32>, String> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    let mut all = vec![pid];
    for child in text.split_whitespace().filter_map(|word| word.parse().ok()) {
        // A child may end between the list and the look.
        all.extend(family(child).unwrap_or_default());
    }
    Ok(all)
}

/// Checks that both cores exist and are not one.
///
/// # Errors
/// What to change.
pub fn check_cores(server: usize, load: usize) -> Result<(), String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if server == load || server >= cores || load >= cores {
        return Err(format!(
            "servers on core {server} and load on core {load} of {cores}: two different cores of this machine are \
             needed (--server-core, --load-core)"
        ));
    }
    Ok(())
}

/// Kind of processor, kernel and number of cores.
pub fn machine() -> serde_json::Value {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, model)| model.to_owned());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    serde_json::json!({
        "processor": model,
        "kernel": kernel.trim(),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_this_process_rises_with_work() {
        let pid = std::process::id();
        let before = spent(pid).unwrap();
        let mut sum = 0u64;
        while spent(pid).unwrap() < before + 0.001 {
            sum = (0..100_000u64).fold(sum, |sum, n| sum.wrapping_mul(31).wrapping_add(n));
        }
        assert!(std::hint::black_box(sum) < u64::MAX);
    }

    #[test]
    fn one_core_for_both_is_refused() {
        assert!(check_cores(0, 0).unwrap_err().contains("--load-core"));
        assert!(check_cores(0, 100_000).is_err());
    }
}
