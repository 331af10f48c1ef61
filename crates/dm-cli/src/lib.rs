//! Command definitions, rendering, confirmation and exit codes.
