//! The name of an object: the BLAKE3 hash of its bytes.

use std::fmt;

/// BLAKE3-256 of an object's bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(pub [u8; 32]);

impl Name {
    /// Stands for "not known yet"; no object has it (it would take a preimage of zero).
    pub const UNKNOWN: Name = Name([0; 32]);

    pub fn of(bytes: &[u8]) -> Name {
        Name(*blake3::hash(bytes).as_bytes())
    }

    pub fn is_known(&self) -> bool {
        *self != Name::UNKNOWN
    }

    /// The first half: enough to tell two peers' objects apart when a list of them has to be short.
    pub fn short(&self) -> Short {
        let mut short = [0; 16];
        short.copy_from_slice(&self.0[..16]);
        Short(short)
    }

    /// The first eight bytes, for tables in memory.
    pub fn prefix(&self) -> u64 {
        u64::from_le_bytes([self.0[0], self.0[1], self.0[2], self.0[3], self.0[4], self.0[5], self.0[6], self.0[7]])
    }

    pub fn from_slice(bytes: &[u8]) -> Option<Name> {
        bytes.try_into().ok().map(Name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Half a name. Says "I have this" in half the bytes; whatever rests on it is verified with the whole name later.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Short(pub [u8; 16]);
