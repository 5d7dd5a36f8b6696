//! What the limit, the load generator and whit's own echo server share.

pub mod frame;

use std::{env, fmt::Display, process, str::FromStr};

/// The text of a heartbeat.
pub const HEARTBEAT: &[u8] = b"heartbeat";

/// The value of a flag of the command line, parsed.
pub fn flag<T: FromStr<Err: Display>>(name: &str) -> Option<T> {
    let value = env::args().skip_while(|arg| arg != name).nth(1)?;
    Some(
        value
            .parse()
            .unwrap_or_else(|error| fail(format_args!("{name} {value}: {error}"))),
    )
}

/// Whether a flag without a value is on the command line.
pub fn switch(name: &str) -> bool {
    env::args().any(|arg| arg == name)
}

/// The value of `--heartbeat`, such as `1s`, in seconds.
pub fn heartbeat_seconds() -> Option<f64> {
    let value: String = flag("--heartbeat")?;
    let seconds = value
        .strip_suffix('s')
        .and_then(|number| number.parse().ok());
    Some(seconds.unwrap_or_else(|| {
        fail(format_args!(
            "--heartbeat is {value}: wanted seconds, such as 1s"
        ))
    }))
}

/// Ends the program with a line that tells why.
pub fn fail(why: impl Display) -> ! {
    eprintln!("fail: {why}");
    process::exit(1)
}
