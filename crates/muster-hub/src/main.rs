//! `muster-hub`: the command line of the hub.

fn main() {}
