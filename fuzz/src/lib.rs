//! What the targets share: how an input is taken apart, and models of what the server has to make of it.
//!
//! The models are written from the RFCs, over all the bytes at once, with nothing of the server's code.

pub mod head;
pub mod rfc6455;

use std::iter;

/// An input, taken from the front.
///
/// Numbers are the low bits of a byte, so that the digits of a seed that is text mean what they say.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// A number below 16, or 0 where nothing is left.
    pub fn digit(&mut self) -> usize {
        match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                usize::from(byte & 0x0f)
            }
            None => 0,
        }
    }

    /// One of these.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.digit() % choices.len()]
    }

    /// Where the rest is cut into reads: a count, and so many lengths.
    pub fn cuts(&mut self) -> Cuts<'a> {
        let count = self.digit().min(self.0.len());
        let (lengths, rest) = self.0.split_at(count);
        self.0 = rest;
        Cuts(lengths)
    }

    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// The lengths of reads, used in turn. A 0, or none at all, stands for all that is left.
#[derive(Clone, Copy)]
pub struct Cuts<'a>(&'a [u8]);

impl<'a> Cuts<'a> {
    pub fn cut(self, mut bytes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let mut lengths = self.0.iter().cycle();
        iter::from_fn(move || {
            let len = match lengths.next() {
                None | Some(0) => bytes.len(),
                Some(len) => bytes.len().min((*len).into()),
            };
            let (read, rest) = bytes.split_at(len);
            bytes = rest;
            (!read.is_empty()).then_some(read)
        })
    }
}
