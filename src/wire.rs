//! What crosses a wire: the messages of `proto/` to and from the words of the model, and how they are framed.
//!
//! Sans-IO: values and bytes go in, bytes and values come out. Whatever a peer sends is either understood or refused
//! with an error that says what was wrong with it; no length it claims is believed beyond its limit.

pub mod frame;
pub mod grants;
pub mod host;
pub mod link;
pub mod look;
pub mod publish;
pub mod release;
pub mod running;
pub mod schedule;
pub mod sync;

/// The messages as prost made them.
#[allow(clippy::all, clippy::pedantic)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/mcloud.v1.rs"));
}

use crate::model::{Error, Kind};

/// The version of the protocol that this program speaks: `mcloud/1`.
pub const VERSION: u32 = 1;

/// A peer said something that cannot be.
pub(crate) fn nonsense(what: impl std::fmt::Display) -> Error {
    Error::new(Kind::Corrupt, format!("the other side sent a message that makes no sense: {what}"))
        .hint("are both sides of the same version? (`mcloud --version`)")
}
