//! Somebody who uses a table that says anything at all: every operation, whatever the one
//! before answered. Errors and wrong grants are all right; not to come back is not.

use std::fmt::{Debug, Display};
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use caslock::{Inspector, Lock, LockError, LockTable, Snapshot};

use super::image::name;
use crate::soak::dice::Dice;

/// Shown as people would see it: a message may not go wrong either.
fn show(what: &impl Display) {
    black_box(what.to_string());
}

fn show_all(what: &impl Debug) {
    black_box(format!("{what:?}"));
}

/// Uses the table at `path` without and with a session. Whether it could be opened.
pub(super) fn use_table(path: &Path, dice: &mut Dice) -> bool {
    match Inspector::open(path) {
        Ok(inspector) => {
            inspect(inspector.snapshot().as_ref().ok());
            for name in names(dice) {
                if let Ok(slot) = inspector.slot(&name) {
                    show_all(&slot);
                }
            }
            force(&inspector, dice);
        }
        Err(error) => show(&error),
    }
    match LockTable::options().open_existing(path) {
        Ok(table) => {
            work(&table, dice);
            true
        }
        Err(error) => {
            show(&error);
            false
        }
    }
}

/// Three names that the bases have, and two that hardly any table has.
fn names(dice: &mut Dice) -> Vec<String> {
    let old = (0..3)
        .map(|_| name(dice.below(12) as u32))
        .collect::<Vec<_>>();
    let new = (0..2).map(|_| format!("new-{}", dice.below(1000)));
    old.into_iter().chain(new).collect()
}

/// One round of everything that a session can do.
pub(super) fn work(table: &LockTable, dice: &mut Dice) {
    for name in names(dice) {
        match table.lock(&name) {
            Ok(lock) => use_lock(&lock, dice),
            Err(error) => {
                show(&error);
                // It has waited for ten seconds, and the next one would do the same.
                if matches!(error, LockError::NamingStuck { .. }) {
                    break;
                }
            }
        }
    }
    let snapshot = table.inspect().ok();
    inspect(snapshot.as_ref());
    for slot in snapshot.iter().flat_map(|snapshot| &snapshot.slots) {
        if dice.percent(30) {
            match table.force_release(&slot.name, slot.token) {
                Ok(forced) => show_all(&forced),
                Err(error) => show(&error),
            }
        }
    }
}

fn use_lock(lock: &Lock, dice: &mut Dice) {
    if let Ok(holder) = lock.holder() {
        show_all(&holder);
    }
    let granted = match dice.below(3) {
        0 => lock.acquire_timeout(Duration::from_millis(dice.below(4))),
        _ => lock.try_acquire(),
    };
    match granted {
        Ok(guard) => {
            show(&guard.previous());
            black_box((guard.token(), guard.is_held()));
            if dice.percent(20) {
                guard.on_lost(|lost| show(&lost));
            }
            if let Err(error) = guard.set_note("what it is about") {
                show(&error);
            }
            let ended = match dice.below(3) {
                0 => guard.release(),
                1 => guard.decline(),
                _ => {
                    drop(guard);
                    Ok(())
                }
            };
            if let Err(lost) = ended {
                show(&lost);
            }
        }
        Err(error) => show(&error),
    }
}

fn inspect(snapshot: Option<&Snapshot>) {
    let Some(snapshot) = snapshot else { return };
    show_all(snapshot);
    for slot in &snapshot.slots {
        show(&slot.state);
        show(&slot.previous);
        if let Some(holder) = &slot.holder {
            show(holder);
        }
    }
}

/// The operator's way, with the token shown and with any.
fn force(inspector: &Inspector, dice: &mut Dice) {
    let Ok(snapshot) = inspector.snapshot() else {
        return;
    };
    for slot in &snapshot.slots {
        let token = match dice.below(3) {
            0 => slot.token,
            1 => dice.next().into(),
            _ => continue,
        };
        match inspector.force_release(&slot.name, token) {
            Ok(forced) => show_all(&forced),
            Err(error) => show(&error),
        }
    }
}

/// Looks at the table and forces it by the command line.
///
/// # Errors
/// When a command did not end by itself, with one of its own codes.
pub(super) fn use_command(command: &Path, table: &Path, dice: &mut Dice) -> anyhow::Result<u64> {
    let (some, token) = (name(dice.below(12) as u32), dice.below(4).to_string());
    let runs: [&[&str]; 8] = [
        &["ls"],
        &["ls", "--json"],
        &["show", &some, "--json"],
        &["sessions", "--json"],
        &["doctor"],
        &["force-release", &some, "--token", &token, "--even-if-alive"],
        &["run", "-n", &some, "--", "true"],
        &["ls"],
    ];
    for args in runs {
        let output = Command::new(command)
            .arg("--table")
            .arg(table)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .with_context(|| command.display().to_string())?;
        let code = output.status.code();
        ensure!(
            code.is_some_and(|code| code != 101),
            "caslock {args:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(runs.len() as u64)
}
