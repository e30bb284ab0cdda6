//! Bugs planted in a copy of the source are caught: each by the first of its catchers.
//! The full version, with a control and all catchers, is `torture planted`.

use std::process::Command;

#[test]
fn each_planted_bug_is_caught_by_the_first_of_its_catchers() {
    // Every build and every catcher in it has its own end.
    let output = Command::new(env!("CARGO_BIN_EXE_torture"))
        .args(["planted", "--quick"])
        .output()
        .expect("the planting starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{told}");
    // Past the capture of a passing test's output.
    std::io::Write::write_all(&mut std::io::stderr(), &output.stdout).expect("stderr");
}
