//! Chat rooms: everyone in a room hears everyone there, and sees who is there.
//!
//!     cargo run --example chat
//!     cargo run --example chat 0.0.0.0:7777     (for the other machines of your network, too)
//!
//! Open <http://127.0.0.1:7777/> in two windows and join the same room under two names: each sees the other in the
//! list and what the other says. Close one window: its name goes from the list. Ctrl-C ends it.
//!
//! A room is a path, `/rooms/NAME`. All messages are text. A client sends its name, then what it has to say. It gets
//! messages whose first line tells what they are: `sorry` (the name is not taken, and why: try another), `here` (the
//! names of all who are, a line each, after every coming and going), `said` (a name, then the text) or `missed` (so
//! many messages, because it read too slowly).

use std::{cell::RefCell, collections::BTreeSet, env, rc::Rc, time::Duration};
use whit::{Closed, Config, Connection, Hub, Listener, Policy, Response, Server, Topic};

/// No one types faster. What a flooding client sends meanwhile waits, in its own queue and then on its own side.
const PAUSE: Duration = Duration::from_millis(100);

/// The names of all guests, each after its room.
type Guests = Rc<RefCell<BTreeSet<(String, String)>>>;

/// A place in a room. Dropping it is leaving, so that a guest leaves however its handler ends.
struct Guest {
    place: (String, String),
    guests: Guests,
    here: Topic,
}

impl Guest {
    /// Lets a guest in, or tells why not.
    fn join(name: &str, here: &Topic, guests: &Guests) -> Result<Self, String> {
        if !(1..=20).contains(&name.chars().count()) || !name.chars().all(char::is_alphanumeric) {
            return Err("a name is 1 to 20 letters or digits".into());
        }
        let place = (here.name().to_string(), name.to_string());
        if !guests.borrow_mut().insert(place.clone()) {
            return Err(format!("{name} is here already: choose another name"));
        }
        let (guests, here) = (guests.clone(), here.clone());
        Ok(Self {
            place,
            guests,
            here,
        })
    }

    fn tell_who_is_here(&self) {
        let guests = self.guests.borrow();
        let in_room = guests.iter().filter(|(room, _)| *room == self.place.0);
        let names: String = in_room.map(|(_, name)| format!("\n{name}")).collect();
        self.here.publish(format!("here{names}"));
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.guests.borrow_mut().remove(&self.place);
        self.tell_who_is_here();
    }
}

async fn chat(conn: Connection, hub: Hub, guests: Guests) -> Result<(), Closed> {
    let room = conn.request().path();
    let said = hub.topic(room);
    let here = hub.topic(&format!("{room} here"));
    let guest = loop {
        let name = conn.read().await?;
        match Guest::join(name.as_text().unwrap_or_default(), &here, &guests) {
            Ok(guest) => break guest,
            Err(why) => conn.write(format!("sorry\n{why}")).await?,
        }
    };
    // No one waits for a slow reader: it misses the oldest of what was said, but never who is here now.
    let _here = here.subscribe(&conn, Policy::Latest);
    let _said = said
        .subscribe(&conn, Policy::DropOldest(100))
        .tell_missed(|missed| format!("missed\n{missed}"));
    guest.tell_who_is_here();
    loop {
        if let Some(text) = conn.read().await?.as_text() {
            said.publish(format!("said\n{}\n{text}", guest.place.1));
        }
        whit::sleep(PAUSE).await;
    }
}

fn main() -> whit::Result<()> {
    let addr = env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:7777".into());
    let listener = Listener::bind(addr)?;
    for addr in listener.local_addrs() {
        eprintln!("open http://{addr}/");
    }
    let server = Server::new()
        .config(Config::new().max_message_bytes(4 * 1024))
        .shut_down_on_signals();
    let (hub, guests) = (server.hub(), Guests::default());
    let server = server
        .route("/rooms/*", move |conn| {
            chat(conn, hub.clone(), guests.clone())
        })
        .page("/", |_| Response::html(include_str!("chat.html")));
    whit::block_on(server.serve(listener))?
}
