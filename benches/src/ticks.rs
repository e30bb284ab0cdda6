//! A clock that a pair of 12 ns can bear to be measured with, and work of a given length.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// The time stamp counter where there is one: about 8 ns a look, against 25 for a clock.
#[cfg(target_arch = "x86_64")]
#[inline]
#[must_use]
pub fn now() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and Linux lets programs use it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Elsewhere the monotonic clock, in nanoseconds.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
#[must_use]
pub fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// How long a tick is, from a stretch that both clocks saw.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    begun: Instant,
    ticks: u64,
}

impl Scale {
    /// Begins the stretch.
    #[must_use]
    pub fn begin() -> Self {
        Self {
            begun: Instant::now(),
            ticks: now(),
        }
    }

    /// Ends it: nanoseconds a tick.
    #[must_use]
    pub fn ns_per_tick(self) -> f64 {
        let ticks = now().wrapping_sub(self.ticks).max(1);
        self.begun.elapsed().as_nanos() as f64 / ticks as f64
    }
}

/// Work that takes as long as there are steps, and no longer for being interrupted: what a
/// critical section does. A loop that waited for a clock would count its time off the
/// processor as work done.
///
/// Each step waits for the one before and touches no memory (Marsaglia's xorshift), so nothing
/// but the processor's clock sets the pace. A loop that stores as fast as it can shares its
/// ports with whoever has the other half of the core, another guest of the host included.
#[inline]
pub fn work(steps: u64) {
    let mut state = steps | 1;
    for _ in 0..steps {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    black_box(state);
}

/// How many steps take a nanosecond here: the best of several tries, since whatever
/// interrupts a try makes it longer.
#[must_use]
pub fn steps_per_ns() -> f64 {
    const STEPS: u64 = 1_000_000;
    let least = (0..20)
        .map(|_| {
            let begun = Instant::now();
            work(STEPS);
            begun.elapsed()
        })
        .min()
        .unwrap_or(Duration::ZERO);
    STEPS as f64 / least.as_nanos().max(1) as f64
}
