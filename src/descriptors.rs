//! How many files the command may have open: each connection is one.

/// Has the system let it have so many, and no more: what it runs has the same limit, and may close all that there could be, one by one. Tells
/// how many there are at most, if that is fewer.
#[cfg(target_os = "linux")]
pub(crate) fn raise_limit(needed: u64) -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let too_few = |limit: &u64| *limit < needed;
    current.filter(too_few)?;
    let raised = maximum.map_or(needed, |maximum| maximum.min(needed));
    let limit = Rlimit {
        current: Some(raised),
        maximum,
    };
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => Some(raised).filter(too_few),
        Err(_) => current,
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn raise_limit(_: u64) -> Option<u64> {
    None
}
