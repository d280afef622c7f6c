//! The organization as a whole, over HTTP against a running hub: every cell of the table of rights, played;
//! other organizations' ids.

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected fails there")]

mod after;
mod before;
mod caller;
mod cases;
mod details;
mod foreign;
mod fuzz;
mod grid;
mod guessing;
mod hostile;
mod killed;
mod matrix;
mod own;
mod process;
mod records;
mod stage;
mod storm;
mod targets;
mod told;
