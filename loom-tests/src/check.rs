//! Runs a model: all its executions within its bound, the outcomes it must reach, one
//! row of the table.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind, set_hook, take_hook};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};

use crate::report::{self, Row};
use crate::stop;

/// The environment variable that raises the bound of the models that have one.
pub const BOUND_VARIABLE: &str = "CASLOCK_LOOM_BOUND";

/// What the executions of a model came to: kept outside it, so that a model that never
/// gets where it should is seen to be vacuous.
#[derive(Clone, Debug, Default)]
pub struct Reached(Arc<Mutex<BTreeSet<&'static str>>>);

impl Reached {
    /// Records that some execution came to `outcome`.
    pub fn mark(&self, outcome: &'static str) {
        self.0.lock().expect("nothing panics here").insert(outcome);
    }

    fn add(&self, other: &Self) {
        let more = other.0.lock().expect("nothing panics here");
        self.0.lock().expect("nothing panics here").extend(&*more);
    }

    fn has(&self, outcome: &'static str) -> bool {
        self.missing(&[outcome]).is_empty()
    }

    fn missing(&self, expected: &[&'static str]) -> Vec<&'static str> {
        let reached = self.0.lock().expect("nothing panics here");
        let absent = |outcome: &&&str| !reached.contains(**outcome);
        expected.iter().filter(absent).copied().collect()
    }
}

type Body = dyn Fn(&Reached) + Send + Sync;

/// A model: what it proves, with whom, within what bound.
#[derive(Clone)]
pub struct Model {
    name: String,
    proves: &'static str,
    actors: u32,
    bound: Option<usize>,
    branches: usize,
    expected: Vec<&'static str>,
    body: Arc<Body>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static FIRST: Cell<usize> = const { Cell::new(0) };
}

/// Which actor the running search begins with.
///
/// loom remembers one last access of an atomic, not one of each thread (its issues 166 and
/// 392). When a thread reads a word and then changes it, its own reading hides that another
/// had read the word before, and loom does not try that change before the other's reading.
/// Begun with the thread that changes the word, the search does have both. So each model is
/// searched once for each actor, with that one first.
pub(crate) fn first_actor() -> usize {
    FIRST.get()
}

impl Model {
    /// An exhaustive model of `actors` actors.
    pub fn new(
        name: impl Into<String>,
        proves: &'static str,
        actors: u32,
        body: impl Fn(&Reached) + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            proves,
            actors,
            bound: None,
            branches: 5_000,
            expected: Vec::new(),
            body: Arc::new(body),
        }
    }

    /// The same model, with at most `preemptions` of them in an execution.
    #[must_use]
    pub fn bounded(mut self, preemptions: usize) -> Self {
        let asked = std::env::var(BOUND_VARIABLE)
            .ok()
            .and_then(|bound| bound.parse().ok());
        self.bound = Some(preemptions.max(asked.unwrap_or(0)));
        self
    }

    /// The same model, with room for long executions.
    #[must_use]
    pub fn long(mut self) -> Self {
        self.branches = 1_000_000;
        self
    }

    /// The outcomes that some execution must come to.
    #[must_use]
    pub fn reaching(mut self, outcomes: &[&'static str]) -> Self {
        self.expected.extend(outcomes);
        self
    }

    /// The model's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Checks the model and adds its row to the table.
    ///
    /// # Panics
    ///
    /// If an execution breaks an assertion or an expected outcome was not reached.
    pub fn prove(self) {
        let mut sums = Sums::default();
        sums.add(&self);
        sums.row(&self);
    }

    /// Checks `model(k)` with an actor stopped after its k-th shared step, for each k up
    /// to the first that no execution gets to, and adds one row for all.
    ///
    /// # Panics
    ///
    /// If an execution breaks an assertion or an expected outcome was reached with no k.
    pub fn prove_at_each_stop(model: impl Fn(u32) -> Self) {
        let mut sums = Sums::default();
        for steps in 0.. {
            let this = model(steps);
            sums.add(&this);
            if !stop::happened() {
                return sums.row(&this);
            }
            sums.points += 1;
        }
    }

    /// The same for `model(j, k)` with two stops in one execution: each k for each j. The
    /// outcomes `first` and `second` say that the one was made, and the other. A model of
    /// its own for each pair keeps each execution short.
    ///
    /// # Panics
    ///
    /// As [`Model::prove_at_each_stop`].
    pub fn prove_at_each_pair_of_stops(
        model: impl Fn(u32, u32) -> Self,
        first: &'static str,
        second: &'static str,
    ) {
        let mut sums = Sums::default();
        for steps in 0.. {
            let mut is_last = false;
            for more_steps in 0.. {
                let this = model(steps, more_steps);
                let reached = sums.add(&this);
                is_last = !reached.has(first);
                if !reached.has(second) {
                    break;
                }
                sums.points += 1;
            }
            if is_last {
                return sums.row(&model(steps, 0));
            }
        }
    }

    /// What an execution of the model fails with, or `None` if all hold: for models that
    /// are meant to fail.
    #[must_use]
    pub fn violation(&self) -> Option<String> {
        hush();
        QUIET.set(true);
        let outcome = catch_unwind(AssertUnwindSafe(|| self.run()));
        QUIET.set(false);
        let payload = outcome.err()?;
        let text = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied());
        Some(text.unwrap_or("a panic").to_owned())
    }

    /// The first violation of `model(k)` for each k, as in [`Model::prove_at_each_stop`].
    #[must_use]
    pub fn violation_at_some_stop(model: impl Fn(u32) -> Self) -> Option<String> {
        for point in 0.. {
            let violation = model(point).violation();
            if let Some(violation) = violation {
                return Some(format!("stopped after {point} steps: {violation}"));
            }
            if !stop::happened() {
                return None;
            }
        }
        unreachable!("an actor has so many steps and no more")
    }

    /// As [`Model::run`], for models that must hold: a violation is counted.
    fn run_or_report(&self) -> (u64, Reached) {
        catch_unwind(AssertUnwindSafe(|| self.run())).unwrap_or_else(|payload| {
            report::violation();
            resume_unwind(payload)
        })
    }

    fn run(&self) -> (u64, Reached) {
        stop::reset();
        #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
        crate::stacks::reuse();
        let (iterations, reached) = (Arc::new(AtomicU64::new(0)), Reached::default());
        for first in 0..self.actors as usize {
            FIRST.set(first);
            let mut builder = loom::model::Builder::new();
            // An unfinished search must never look like a proof.
            builder.max_duration = None;
            builder.max_permutations = None;
            builder.max_branches = self.branches;
            builder.preemption_bound = self.bound;
            let (body, counter, marks) = (self.body.clone(), iterations.clone(), reached.clone());
            builder.check(move || {
                counter.fetch_add(1, Ordering::Relaxed);
                body(&marks);
            });
        }
        (iterations.load(Ordering::Relaxed), reached)
    }

    fn row(&self, iterations: u64, crash_points: u32) {
        let bound = match self.bound {
            None => "exhaustive".to_owned(),
            Some(bound) => format!("{bound} preemptions"),
        };
        report::add(Row::Model {
            name: self.name.clone(),
            actors: self.actors,
            bound,
            iterations,
            crash_points,
            proves: self.proves,
        });
    }
}

/// What a model came to with one stop after the other.
#[derive(Default)]
struct Sums {
    iterations: u64,
    points: u32,
    reached: Reached,
}

impl Sums {
    /// Checks `model`, and says what it came to by itself.
    fn add(&mut self, model: &Model) -> Reached {
        let (iterations, reached) = model.run_or_report();
        self.iterations += iterations;
        self.reached.add(&reached);
        reached
    }

    fn row(self, model: &Model) {
        let missing = self.reached.missing(&model.expected);
        let name = &model.name;
        assert!(missing.is_empty(), "{name}: never reached {missing:?}");
        model.row(self.iterations, self.points);
    }
}

/// Keeps the panics of models that are meant to fail off the screen.
fn hush() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let loud = take_hook();
        set_hook(Box::new(move |info| {
            if !QUIET.get() {
                loud(info);
            }
        }));
    });
}
