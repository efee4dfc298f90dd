//! Nothing to import: this package holds the tests that cross the crates' borders (`tests/`), the scripts that make their golden
//! numbers (`reference/`) and the checks against peers (`peers/`).
