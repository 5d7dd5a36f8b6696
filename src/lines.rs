//! Bytes that come in pieces, taken out by the line.

use std::ops::Range;

pub(crate) struct Lines {
    bytes: Vec<u8>,
    /// Where what was not taken yet begins.
    start: usize,
    /// There is no end of a line before this.
    searched: usize,
    max: usize,
}

/// A line without its end, or as much as may be of one that is longer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    Whole(&'a [u8]),
    Part(&'a [u8]),
}

impl Lines {
    /// Lines of `max` bytes at most.
    pub(crate) fn of(max: usize) -> Self {
        Self {
            bytes: Vec::new(),
            start: 0,
            searched: 0,
            max,
        }
    }

    /// Where to put the bytes that come, behind those that are there.
    pub(crate) fn tail(&mut self) -> &mut Vec<u8> {
        self.bytes.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        &mut self.bytes
    }

    pub(crate) fn next(&mut self) -> Option<Line<'_>> {
        let unsearched = &self.bytes[self.searched..];
        let end = unsearched.iter().position(|byte| *byte == b'\n');
        let end = end.map(|at| self.searched + at);
        if end.unwrap_or(self.bytes.len()) - self.start > self.max {
            let part = self.take(self.start + self.max, 0);
            return Some(Line::Part(&self.bytes[part]));
        }
        match end {
            Some(end) => {
                let line = self.take(end, 1);
                Some(Line::Whole(&self.bytes[line]))
            }
            None => {
                self.searched = self.bytes.len();
                None
            }
        }
    }

    /// What is left when no more comes: a line without an end, if anything.
    pub(crate) fn last(&mut self) -> Option<&[u8]> {
        let last = self.take(self.bytes.len(), 0);
        (!last.is_empty()).then(|| &self.bytes[last])
    }

    /// Takes what is before `end`, and skips what is between it and the next.
    fn take(&mut self, end: usize, gap: usize) -> Range<usize> {
        let taken = self.start..end;
        self.start = end + gap;
        self.searched = self.start;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_same_in_any_pieces() {
        let text = b"one\n\ntwo words\nlonger than ten\nexactly 10\nlast";
        for size in 1..text.len() {
            let mut lines = Lines::of(10);
            let mut taken = Vec::new();
            for piece in text.chunks(size) {
                lines.tail().extend(piece);
                while let Some(line) = lines.next() {
                    taken.push(match line {
                        Line::Whole(line) => (String::from_utf8_lossy(line).into_owned(), true),
                        Line::Part(part) => (String::from_utf8_lossy(part).into_owned(), false),
                    });
                }
            }
            let taken: Vec<_> = taken
                .iter()
                .map(|(line, is)| (line.as_str(), *is))
                .collect();
            let expected = [
                ("one", true),
                ("", true),
                ("two words", true),
                ("longer tha", false),
                ("n ten", true),
                ("exactly 10", true),
            ];
            assert_eq!(taken, expected, "in pieces of {size}");
            assert_eq!(lines.last(), Some(&b"last"[..]));
            assert_eq!(lines.last(), None);
        }
    }
}
