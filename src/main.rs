//! dev skeleton
mod config;
mod csr;
mod log;
mod policy;
mod serial;
mod settings;
mod spool;
mod state;
mod usage;
fn main() {}
