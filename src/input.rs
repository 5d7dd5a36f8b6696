//! Standard input to every client, and what they send to standard output.

use crate::{
    funnel::Funnel,
    logging,
    tee::{Cut, Flags},
    work::{Serving, Work},
};
use async_channel::{Receiver, Sender, bounded};
use futures_lite::future;
use std::{
    io::{self, Read, Write},
    mem,
    sync::Arc,
    thread,
    time::Duration,
};
use whit::{Closed, Connection, Message, Policy, Server, Topic, sleep};

/// What is read at once. Its messages are on their way before more is read.
const READ_BYTES: usize = 16 * 1024;

/// So long standard output has to take what is left at the end.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) fn work(server: Server, path: &str, flags: &Flags, max_message_bytes: usize) -> Work {
    let topic = server.hub().topic("standard input");
    topic.keep(flags.keep);
    let policy = flags.policy();
    let back = flags.sends_back.then(|| Arc::new(Funnel::new()));
    let subscribed = topic.clone();
    let returned = back.clone();
    let server = server.route(path, move |conn| {
        subscribe(conn, subscribed.clone(), policy, returned.clone())
    });

    let shutdown = server.shutdown_handle();
    // So many are published before the clients have their turn to take them.
    let together = (flags.capacity / 2).clamp(1, 256);
    let cut = flags.cut;
    let beside = move |serving: Serving| -> Serving {
        Box::pin(async move {
            let written = back.clone().map(write_on_a_thread);
            let (batches, input) = read_on_a_thread(cut, max_message_bytes);
            let teeing = async {
                while let Ok(batch) = batches.recv().await {
                    for messages in batch.chunks(together) {
                        for message in messages {
                            topic.publish(message.clone());
                        }
                        topic.let_take().await;
                    }
                }
                shutdown.shut_down();
                future::pending().await
            };
            future::or(serving, teeing).await?;
            if let (Some(back), Some(written)) = (back, written) {
                // Clients are gone: what they sent is on its way.
                back.close();
                let waited = async {
                    sleep(WRITE_TIMEOUT).await;
                    log::warn!("standard output: nobody reads it: what clients sent last is lost");
                };
                let written = async {
                    let _ = written.recv().await;
                };
                future::or(written, waited).await;
            }
            match input.try_recv() {
                Ok(Err(error)) => Err(format!("standard input: {error}").into()),
                _ => Ok(()),
            }
        })
    };
    Work {
        server,
        beside: Some(Box::new(beside)),
    }
}

async fn subscribe(
    conn: Connection,
    topic: Topic,
    policy: Policy,
    back: Option<Arc<Funnel>>,
) -> Result<(), Closed> {
    let subscription = topic.subscribe(&conn, policy);
    let closed = loop {
        let read = match &back {
            Some(back) => back.put(conn.read()).await,
            None => conn.read().await.map(drop),
        };
        if let Err(closed) = read {
            break closed;
        }
    };
    if subscription.missed() > 0 {
        let (peer, missed) = (logging::peer(conn.request()), subscription.missed());
        log::info!("{peer} was too slow: it missed {missed} messages");
    }
    Err(closed)
}

/// What the thread that reads standard input gives: messages, and how it ended.
type Input = (Receiver<Vec<Message>>, Receiver<io::Result<()>>);

/// Reads standard input where that may block: it can be a file or a terminal, which no reactor waits for. The thread is left where it
/// waits when all ends.
fn read_on_a_thread(cut: Cut, max_message_bytes: usize) -> Input {
    let (sender, batches) = bounded(1);
    let (ended, end) = bounded(1);
    thread::spawn(move || {
        let mut input = io::stdin().lock();
        let result = match cut {
            Cut::Lines => read_lines(&mut input, max_message_bytes, &sender),
            Cut::Reads => read_chunks(&mut input, READ_BYTES, false, &sender),
            Cut::Chunks(bytes) => read_chunks(&mut input, bytes, true, &sender),
            Cut::Lengths => read_lengths(&mut input, max_message_bytes, &sender),
        };
        let _ = ended.try_send(result);
    });
    (batches, end)
}

