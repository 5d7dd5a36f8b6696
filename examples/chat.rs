//! A chat room: everyone hears everyone, and sees who is there.
//!
//!     cargo run --example chat
//!     cargo run --example chat 0.0.0.0:7777     (for the other machines of your network, too)
//!
//! Open <http://127.0.0.1:7777/> in two windows and join under two names: each sees the other in the list and
//! what the other says. Close one window: its name goes from the list. Ctrl-C ends it.
//!
//! All messages are text. A client sends its name, then what it has to say. It gets messages whose first line
//! tells what they are, `sorry` (the name is not taken, and why: try another), `here` (the names of all who
//! are, a line each, after every coming and going) or `said` (a name, then the text).

use smol::Timer;
use std::{cell::RefCell, collections::BTreeMap, env, rc::Rc, time::Duration};
use whit::{
    CloseCode, Closed, Config, Connection, Listener, Message, Response, Server, TryWriteError,
};

/// No one types faster. What a flooding client sends meanwhile waits, in its own queue and then on its own side.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Room {
    guests: RefCell<BTreeMap<String, Connection>>,
}

impl Room {
    /// Lets a guest in, or tells why not.
    fn join(self: &Rc<Self>, name: &str, conn: &Connection) -> Result<Guest, String> {
        if !(1..=20).contains(&name.chars().count()) || !name.chars().all(char::is_alphanumeric) {
            return Err("a name is 1 to 20 letters or digits".into());
        }
        if self.guests.borrow().contains_key(name) {
            return Err(format!("{name} is here already: choose another name"));
        }
        self.guests.borrow_mut().insert(name.into(), conn.clone());
        self.tell_who_is_here();
        Ok(Guest {
            room: self.clone(),
            name: name.into(),
        })
    }

    fn tell_who_is_here(&self) {
        let mut here = String::from("here");
        for name in self.guests.borrow().keys() {
            here.push('\n');
            here.push_str(name);
        }
        self.tell(here);
    }

    /// Tells all, and waits for no one: who does not keep up has to leave.
    fn tell(&self, text: String) {
        let message = Message::from(text);
        for conn in self.guests.borrow().values() {
            if let Err(TryWriteError::Full(_)) = conn.try_write(message.clone()) {
                conn.close(CloseCode::TRY_AGAIN_LATER, "you read too slowly");
            }
        }
    }
}

/// A place in the room. Dropping it is leaving, so that a guest leaves however its handler ends.
struct Guest {
    room: Rc<Room>,
    name: String,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.room.guests.borrow_mut().remove(&self.name);
        self.room.tell_who_is_here();
    }
}

async fn chat(conn: Connection, room: Rc<Room>) -> Result<(), Closed> {
    let guest = loop {
        let name = conn.read().await?;
        match room.join(name.as_text().unwrap_or_default(), &conn) {
            Ok(guest) => break guest,
            Err(why) => conn.write(format!("sorry\n{why}")).await?,
        }
    };
    loop {
        if let Some(text) = conn.read().await?.as_text() {
            room.tell(format!("said\n{}\n{text}", guest.name));
        }
        Timer::after(PAUSE).await;
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
    let room = Rc::new(Room::default());
    let server = Server::new()
        .config(Config::new().max_message_bytes(4 * 1024))
        .route("/ws", move |conn| chat(conn, room.clone()))
        .page("/", |_| Response::html(include_str!("chat.html")));
    whit::block_on(server.serve(listener))?
}
