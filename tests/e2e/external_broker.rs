//! The whole system on a real Mosquitto, set up by what `muster-hub broker-config mosquitto` prints.
