//! How much is done by tests that repeat one check many times.

/// Whether to do all of it: NANOSERVE_TESTS is `all`, as `scripts/thorough.sh` sets it. Otherwise a test does a part that
/// still has every kind of what it checks, so that the gate takes minutes.
pub fn thorough() -> bool {
    std::env::var_os("NANOSERVE_TESTS").is_some_and(|value| value == "all")
}
