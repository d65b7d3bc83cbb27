//! What is there: trees of BLAKE3-named objects, and the live directory as one of them.

pub mod big;
pub mod chunk;
pub mod entry;
pub mod filter;
pub mod index;
pub mod link;
pub mod look;
pub mod node;
pub mod read;
pub mod records;
pub mod scan;
pub mod view;
