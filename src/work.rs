//! What each command hands over to be run.

use std::{error::Error, pin::Pin};
use whit::Server;

/// The server until it ends.
pub(crate) type Serving = Pin<Box<dyn Future<Output = Result<(), Box<dyn Error>>>>>;

pub(crate) struct Work {
    pub(crate) server: Server,
    /// Adds to the serving what is done beside it, and after it.
    pub(crate) beside: Option<Box<dyn FnOnce(Serving) -> Serving>>,
}
