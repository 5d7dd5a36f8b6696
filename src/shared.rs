//! `whit run --shared`: one process for all clients, started again when it ends.

use crate::{
    funnel::Funnel,
    process::{Process, Shown},
    run::{Flags, MARGIN},
    stdio::{self, Format, Input, LineTooLong, Output, log_errors},
    work::Serving,
};
use async_channel::Receiver;
use futures_lite::future;
use std::{
    error::Error,
    rc::Rc,
    time::{Duration, Instant},
};
use whit::{Closed, Connection, Hub, Policy, Topic, sleep};

/// How long it waits before it starts the process again, which doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// It does not wait longer than this; and a process that ran for so long is started again as if it was the first time.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// So many messages may wait for a client; then it misses the oldest of them.
const WAITING: usize = 256;

pub(crate) struct Shared {
    flags: Flags,
    format: Format,
    /// What the process writes.
    output: Topic,
    /// What clients send.
    input: Funnel,
}

impl Shared {
    pub(crate) fn new(flags: Flags, format: Format, hub: &Hub) -> Rc<Self> {
        Rc::new(Self {
            flags,
            format,
            output: hub.topic("standard output"),
            input: Funnel::new(),
        })
    }

    pub(crate) async fn handle(self: Rc<Self>, conn: Connection) -> Result<(), Closed> {
        let _subscription = self.output.subscribe(&conn, Policy::DropOldest(WAITING));
        loop {
            self.input.put(stdio::read(&conn, self.format)).await?;
        }
    }

    /// Serves, and keeps the process running until that is over.
    pub(crate) async fn beside(self: Rc<Self>, serving: Serving) -> Result<(), Box<dyn Error>> {
        let (served, end) = async_channel::bounded::<()>(1);
        let serving = async {
            let result = serving.await;
            drop(served);
            result
        };
        let (result, ()) = future::zip(serving, self.keep_running(&end)).await;
        result
    }

    /// Runs the process again and again until `end` is closed.
    async fn keep_running(&self, end: &Receiver<()>) {
        let mut pause = FIRST_PAUSE;
        while !end.is_closed() {
            let started = Instant::now();
            let late = async {
                let _ = end.recv().await;
                sleep(self.flags.grace + MARGIN).await;
                let program = self.flags.program();
                log::warn!("{program}: it has not ended in time: left alone");
                String::new()
            };
            let how = future::or(self.run(end), late).await;
            if end.is_closed() {
                return;
            }
            if started.elapsed() >= LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            let program = self.flags.program();
            log::warn!(
                "{program}: {how}: it is started again in {} s",
                pause.as_secs()
            );
            let over = async {
                let _ = end.recv().await;
            };
            let pausing = async {
                sleep(pause).await;
            };
            future::or(pausing, over).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// Runs the process once, and tells how it ended.
    async fn run(&self, end: &Receiver<()>) -> String {
        let (process, pipes) = match Process::start(&self.flags.command, Vec::new()) {
            Ok(started) => started,
            Err(error) => return error.to_string(),
        };
        let who = format!("{}[{}]", self.flags.program(), process.id());
        let talking = async {
            let input = Input::new(pipes.input, self.format);
            let mut output = Output::new(pipes.output, self.format);
            let over = async {
                let _ = end.recv().await;
                Ok(())
            };
            let delivering = future::or(self.deliver(&mut output, &process), over);
            let talked = future::or(delivering, self.feed(&input)).await;
            process.end((input, output), self.flags.grace).await;
            talked
        };
        let logging = log_errors(pipes.errors, &process, &who);
        let (talked, ()) = future::zip(talking, logging).await;
        match (talked, process.into_status().await) {
            (Err(LineTooLong), _) => "it wrote a line that is too long".into(),
            (Ok(()), Ok(status)) => Shown(status).to_string(),
            (Ok(()), Err(error)) => error.to_string(),
        }
    }

    async fn feed<T>(&self, input: &Input) -> T {
        loop {
            match self.input.next().await {
                Some(message) => input.write(&message).await,
                None => future::pending().await,
            }
        }
    }

    async fn deliver(&self, output: &mut Output, process: &Process) -> Result<(), LineTooLong> {
        let mut together = 0;
        while let Some(message) = output.next(process).await? {
            self.output.publish(message);
            together += 1;
            if together == WAITING / 2 {
                together = 0;
                self.output.let_take().await;
            }
        }
        Ok(())
    }
}
