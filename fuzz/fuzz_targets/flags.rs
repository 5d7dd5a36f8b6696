//! Any arguments, each ended by a zero byte, as the command's flags.
#![no_main]

#[expect(dead_code, reason = "only what makes one line is tried")]
#[path = "../../src/logging.rs"]
mod logging;
#[expect(dead_code, reason = "what is done with them is not tried")]
#[path = "../../src/options.rs"]
mod options;
#[path = "../../src/owner.rs"]
mod owner;
#[expect(dead_code, reason = "what is done with them is not tried")]
#[path = "../../src/relay.rs"]
mod relay;
#[expect(dead_code, reason = "what is done with them is not tried")]
#[path = "../../src/run.rs"]
mod run;
#[expect(dead_code, reason = "what is done with them is not tried")]
#[path = "../../src/tee.rs"]
mod tee;
#[path = "../../src/values.rs"]
mod values;

use libfuzzer_sys::fuzz_target;
use logging::OneLine;
use options::{Invocation, Options};
use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    time::Duration,
};
use values::Mistake;
use whit::{Closed, Connection, Response, Server};

fuzz_target!(|bytes: &[u8]| {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    let args: Vec<&OsStr> = bytes
        .split(|byte| *byte == 0)
        .map(OsStr::from_bytes)
        .collect();
    // Files are not read here.
    if !args.iter().any(|arg| arg.as_bytes().starts_with(b"--config")) {
        check(&args);
    }
    if let Some(text) = args[0].to_str() {
        check_amounts(text);
    }
});

fn check(args: &[&OsStr]) {
    match parse(args) {
        Ok(Invocation::Serve(options)) => {
            assert_ne!(options.log_level, log::LevelFilter::Off);
            let path = options.path().to_owned();
            let server = Server::new()
                .config(options.config)
                .route(&path, leave)
                .page("/", |_| Response::text(""));
            if let Err(error) = server.check() {
                assert_is_a_line(&Mistake::of(&error).expect("the flags are to blame"));
            }
        }
        Ok(Invocation::Print(text)) => assert!(text.ends_with('\n')),
        Err(mistake) => assert_is_a_line(&mistake),
    }
}

async fn leave(_: Connection) -> Result<(), Closed> {
    Ok(())
}

fn parse(args: &[&OsStr]) -> Result<Invocation, Mistake> {
    let args: Vec<OsString> = args.iter().map(OsString::from).collect();
    Options::parse(&args)
}

/// A terminal shows it as one line, and obeys nothing in it.
fn assert_is_a_line(mistake: &Mistake) {
    let text = OneLine(mistake).to_string();
    assert!(
        !text.is_empty() && !text.contains(char::is_control),
        "{text:?}"
    );
}

/// A size and a time are what arithmetic without bounds makes of them, or refused.
fn check_amounts(text: &str) {
    let size = amount(
        text,
        &[
            ("", 1),
            ("B", 1),
            ("KiB", 1 << 10),
            ("MiB", 1 << 20),
            ("GiB", 1 << 30),
        ],
    );
    let size = size.and_then(|bytes| usize::try_from(bytes).ok());
    let parsed = options_with("--max-message", text);
    assert_eq!(parsed.map(|options| options.config.max_message_bytes), size);
    let parsed = options_with("--memory", text);
    assert_eq!(
        parsed.map(|options| options.config.memory_budget_bytes),
        size
    );

    let millis = amount(
        text,
        &[
            ("", 1000),
            ("ms", 1),
            ("s", 1000),
            ("m", 60_000),
            ("h", 3_600_000),
        ],
    );
    let time = millis
        .and_then(|millis| u64::try_from(millis).ok())
        .map(Duration::from_millis);
    let parsed = options_with("--heartbeat", text);
    let expected = if text == "off" {
        Some(None)
    } else {
        time.map(Some)
    };
    assert_eq!(parsed.map(|options| options.config.heartbeat), expected);
}

fn options_with(flag: &str, value: &str) -> Option<Box<Options>> {
    match parse(&[flag.as_ref(), value.as_ref()]) {
        Ok(Invocation::Serve(options)) => Some(options),
        Ok(Invocation::Print(_)) => panic!("{flag} prints"),
        Err(_) => None,
    }
}

/// A number that counts in one of these units.
fn amount(text: &str, units: &[(&str, u128)]) -> Option<u128> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let (_, factor) = units
        .iter()
        .find(|(unit, _)| *unit == &text[digits.len()..])?;
    let are_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: u128 = digits.parse().ok().filter(|_| are_digits)?;
    number.checked_mul(*factor)
}
