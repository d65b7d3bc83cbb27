//! What is there: trees of BLAKE3-named objects, and the live directory as one of them.

pub mod link;
