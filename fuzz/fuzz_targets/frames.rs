//! The frames after a handshake, against a plain model of RFC 6455: as they are read, and all through tungstenite.
#![no_main]

use libfuzzer_sys::fuzz_target;
use whit::fuzzing;
use whit_fuzz::{Input, rfc6455};

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let max_message_bytes = input.one_of(&[65_536, 1, 10, 125, 126, 1000, 2048, 5000]);
    let max_fragments = input.one_of(&[128, 1, 2, 3]);
    let with_handshake = input.one_of(&[false, true]);
    let cuts = input.cuts();
    let frames = input.rest();

    let expected = rfc6455::read(frames, max_message_bytes, max_fragments);
    for join_all in [false, true] {
        let first = (!with_handshake).then_some(&[][..]);
        let reads = first.into_iter().chain(cuts.cut(frames));
        let read = fuzzing::read_frames(reads, max_message_bytes, max_fragments, join_all);
        assert_eq!(
            read, expected,
            "at most {max_message_bytes} bytes in {max_fragments} frames, all through tungstenite: {join_all}"
        );
    }
});
