//! Topics that are shared with an MQTT broker.

use super::{Broker, check_name, publish};
use crate::{
    mqtt::{Bridge, Outbox},
    work::Serving,
};
use futures_lite::future;
use std::{cell::Cell, rc::Rc};
use whit::Message;

/// What is shared, beside the bridge.
pub(super) struct Share {
    outbox: Outbox,
    misnamed: LeftOut,
    surplus: LeftOut,
}

/// So many messages from the broker no topic here takes.
#[derive(Default)]
struct LeftOut(Cell<u64>);

impl Share {
    pub(super) fn new(outbox: Outbox) -> Self {
        Self {
            outbox,
            misnamed: LeftOut::default(),
            surplus: LeftOut::default(),
        }
    }

    /// What a client publishes goes to the broker, too.
    pub(super) fn send(&self, name: &str, message: Message, retain: bool) {
        self.outbox.publish(name, message, retain);
    }
}

impl LeftOut {
    fn count(&self, name: &str, rule: &str) {
        let number = self.0.get() + 1;
        self.0.set(number);
        // Whoever publishes at the broker shall not fill the log.
        if number == 10_u64.pow(number.ilog10()) {
            log::warn!(
                "mqtt: messages on topics such as {name:.100} are left out, {number} so far: {rule}"
            );
        }
    }
}

/// Runs the bridge beside the serving, and ends with it.
pub(super) fn beside(broker: Rc<Broker>, bridge: Bridge) -> Box<dyn FnOnce(Serving) -> Serving> {
    Box::new(|serving| {
        Box::pin(async move {
            let bridging = async {
                let receive =
                    |name: &str, message, is_stored| broker.receive(name, message, is_stored);
                bridge.run(receive).await;
                future::pending().await
            };
            let ended = future::or(serving, bridging).await;
            bridge.end();
            ended
        })
    })
}

impl Broker {
    /// A message from the MQTT broker goes to the clients here, and not back. `is_stored` if the broker had it before it was
    /// connected to.
    fn receive(&self, name: &str, message: Message, is_stored: bool) {
        let Some(share) = &self.share else {
            return;
        };
        if let Err(rule) = check_name(name) {
            return share.misnamed.count(name, rule);
        }
        let Some(topic) = self.topic(name) else {
            let rule = format!("--max-topics {} has room for no more", self.max_topics);
            return share.surplus.count(name, &rule);
        };
        // It comes again with every connection, and may be older than what waits to go there.
        let is_unwanted = || {
            self.replay == 0
                || topic.retained().as_ref() == Some(&message)
                || share.outbox.has(name)
        };
        if !(is_stored && is_unwanted()) {
            publish(&topic, message);
        }
    }
}
