//! How the daemon and the command line reach a hub.
