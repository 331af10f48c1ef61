//! Scenarios across crates stand in `scenarios/`; this library is empty.
