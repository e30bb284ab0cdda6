//! The environment matrix names tests that are there. Running them is `torture matrix`.

use std::fs;
use std::path::Path;

use caslock_torture::matrix::{ROWS, Suite};

#[test]
fn each_hazard_has_a_test_and_each_test_is_there() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (row, number) in ROWS.iter().zip(1..) {
        assert_eq!(row.number, number, "{}", row.hazard);
        assert!(!row.cells.is_empty(), "{} has no test", row.hazard);
        for cell in row.cells {
            let file = workspace.join(cell.suite.file());
            let source = fs::read_to_string(&file)
                .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            // The models are parts of one program, listed there and not by an attribute.
            let part = match cell.suite {
                Suite::Model(_) => Some(format!("fn {}(", cell.test)),
                Suite::Models(_) => Some(cell.test.to_owned()),
                _ => None,
            };
            if let Some(part) = part {
                assert!(source.contains(&part), "{}", cell.test);
                continue;
            }
            let (_, rest) = source
                .split_once(&format!("fn {}()", cell.test))
                .unwrap_or_else(|| panic!("no {} in {}", cell.test, file.display()));
            assert!(rest.trim_start().starts_with('{'), "{}", cell.test);
            let before = &source[..source.len() - rest.len()];
            let attribute = before.rfind("#[test]").expect("a test");
            let between = &before[attribute..];
            assert!(
                between.matches("fn ").count() == 1,
                "{} is no test",
                cell.test
            );
        }
    }
    assert_eq!(ROWS.len(), 35);
}
