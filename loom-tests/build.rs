//! Makes the worlds with a planted bug: copies of the protocol's source with one place
//! changed, each a module of its own with the models that are to notice.
//!
//! A bug whose place is no longer in the source is not planted, and says so, so that its
//! test fails rather than the build.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

include!("src/planted_list.rs");

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let protocol = root.join("../src/protocol");
    println!("cargo::rerun-if-changed={}", protocol.display());
    println!("cargo::rerun-if-changed=src/planted_list.rs");
    println!("cargo::rerun-if-changed=build.rs");
    let mut modules = String::new();
    for bug in PLANTED {
        let planted = plant(&protocol, &out.join(bug.module), bug);
        modules += &module(&root, &out, bug, planted);
    }
    fs::write(out.join("planted.rs"), modules).expect("OUT_DIR is writable");
}

/// Copies the protocol, with the bug in it; false if its place is not there, or not once.
fn plant(from: &Path, to: &Path, bug: &Bug) -> bool {
    fs::create_dir_all(to).expect("OUT_DIR is writable");
    let mut planted = false;
    for entry in fs::read_dir(from).expect("the protocol's source is there") {
        let path = entry.expect("its entries can be read").path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if !name.ends_with(".rs") {
            continue;
        }
        let mut text = fs::read_to_string(&path).expect("the source can be read");
        if name == bug.file {
            planted = bug
                .right
                .iter()
                .all(|right| text.matches(right).count() == 1);
            for (right, wrong) in bug.right.iter().zip(bug.wrong) {
                text = text.replace(right, wrong);
            }
        }
        fs::write(to.join(name), text).expect("OUT_DIR is writable");
    }
    planted
}

fn module(root: &Path, out: &Path, bug: &Bug, planted: bool) -> String {
    let mut text = String::new();
    let mut scenarios = String::new();
    for name in bug.scenarios {
        let path = root.join(format!("src/scenarios/{name}.rs"));
        writeln!(
            scenarios,
            "/// Some of them.\n#[path = {path:?}]\npub mod {name};"
        )
        .expect("a string takes what it is given");
    }
    writeln!(
        text,
        "/// {story}\n\
         #[allow(warnings, clippy::all)]\n\
         pub mod {module} {{\n\
         /// Whether the place to change was found.\n\
         pub const PLANTED: bool = {planted};\n\
         pub use crate::{world}::widths;\n\
         #[path = {model:?}]\npub mod model;\n\
         #[path = {protocol:?}]\npub mod protocol;\n\
         /// The models that are to notice.\n\
         pub mod scenarios {{\n{scenarios}}}\n\
         #[path = {sync:?}]\npub mod sync;\n\
         }}",
        story = bug.story,
        module = bug.module,
        world = bug.world,
        model = root.join("src/model.rs"),
        protocol = out.join(bug.module).join("mod.rs"),
        sync = root.join("src/sync.rs"),
    )
    .expect("a string takes what it is given");
    text
}
