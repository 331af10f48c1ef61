//! Test-only: throwaway servers, conformance suites, fault injection, fixed clock.
