//! The hub's API over real TLS, on ports that the system chose, with the real database: what people and devices meet.

mod answers;
mod enrolment;
mod keys;
mod people;
mod rights;
mod world;
