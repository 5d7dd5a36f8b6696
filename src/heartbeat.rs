//! The heartbeat future: one for the whole server, with one timer for all that is due.

use crate::{
    close::{CloseCode, Closed, ClosedBy},
    config::{Config, HEARTBEAT},
    link::{Life, Links},
    message::Message,
    reactor,
    shown::Time,
    wire::Frame,
};
use std::time::{Duration, Instant};

/// Something that is due again and again.
struct Period {
    every: Duration,
    next: Instant,
}

impl Period {
    fn starting(now: Instant, every: Option<Duration>) -> Option<Self> {
        every.map(|every| Self {
            every,
            next: now + every,
        })
    }

    /// Whether it is due. After a delay, as when the machine slept, the time starts anew: turns that were missed are left
    /// out, and the next one leaves as much time as any other.
    fn take_due(&mut self, now: Instant) -> bool {
        let due = self.next <= now;
        if due {
            let on_time = now <= self.next + LATE;
            self.next = if on_time { self.next } else { now } + self.every;
        }
        due
    }
}

/// A timer that fires later than this was held up, and with it all else.
const LATE: Duration = Duration::from_millis(10);

/// Sends what is due to all connections in one pass, and ends those that are not heard from. Sleeps while no one
/// is connected. Never returns.
pub(crate) async fn run(links: &Links, config: &Config) {
    loop {
        links.wait().await;
        let now = reactor::now();
        let mut pings = Period::starting(now, config.ping_interval);
        let mut heartbeats = Period::starting(now, config.heartbeat);
        let idle_looks = config.idle_timeout.map(|timeout| timeout / 4);
        let mut idle_looks = Period::starting(now, idle_looks);
        let mut pongs_until: Option<Instant> = None;

        while !links.is_empty() {
            let next = [&pings, &heartbeats, &idle_looks]
                .into_iter()
                .filter_map(|period| period.as_ref().map(|period| period.next))
                .chain(pongs_until)
                .min();
            match next {
                Some(next) => reactor::sleep_until(next).await,
                None => std::future::pending().await,
            }

            let now = reactor::now();
            match pongs_until {
                // The thread, or the machine, stood still: what was heard meanwhile is still to be read.
                Some(deadline) if now > deadline + LATE => pongs_until = Some(now + LATE),
                Some(deadline) if now >= deadline => {
                    let all_judged = end_silent(links, config);
                    pongs_until = (!all_judged).then_some(now + config.pong_timeout);
                }
                _ => {}
            }
            if let Some(pings) = &mut pings {
                if pings.take_due(now) {
                    // Not after the next ping, which would start the wait anew.
                    pongs_until = Some(pings.next.min(now + config.pong_timeout));
                    links.for_each(|link| link.ping());
                }
            }
            if let Some(timeout) = config.idle_timeout {
                if idle_looks.as_mut().is_some_and(|looks| looks.take_due(now)) {
                    end_idle(links, now, timeout);
                }
            }
            if heartbeats
                .as_mut()
                .is_some_and(|period| period.take_due(now))
            {
                let frame = Frame::new(&Message::from(HEARTBEAT));
                links.for_each(|link| link.heartbeat(&frame));
            }
        }
    }
}

/// Ends those that are silent. Tells whether that was the last word on the others.
fn end_silent(links: &Links, config: &Config) -> bool {
    let reason = format!("no pong within {}", Time(config.pong_timeout));
    let mut all_judged = true;
    links.for_each(|link| match link.life() {
        Life::Answered => {}
        Life::Receiving => all_judged = false,
        Life::Silent => {
            link.close(Closed::lost(ClosedBy::Local, &reason).at_limit("pong_timeout"));
        }
    });
    all_judged
}

fn end_idle(links: &Links, now: Instant, timeout: Duration) {
    let reason = format!("no message for {}", Time(timeout));
    links.for_each(|link| {
        if link.idle_for(now) >= timeout {
            let closed = Closed::new(ClosedBy::Local, CloseCode::GOING_AWAY, &reason);
            link.close(closed.at_limit("idle_timeout"));
        }
    });
}
