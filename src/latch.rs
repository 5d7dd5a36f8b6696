//! A value that is set once, and the event that tells of it.

use event_listener::Event;
use std::sync::OnceLock;

/// A cell that keeps the first value it is given, and wakes those who wait for one. It works across threads.
#[derive(Debug)]
pub(crate) struct Latch<T> {
    value: OnceLock<T>,
    event: Event,
}

impl<T> Default for Latch<T> {
    fn default() -> Self {
        Self {
            value: OnceLock::new(),
            event: Event::new(),
        }
    }
}

impl<T> Latch<T> {
    /// Keeps `value` if it is the first.
    pub(crate) fn set(&self, value: T) {
        if self.value.set(value).is_ok() {
            self.event.notify(usize::MAX);
        }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        self.value.get()
    }

    pub(crate) fn is_set(&self) -> bool {
        self.value.get().is_some()
    }

    pub(crate) async fn wait(&self) -> &T {
        loop {
            if let Some(value) = self.value.get() {
                return value;
            }
            let listener = self.event.listen();
            // Another thread may have set it before the listener was there.
            if !self.is_set() {
                listener.await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future;
    use std::sync::Arc;

    #[test]
    fn the_first_value_stays() {
        let latch = Latch::default();
        latch.set(1);
        latch.set(2);
        assert_eq!(latch.get(), Some(&1));
    }

    #[test]
    fn another_thread_wakes_the_waiting() {
        let latch = Arc::new(Latch::default());
        let setter = latch.clone();
        let thread = std::thread::spawn(move || setter.set("done"));
        assert_eq!(future::block_on(latch.wait()), &"done");
        thread.join().unwrap();
    }
}
