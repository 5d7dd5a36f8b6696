//! What is published costs no allocation for each subscriber.
#![allow(unsafe_code, reason = "an allocator that counts")]

use futures_lite::future::yield_now;
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};
use whit::{Connection, Message, Policy, Server, testing};

struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: it is the system's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends still frees and allocates.
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the same layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: it comes from there.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often something was allocated for one message to so many subscribers.
fn allocations(subscribers: usize) -> usize {
    let server = Server::new();
    let topic = server.hub().topic("t");
    let subscribed = topic.clone();
    let server = server.route("/ws", move |conn: Connection| {
        let topic = subscribed.clone();
        async move {
            let _subscription = topic.subscribe(&conn, Policy::Latest);
            Err::<(), _>(conn.closed().await)
        }
    });
    testing::run(server, |server| async move {
        let mut clients = Vec::new();
        for _ in 0..subscribers {
            // The pipe of other clients allocates.
            clients.push(server.connect_tcp("/ws").await.unwrap());
        }
        while topic.subscribers() < subscribers {
            yield_now().await;
        }
        let mut counts = Vec::new();
        for _ in 0..10 {
            let message = Message::from("20.5");
            let published = message.clone();
            let before = COUNT.get();
            topic.publish(published);
            counts.push(COUNT.get() - before);
            for client in &mut clients {
                assert_eq!(client.read().await.unwrap(), message);
            }
            // The server has a turn: a second message in one would wait for it.
            yield_now().await;
        }
        // Buffers that all connections share grow with the first.
        counts[1..].iter().copied().max().unwrap()
    })
}

#[test]
fn a_message_is_allocated_for_all_subscribers_at_most() {
    let one = allocations(1);
    assert_eq!(allocations(100), one);
    // Its frame, which all get.
    assert!(one <= 1, "{one}");
}
