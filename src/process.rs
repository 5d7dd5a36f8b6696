//! A process in a group of its own, and the pipes from it.
//!
//! The standard library starts it, and a pidfd tells of its end. smol's own processes would come with one more thread, which
//! waits for children, and have no groups.

use futures_lite::{
    future::{self, poll_fn},
    ready,
};
use rustix::{
    buffer::spare_capacity,
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    io::{Errno, ioctl_fionread, read, retry_on_intr, writev},
    process::{
        Pid, PidfdFlags, Signal, WaitOptions, getpgid, kill_process, kill_process_group,
        pidfd_open, waitpid,
    },
};
use signal_hook::{consts::SIGCHLD, flag};
use std::{
    cell::Cell,
    ffi::OsString,
    fmt,
    io::{self, IoSlice},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    task::{Context, Poll},
    thread,
    time::Duration,
};
use whit::{AsyncFd, sleep};

/// What systemd tells its own service, and nobody else.
const OWN_VARIABLES: [&str; 7] = [
    "JOURNAL_STREAM",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// Has the system keep processes that have ended until they are reaped, even where whoever started this one wants none kept
/// (`SIG_IGN`): how they ended would be lost, and their numbers could be others' while they are still signalled.
pub(crate) fn keep_ended() -> io::Result<()> {
    flag::register(SIGCHLD, Arc::default()).map(drop)
}

/// The three pipes to a process.
pub(crate) struct Pipes {
    pub(crate) input: Inlet,
    pub(crate) output: Outlet,
    pub(crate) errors: Outlet,
}

/// A process that was started. When this is dropped, all of its group is killed that is still there.
pub(crate) struct Process {
    group: Group,
    /// Readable once it has ended.
    pidfd: AsyncFd<OwnedFd>,
    has_ended: Cell<bool>,
}

impl Process {
    /// Starts a program with its arguments, in this process's environment and `environment` on top.
    pub(crate) fn start(
        command: &[OsString],
        environment: Vec<(String, OsString)>,
    ) -> io::Result<(Self, Pipes)> {
        let (program, args) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        for name in OWN_VARIABLES {
            command.env_remove(name);
        }
        let mut group = Group {
            leader: command
                .args(args)
                .envs(environment)
                .process_group(0)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?,
            is_reaped: false,
        };
        let leader = &mut group.leader;
        let (Some(input), Some(output), Some(errors)) = (
            leader.stdin.take(),
            leader.stdout.take(),
            leader.stderr.take(),
        ) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let pipes = Pipes {
            input: Inlet(AsyncFd::new(input.into())?),
            output: Outlet::of(output.into())?,
            errors: Outlet::of(errors.into())?,
        };
        let pidfd = pidfd_open(group.id(), PidfdFlags::empty())?;
        let process = Self {
            group,
            pidfd: AsyncFd::new(pidfd)?,
            has_ended: Cell::new(false),
        };
        Ok((process, pipes))
    }

    pub(crate) fn id(&self) -> u32 {
        self.group.leader.id()
    }

    fn poll_end(&self, cx: &mut Context<'_>) -> Poll<()> {
        let has_ended = |pidfd: &OwnedFd| {
            let now = Timespec::default();
            match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now))? {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                _ => Ok(()),
            }
        };
        if !self.has_ended.get() {
            if let Err(error) = ready!(self.pidfd.poll_read_with(cx, has_ended)) {
                log::error!("cannot wait for process {}: {error}", self.id());
            }
            self.has_ended.set(true);
        }
        Poll::Ready(())
    }

    async fn ended(&self) {
        poll_fn(|cx| self.poll_end(cx)).await;
    }

    /// Has it end, with all of its group: asks with SIGTERM, lets go of its pipes, and waits no longer than `grace`.
    pub(crate) async fn end<P>(&self, pipes: P, grace: Duration) {
        if self.has_ended.get() {
            return;
        }
        // First, or one that writes could die of that before it can do what it does on SIGTERM.
        self.group.signal(Signal::TERM);
        drop(pipes);
        let late = async {
            sleep(grace).await;
            let killed = match self.group.signal(Signal::KILL) {
                true => "killed",
                false => "it cannot be killed",
            };
            log::info!("process {} did not end on SIGTERM: {killed}", self.id());
            future::pending().await
        };
        future::or(self.ended(), late).await;
    }

    /// How it ended. All of its group is killed that is still there.
    pub(crate) async fn into_status(mut self) -> io::Result<ExitStatus> {
        /// Between two looks, while a debugger is to know it first.
        const PAUSE: Duration = Duration::from_millis(10);

        loop {
            if let Some(status) = self.group.reap()? {
                return Ok(status);
            }
            sleep(PAUSE).await;
        }
    }
}

