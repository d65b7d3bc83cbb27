//! What the words mean: names, references, options, reports, errors. Values are validated once, here, and carry that
//! proof in their type. No input or output of any kind.

pub mod between;
pub mod domain;
pub mod error;
pub mod host;
pub mod keep;
pub mod line;
pub mod meant;
pub mod name;
pub mod publish;
pub mod reference;
pub mod release;
pub mod running;
pub mod schedule;
pub mod seat;
pub mod shown;
pub mod sync;

pub use domain::Domain;
pub use error::{Error, Kind, Result};
pub use name::Name;
pub use reference::{Host, JobName, Place, Reference, ServiceName, TenantName, VolumePath};
pub use seat::Seat;
