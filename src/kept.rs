//! What a topic keeps for those who subscribe later.

use crate::feed::{Published, Publishing};
use std::{collections::VecDeque, mem, rc::Rc};

/// The newest so many messages, and of those with a key the newest of each.
#[derive(Default)]
pub(crate) struct Kept {
    most: usize,
    /// In the order in which they came.
    messages: VecDeque<Rc<Published>>,
    /// How many of them have no key.
    keyless: usize,
}

impl Kept {
    /// Keeps so many from now on, and nothing if that is none.
    pub(crate) fn set_most(&mut self, most: usize) {
        self.most = most;
        match most {
            0 => self.clear(),
            _ => self.leave_keyless(most),
        }
    }

    /// Keeps a message, if it keeps any, which it tells. What is older goes where there is no room for all: what is not the newest any more
    /// is not kept instead.
    pub(crate) fn push(&mut self, publishing: &mut Publishing<'_>) -> bool {
        if self.most == 0 {
            return false;
        }
        match publishing.key {
            None => self.leave_keyless(self.most - 1),
            key => {
                let same = |published: &Rc<Published>| published.key.as_deref() == key;
                if let Some(place) = self.messages.iter().position(same) {
                    self.remove(place);
                }
            }
        }
        while !publishing.has_room_to_keep() && !self.is_empty() {
            self.remove(0);
        }
        let has_room = publishing.has_room_to_keep();
        let shared = has_room.then(|| publishing.share()).flatten();
        match shared {
            Some(published) => {
                self.keyless += usize::from(published.key.is_none());
                published.begin_to_keep();
                self.messages.push_back(published);
            }
            None => self.clear(),
        }
        true
    }

    fn leave_keyless(&mut self, most: usize) {
        while self.keyless > most {
            let oldest = self.iter().position(|published| published.key.is_none());
            self.remove(oldest.unwrap_or_default());
        }
    }

    pub(crate) fn remove(&mut self, place: usize) {
        if let Some(published) = self.messages.remove(place) {
            self.keyless -= usize::from(published.key.is_none());
            published.end_to_keep();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.keyless = 0;
        for published in mem::take(&mut self.messages) {
            published.end_to_keep();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(crate) fn newest(&self) -> Option<&Rc<Published>> {
        self.messages.back()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Rc<Published>> {
        self.messages.iter()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.clear();
    }
}
