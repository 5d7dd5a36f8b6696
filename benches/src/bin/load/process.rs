//! What the kernel tells about a process, and stopping it for a while.

use crate::client::Result;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

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

/// The folders of the threads.
fn tasks(pid: u32) -> Result<Vec<PathBuf>> {
    let tasks = format!("/proc/{pid}/task");
    fs::read_dir(&tasks)
        .and_then(|tasks| tasks.map(|task| Ok(task?.path())).collect())
        .map_err(|error| format!("{tasks}: {error}: has the server ended?"))
}

/// What follows the name in `stat`: that is in parentheses, and may have spaces in it.
fn behind_name(stat: &str) -> &str {
    stat.rsplit(')').next().unwrap_or_default()
}

impl Snapshot {
    pub fn take(pid: u32) -> Result<Self> {
        let (mut cpu, mut switches, mut threads) = (0, 0, 0);
        for task in tasks(pid)? {
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
        let stat = read(format!("/proc/{pid}/stat"))?;
        let stat = behind_name(&stat);
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

/// The server, to be stopped and to go on.
pub struct Server(u32);

impl Server {
    pub fn new(pid: u32) -> Self {
        Self(pid)
    }

    /// Waits until it has nothing left to do.
    pub fn rests(&self) -> Result<()> {
        self.is_in(&["S"])
    }

    /// Stops it until `go_on`. It must rest: only then is it certain where it stops.
    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        // `t` is what a debugger's processes are.
        self.is_in(&["T", "t"])
    }

    pub fn go_on(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Pid::from_raw(self.0 as i32)
            .ok_or_else(|| "0 is no process".to_owned())
            .and_then(|pid| kill_process(pid, signal).map_err(|error| error.to_string()))
    }

    /// Waits until all threads are in one of these states.
    fn is_in(&self, states: &[&str]) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            let mut all = true;
            for task in tasks(self.0)? {
                let stat = read(task.join("stat"))?;
                let state = behind_name(&stat).split_whitespace().next();
                all &= state.is_some_and(|state| states.contains(&state));
            }
            if all {
                return Ok(());
            }
            sleep(Duration::from_micros(50));
        }
        Err(format!(
            "the server is not in state {}",
            states.join(" or ")
        ))
    }
}
