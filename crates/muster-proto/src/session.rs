//! The session protocol `muster.session.v1`, as a state machine without I/O.
