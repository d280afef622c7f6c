//! `muster` against a real hub: every command as a person or a script runs it, with its output and its exit code.

mod commands;
mod devices;
mod list;
mod logins;
mod meaning;
mod organization;
mod people;
mod town;
mod usage;
