//! What a tenant is made of: its `mcloud.yml`.

pub mod config;
