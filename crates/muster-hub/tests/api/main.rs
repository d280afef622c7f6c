//! The hub's API over real TLS, on ports that the system chose, with the real database: what people and devices meet.

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected fails there")]

mod accounts;
mod answers;
mod audit;
mod bulk;
mod csv;
mod enrolment;
mod fields;
mod invitations;
mod invite_page;
mod keys;
mod ledger;
mod limits;
mod list;
mod org;
mod people;
mod policies;
mod projects;
mod rights;
mod runs;
mod teams;
mod usage;
mod world;
