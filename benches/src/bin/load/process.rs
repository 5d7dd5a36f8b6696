//! What the kernel tells about a process.

use crate::client::Result;
use std::{fs, path::Path, time::Instant};

/// A moment of the server and of the load itself.
pub struct Snapshot {
    pub at: Instant,
    /// Time on a processor, in ns, of all threads that there are.
    pub cpu: u64,
    /// The same by the clock tick, but with the threads that have ended, in ns: of the program, and of the kernel for it.
    pub user: u64,
    pub system: u64,
    /// How often a thread stopped running: because it had to wait, or because another one took its place.
    pub switches: u64,
    pub threads: u64,
    /// Time of the load on a processor, in ns.
    pub own_cpu: u64,
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy)]
pub struct Memory {
    /// What no other process has.
    pub private: u64,
    pub rss: u64,
}

fn read(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    fs::read_to_string(path)
        .map_err(|error| format!("{}: {error}: has the server ended?", path.display()))
}

/// The sum of the numbers in the lines that begin with one of these names.
fn sum(text: &str, names: &[&str]) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| names.contains(name))
        .filter_map(|(_, value)| value.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

/// The `n`th of the words of a text, a number.
fn word(text: &str, n: usize) -> u64 {
    text.split_whitespace()
        .nth(n)
        .and_then(|word| word.parse().ok())
        .unwrap_or(0)
}

impl Snapshot {
    pub fn take(pid: u32) -> Result<Self> {
        let (mut cpu, mut switches, mut threads) = (0, 0, 0);
        let tasks = format!("/proc/{pid}/task");
        let error = |error| format!("{tasks}: {error}: has the server ended?");
        for task in fs::read_dir(&tasks).map_err(error)? {
            let task = task.map_err(error)?.path();
            // A thread may end meanwhile.
            let (Ok(schedstat), Ok(status)) =
                (read(task.join("schedstat")), read(task.join("status")))
            else {
                continue;
            };
            cpu += word(&schedstat, 0);
            switches += sum(
                &status,
                &["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"],
            );
            threads += 1;
        }
        // The name, in parentheses, may have spaces in it.
        let stat = read(format!("/proc/{pid}/stat"))?;
        let stat = stat.rsplit(')').next().unwrap_or_default();
        let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second();
        Ok(Self {
            cpu,
            user: word(stat, 11) * tick,
            system: word(stat, 12) * tick,
            switches,
            threads,
            own_cpu: word(&read("/proc/self/schedstat")?, 0),
            at: Instant::now(),
        })
    }
}

impl Memory {
    pub fn of(pid: u32) -> Result<Self> {
        let rollup = read(format!("/proc/{pid}/smaps_rollup"))?;
        Ok(Self {
            private: sum(&rollup, &["Private_Clean", "Private_Dirty"]) * 1024,
            rss: sum(&rollup, &["Rss"]) * 1024,
        })
    }
}
