//! Buffers that all connections of a server use in turn.

use std::{cell::Cell, fmt};

/// What a connection needs only while it has its turn. Who takes one gives it back before anyone waits, and copies out what cannot
/// be done with by then. It does no harm if one is not given back: the next one is made when it is asked for.
#[derive(Default)]
pub(crate) struct Scratch {
    read: Cell<Vec<u8>>,
    write: Cell<Vec<u8>>,
}

impl Scratch {
    /// As much is read at once.
    const READ_BYTES: usize = 64 * 1024;

    /// A buffer to read into, as long as it may be filled.
    pub(crate) fn take_read(&self) -> Vec<u8> {
        let buffer = self.read.take();
        if buffer.is_empty() {
            return vec![0; Self::READ_BYTES];
        }
        buffer
    }

    pub(crate) fn give_read(&self, buffer: Vec<u8>) {
        self.read.set(buffer);
    }

    /// An empty buffer for what is to be written.
    pub(crate) fn take_write(&self) -> Vec<u8> {
        self.write.take()
    }

    pub(crate) fn give_write(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.write.set(buffer);
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}
