//! The GPU's kernels, compiled for the host, against the CPU's operations.

use mae_model::selftest::{Place, run};

#[test]
fn kernels_agree_with_the_operations_of_the_cpu() {
    let checks = run(&Place::Host).unwrap();
    assert!(checks.len() > 100);
    for check in checks {
        assert!(
            check.passed(),
            "{}: {:e}, {:e} allowed",
            check.name,
            check.difference,
            check.tolerance
        );
    }
}
