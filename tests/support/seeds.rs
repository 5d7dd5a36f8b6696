//! What simulations share: numbers that a seed gives, and many seeds on all processors.

use std::thread;

/// A generator of numbers that look random (splitmix64).
#[derive(Clone)]
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

/// Plays `usual` seeds, or as many as `WHIT_SEEDS` tells, and gives the sum of what came of them. With `WHIT_SEED` it plays that one alone,
/// which is to tell all that happens, and gives nothing.
pub fn play<T: Default + Send>(
    usual: u64,
    run: impl Fn(u64, bool) -> T + Sync,
    add: impl Fn(&mut T, T) + Sync,
) -> Option<T> {
    let number = |name| {
        let value = std::env::var(name).ok()?;
        Some(value.parse::<u64>().expect("a seed is a number"))
    };
    if let Some(seed) = number("WHIT_SEED") {
        run(seed, true);
        return None;
    }
    let count = number("WHIT_SEEDS").unwrap_or(usual);
    let threads = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let play_each = |first: u64| {
        let mut sum = T::default();
        for seed in (first..count).step_by(threads as usize) {
            let _told = ToldOnPanic(seed);
            add(&mut sum, run(seed, false));
        }
        sum
    };
    let total = thread::scope(|scope| {
        let play_each = &play_each;
        let running: Vec<_> = (0..threads)
            .map(|first| scope.spawn(move || play_each(first)))
            .collect();
        let mut total = T::default();
        for thread in running {
            add(&mut total, thread.join().expect("no seed fails"));
        }
        total
    });
    // Fewer do not come to everything.
    (count >= usual).then_some(total)
}

struct ToldOnPanic(u64);

impl Drop for ToldOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("to see it again, run the test with WHIT_SEED={}", self.0);
        }
    }
}

/// Takes a server's frame from the front, if it is complete.
pub fn take_frame(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let (&[first, second], rest) = bytes.split_first_chunk()?;
    assert_eq!(
        first & 0xf0,
        0x80,
        "a server's frames are whole, without extension bits"
    );
    let (len, header) = match second {
        126 => (u16::from_be_bytes(*rest.first_chunk()?) as usize, 4),
        127 => (u64::from_be_bytes(*rest.first_chunk()?) as usize, 10),
        len => {
            assert_eq!(len & 0x80, 0, "a server's frames are not masked");
            (len as usize, 2)
        }
    };
    if bytes.len() < header + len {
        return None;
    }
    let payload = bytes[header..header + len].to_vec();
    bytes.drain(..header + len);
    Some((first & 0x0f, payload))
}
