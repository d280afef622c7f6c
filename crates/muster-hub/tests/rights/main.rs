//! The organization as a whole, over HTTP against a running hub: every cell of the table of rights, played;
//! other organizations' ids.

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected fails there")]

mod caller;
mod cases;
mod foreign;
mod grid;
mod hostile;
mod killed;
mod matrix;
mod process;
mod records;
mod stage;
mod targets;
mod told;
