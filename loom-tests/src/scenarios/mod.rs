//! The models, one file an area; each function makes one.

pub mod certificate;
pub mod exclusion;
pub mod heirs;
pub mod names;
pub mod reclaim;
pub mod records;
pub mod reset;
pub mod revoke;
pub mod sessions;
pub mod stops;
pub mod waiting;
pub mod wrap;
