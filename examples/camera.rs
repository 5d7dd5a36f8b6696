//! A camera in any browser. Who is slow gets the newest picture and is told how many it missed, and the camera is off
//! while no one looks.
//!
//!     cargo run --example camera
//!     cargo run --example camera 0.0.0.0:7777 rpicam-vid --codec mjpeg --nopreview -t 0 -o -
//!
//! Open <http://127.0.0.1:7777/>: without a command it is a test picture that moves. The command's standard output is
//! MJPEG, one JPEG after the other: `libcamera-vid` takes the same flags, `ffmpeg -f v4l2 -i /dev/video0 -f mjpeg -` is
//! for any camera. Ctrl-C ends it.
//!
//! Binary messages are pictures. Text is a number, so many pictures were missed before the next, or words that tell why
//! there is none.

use futures_lite::{AsyncReadExt, future};
use smol::{
    channel::{self, Receiver, Sender},
    process::{Command, Stdio},
};
use std::{env, io, time::Duration};
use whit::{Closed, Connection, Listener, Policy, Response, Server, Topic, sleep};

/// Between two test pictures.
const PERIOD: Duration = Duration::from_millis(50);
/// How soon a command that failed is started again.
const PAUSE: Duration = Duration::from_secs(2);
const MAX_PICTURE_BYTES: usize = 4 * 1024 * 1024;

/// Publishes pictures for as long as anyone looks.
async fn film(camera: Topic, command: Vec<String>, someone_came: Receiver<()>) -> whit::Result<()> {
    loop {
        while camera.subscribers() == 0 {
            // Fails only where no one could come any more.
            let _ = someone_came.recv().await;
        }
        let Some((program, args)) = command.split_first() else {
            draw(&camera).await;
            continue;
        };
        if let Err(error) = record(&camera, program, args).await {
            eprintln!("camera: {program}: {error}");
            camera.publish(format!("{program}: {error}"));
            sleep(PAUSE).await;
        }
    }
}

/// Publishes what a command gives, until no one looks any more.
async fn record(camera: &Topic, program: &str, args: &[String]) -> io::Result<()> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut bytes = Vec::new();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let count = output.read(&mut chunk).await?;
        if count == 0 {
            return Err(io::Error::other(child.status().await?.to_string()));
        }
        bytes.extend_from_slice(&chunk[..count]);
        while let Some(len) = jpeg_len(&bytes) {
            let rest = bytes.split_off(len);
            if camera.publish(bytes) == 0 {
                return Ok(());
            }
            bytes = rest;
            // A command may be faster than a camera: all others have their turn.
            future::yield_now().await;
        }
        if !b"\xff\xd8".starts_with(&bytes[..bytes.len().min(2)]) || bytes.len() > MAX_PICTURE_BYTES
        {
            return Err(io::Error::other("its output is not MJPEG"));
        }
    }
}

/// The length of the JPEG that `bytes` begin with, if all of it is there.
fn jpeg_len(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += bytes.get(at..)?.iter().position(|&byte| byte == 0xff)?;
        at += match bytes.get(at + 1)? {
            // The end.
            0xd9 => return Some(at + 2),
            // A filler.
            0xff => 1,
            // The start; among the picture's data: a byte of 255, or a place to go on from after an error.
            0xd8 | 0x00 | 0xd0..=0xd7 => 2,
            // A segment says how long it is: what looks like an end in it, as of a small preview, is none.
            _ => {
                2 + usize::from(u16::from_be_bytes([
                    *bytes.get(at + 2)?,
                    *bytes.get(at + 3)?,
                ]))
            }
        };
    }
}

/// Publishes test pictures, until no one looks any more.
async fn draw(camera: &Topic) {
    for time in 0.. {
        if camera.publish(test_picture(time)) == 0 {
            return;
        }
        sleep(PERIOD).await;
    }
}

/// A ball that bounces before stripes, as a BMP: that needs no encoder.
fn test_picture(time: i32) -> Vec<u8> {
    const WIDTH: i32 = 160;
    const HEIGHT: i32 = 120;
    const RADIUS: i32 = 15;

    let mut bmp = Vec::from(b"BM");
    // The header's length, its second part's, the size, one plane of 24 bits, and nothing else.
    for field in [0, 0, 54, 40, WIDTH, HEIGHT, 24 << 16 | 1, 0, 0, 0, 0, 0, 0] {
        bmp.extend_from_slice(&field.to_le_bytes());
    }
    let bounce = |speed: i32, room: i32| (time * speed % (2 * room) - room).abs();
    let ball_x = RADIUS + bounce(3, WIDTH - 2 * RADIUS);
    let ball_y = RADIUS + bounce(2, HEIGHT - 2 * RADIUS);
    for (y, x) in (0..HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| (y, x))) {
        let is_ball = (x - ball_x).pow(2) + (y - ball_y).pow(2) < RADIUS.pow(2);
        // Blue, green, red.
        bmp.extend_from_slice(match ((x + time) / 20 % 2, is_ball) {
            (_, true) => &[40, 160, 255],
            (0, _) => &[120, 80, 40],
            _ => &[140, 100, 50],
        });
    }
    bmp
}

async fn look(conn: Connection, camera: Topic, came: Sender<()>) -> Result<(), Closed> {
    let _subscription = camera
        .subscribe(&conn, Policy::Latest)
        .tell_missed(|missed| missed.to_string());
    // Full: the camera will be on already.
    let _ = came.try_send(());
    // It has nothing to say; this waits for its end.
    loop {
        conn.read().await?;
    }
}

fn main() -> whit::Result<()> {
    let mut args = env::args().skip(1);
    let addr = args.next().unwrap_or_else(|| "127.0.0.1:7777".into());
    let command = args.collect();

    let listener = Listener::bind(addr)?;
    for addr in listener.local_addrs() {
        eprintln!("open http://{addr}/");
    }
    let server = Server::new().shut_down_on_signals();
    let camera = server.hub().topic("camera");
    let (came, someone_came) = channel::bounded(1);
    let shown = camera.clone();
    let server = server
        .route("/ws", move |conn| look(conn, shown.clone(), came.clone()))
        .page("/", |_| Response::html(include_str!("camera.html")));
    whit::block_on(future::or(
        server.serve(listener),
        film(camera, command, someone_came),
    ))?
}