/// Writes what clients sent to standard output, where that may block. Tells when all is written.
fn write_on_a_thread(messages: Arc<Funnel>) -> Receiver<()> {
    let (writing, written) = bounded(1);
    thread::spawn(move || {
        let _writing = writing;
        let mut output = io::stdout().lock();
        while let Some(message) = messages.next_blocking() {
            let result = output.write_all(message.as_bytes());
            let result = result.and_then(|()| match message {
                Message::Text(_) => output.write_all(b"\n"),
                Message::Binary(_) => Ok(()),
            });
            // It is for someone who looks at it now.
            if let Err(error) = result.and_then(|()| output.flush()) {
                log::warn!("standard output: {error}");
                messages.close();
                return;
            }
        }
    });
    written
}

fn read_lines(
    input: &mut impl Read,
    max_bytes: usize,
    batches: &Sender<Vec<Message>>,
) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    let mut line = Vec::new();
    loop {
        let count = read(input, &mut buffer)?;
        let mut batch = Vec::new();
        for piece in buffer[..count].split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(piece);
            if line.ends_with(b"\n") {
                line.pop();
                if line.ends_with(b"\r") {
                    line.pop();
                }
                cut_long(&mut line, max_bytes, &mut batch);
                batch.push(text(mem::take(&mut line)));
            } else if line.strip_suffix(b"\r").unwrap_or(&line).len() > max_bytes {
                // A carriage return at the end may be a part of the line's end.
                cut_long(&mut line, max_bytes, &mut batch);
            }
        }
        if count == 0 && !line.is_empty() {
            cut_long(&mut line, max_bytes, &mut batch);
            batch.push(text(mem::take(&mut line)));
        }
        if batches.send_blocking(batch).is_err() || count == 0 {
            return Ok(());
        }
    }
}

/// Cuts messages off a line that is longer than one, between two characters if it has such.
fn cut_long(line: &mut Vec<u8>, max_bytes: usize, batch: &mut Vec<Message>) {
    let mut rest = &line[..];
    while rest.len() > max_bytes {
        let is_begun = |end: &usize| rest[*end] & 0xC0 != 0x80;
        let least = max_bytes.saturating_sub(3).max(1);
        let end = (least..=max_bytes).rev().find(is_begun);
        let (message, others) = rest.split_at(end.unwrap_or(max_bytes));
        // Copied, or each would keep the room of all.
        batch.push(text(message.to_vec()));
        rest = others;
    }
    if rest.len() < line.len() {
        *line = rest.to_vec();
    }
}

fn text(line: Vec<u8>) -> Message {
    let text = String::from_utf8(line);
    text.unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
        .into()
}

/// Reads messages of so many bytes, `whole` ones except the last.
fn read_chunks(
    input: &mut impl Read,
    bytes: usize,
    whole: bool,
    batches: &Sender<Vec<Message>>,
) -> io::Result<()> {
    let mut chunk = vec![0; bytes];
    loop {
        let mut count = read(input, &mut chunk)?;
        while whole && (1..bytes).contains(&count) {
            match read(input, &mut chunk[count..])? {
                0 => break,
                more => count += more,
            }
        }
        // Copied, or a short one would keep the room of a long one.
        let message = chunk[..count].into();
        if count == 0 || batches.send_blocking(vec![message]).is_err() {
            return Ok(());
        }
        if whole && count < bytes {
            return Ok(());
        }
    }
}

fn read_lengths(
    input: &mut impl Read,
    max_bytes: usize,
    batches: &Sender<Vec<Message>>,
) -> io::Result<()> {
    let within = || io::Error::new(io::ErrorKind::UnexpectedEof, "it ends within a message");
    loop {
        let mut length = [0; 4];
        match read(input, &mut length)? {
            0 => return Ok(()),
            count => input
                .read_exact(&mut length[count..])
                .map_err(|_| within())?,
        }
        let length = u32::from_be_bytes(length);
        let Some(length) = usize::try_from(length)
            .ok()
            .filter(|length| *length <= max_bytes)
        else {
            let rule = format!("a message of {length} bytes is longer than --max-message");
            return Err(io::Error::other(rule));
        };
        let mut message = vec![0; length];
        input.read_exact(&mut message).map_err(|_| within())?;
        if batches.send_blocking(vec![message.into()]).is_err() {
            return Ok(());
        }
    }
}

/// Reads what is there, at least one byte unless it is the end.
fn read(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match input.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
