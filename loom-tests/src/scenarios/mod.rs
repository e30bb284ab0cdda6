//! The models, one file an area; each function makes one.

pub mod exclusion;
pub mod names;
pub mod reclaim;
pub mod records;
pub mod revoke;
pub mod waiting;
pub mod wrap;
