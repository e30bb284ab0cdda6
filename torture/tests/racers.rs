//! Many that reclaim at once: `torture racers`, whole.

use std::process::Command;

/// Row 19. The campaign bounds every wait of its own.
#[test]
fn of_eight_that_reclaim_at_once_exactly_one_takes_over_from_the_dead() {
    let output = Command::new(env!("CARGO_BIN_EXE_torture"))
        .args(["racers", "--rounds", "100000"])
        .args(["--seed", &std::process::id().to_string()])
        .output()
        .expect("the campaign starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{told}");
    assert!(said.contains("100000 rounds, 100000 of them won"), "{said}");
    // Past the capture of a passing test's output.
    std::io::Write::write_all(&mut std::io::stderr(), &output.stdout).expect("stderr");
}