/// A process and those that it started, but for any that went into a group of their own.
struct Group {
    leader: Child,
    is_reaped: bool,
}

impl Group {
    fn id(&self) -> Pid {
        Pid::from_child(&self.leader)
    }

    /// As long as the leader is not reaped nobody else can have its number. Tells whether one could be signalled: none can where all are
    /// gone, or are somebody else's.
    fn signal(&self, signal: Signal) -> bool {
        let id = self.id();
        let of_group = kill_process_group(id, signal);
        // It can go over to the group that it was started from.
        if getpgid(Some(id)) != Ok(id) {
            return kill_process(id, signal).is_ok();
        }
        of_group.is_ok()
    }

    /// Kills all that are there, and tells how the leader ended, if it has.
    fn reap(&mut self) -> io::Result<Option<ExitStatus>> {
        self.signal(Signal::KILL);
        let status = self.leader.try_wait();
        self.is_reaped = !matches!(status, Ok(None));
        status
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.is_reaped && matches!(self.reap(), Ok(None)) {
            // It takes its time to die, and what `sudo` runs cannot be killed: the server does not wait for it.
            let id = self.id();
            let waiting = move || retry_on_intr(|| waitpid(Some(id), WaitOptions::empty()));
            let _ = thread::Builder::new().spawn(waiting);
        }
    }
}

/// The end of a pipe that a process reads from.
pub(crate) struct Inlet(AsyncFd<OwnedFd>);

impl Inlet {
    /// Writes all of the parts, waiting while the pipe is full.
    pub(crate) async fn write(&self, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        poll_fn(|cx| {
            // What is empty is done.
            IoSlice::advance_slices(&mut parts, 0);
            while !parts.is_empty() {
                let written = self.0.poll_write_with(cx, |pipe| Ok(writev(pipe, parts)?));
                IoSlice::advance_slices(&mut parts, ready!(written)?);
            }
            Poll::Ready(Ok(()))
        })
        .await
    }
}

/// The end of a pipe that a process writes to.
pub(crate) struct Outlet {
    pipe: AsyncFd<OwnedFd>,
    /// Its last words were read.
    is_over: bool,
    /// What of it was in the pipe when it ended, and is still to be read. Somebody who left its group may write on.
    left: Option<u64>,
}

impl Outlet {
    fn of(pipe: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            pipe: AsyncFd::new(pipe)?,
            is_over: false,
            left: None,
        })
    }

    /// Waits until there is something to read, and adds it to `bytes`. `false` once the process has ended, and all is read.
    ///
    /// It is ready at once again and again where a process writes without end: others should have their turn between.
    pub(crate) async fn read(&mut self, process: &Process, bytes: &mut Vec<u8>) -> bool {
        poll_fn(|cx| self.poll_read(cx, process, bytes)).await
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        process: &Process,
        bytes: &mut Vec<u8>,
    ) -> Poll<bool> {
        /// What is read at once.
        const CHUNK: usize = 8 * 1024;

        if self.left.is_none() && process.poll_end(cx).is_ready() {
            self.left = Some(ioctl_fionread(self.pipe.get_ref()).unwrap_or(0));
        }
        while !self.is_over && self.left != Some(0) {
            bytes.reserve(CHUNK);
            let is_all = self.left.is_some();
            let result = self.pipe.poll_read_with(cx, |pipe| {
                match read(pipe, spare_capacity(bytes)) {
                    // Nothing more of it will come.
                    Err(Errno::WOULDBLOCK) if is_all => Ok(0),
                    result => Ok(result?),
                }
            });
            if result.is_pending() && bytes.is_empty() {
                // It may be long until there is something.
                *bytes = Vec::new();
            }
            match ready!(result) {
                Ok(count @ 1..) => {
                    if let Some(left) = &mut self.left {
                        *left = left.saturating_sub(count as u64);
                    }
                    return Poll::Ready(true);
                }
                Ok(0) | Err(_) => self.is_over = true,
            }
        }
        process.poll_end(cx).map(|()| false)
    }
}

/// A status as it is told to a client: `exit status 3`, `signal 9`.
pub(crate) struct Shown(pub(crate) ExitStatus);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.code(), self.0.signal()) {
            (Some(code), _) => write!(f, "exit status {code}"),
            (None, Some(signal)) => write!(f, "signal {signal}"),
            (None, None) => f.write_str("an unknown status"),
        }
    }
}
