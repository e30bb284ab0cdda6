//! For how long a thread has been at it, and when it last called one more than an heir.

use std::cell::Cell;

use crate::os::clock;

/// For how long at least each thread leaves the heirs of slots that are often free alone with
/// them, before it calls one more.
const CALL_NS: u64 = 250_000;

/// For how long a thread that gets slots which are often free has a processor, before it yields
/// that once to those who wait.
const STINT_NS: u64 = 1_000_000;

/// A thread's work at its slots, since it last slept for one or yielded to others.
///
/// Who waits for a slot that is often free waits to be called, and then for a processor: of 32
/// processes on two processors, for 97 % of the time. And who has one goes on until it is taken
/// away, one time in a few in the middle of a grant, which sends all others to sleep. So a
/// thread yields it after a grant: by its own time, for who has been away has had its rest.
#[derive(Clone, Copy)]
struct Stint {
    /// When it began, or would have, had the thread had a processor ever since. The first: long
    /// ago, with the thread.
    begun_ns: u64,
    /// What the thread had had of a processor then.
    ran_ns: u64,
}

/// A number that no other thread of the process has.
pub(super) fn this_thread() -> u64 {
    STINT.with(|stint| std::ptr::from_ref(stint).addr() as u64)
}

// For all slots of a thread, since it is the thread that has a processor.
thread_local! {
    /// `None`: it begins at the next look.
    static STINT: Cell<Option<Stint>> = const { Cell::new(Some(Stint::FIRST)) };
    /// When it last called one more than an heir.
    static CALLED_NS: Cell<u64> = const { Cell::new(0) };
}

impl Stint {
    /// The one that a thread's first is.
    const FIRST: Self = Self {
        begun_ns: 0,
        ran_ns: 0,
    };

    /// What is known of it now; nothing more once it is over. Asks what the thread has had of a
    /// processor only where that could be enough.
    fn going_on(self, now_ns: u64, ran_ns: impl FnOnce() -> u64) -> Option<Self> {
        if now_ns.saturating_sub(self.begun_ns) < STINT_NS {
            return Some(self);
        }
        let had_ns = ran_ns().saturating_sub(self.ran_ns);
        let begun_ns = now_ns.saturating_sub(had_ns);
        (had_ns < STINT_NS).then_some(Self { begun_ns, ..self })
    }
}

/// Takes the call that is due to one more of a slot's waiters than its heir, if one is; the
/// caller sees to it.
///
/// In turns the heir is the only one who is to be awake. Where a slot is often free it may
/// wait for a processor for as long as the others run, which is milliseconds, and keep all
/// who sleep asleep.
pub(crate) fn take_due_call(now_ns: u64) -> bool {
    let is_due = now_ns.saturating_sub(CALLED_NS.get()) >= CALL_NS;
    if is_due {
        CALLED_NS.set(now_ns);
    }
    is_due
}

/// This thread's next stint begins: at the next look, since to ask for the processor's time is a
/// system call, and this may be on a waiter's way to its grant.
pub(crate) fn begin() {
    STINT.set(None);
}

/// Ends this thread's stint, if it is over, and begins another.
pub(crate) fn end_if_over(now_ns: u64) -> bool {
    let next = match STINT.get() {
        Some(stint) => stint.going_on(now_ns, clock::ran_ns),
        None => Some(Stint {
            begun_ns: now_ns,
            ran_ns: clock::ran_ns(),
        }),
    };
    STINT.set(next);
    next.is_none()
}

/// As if this thread had neither slept for a slot nor yielded to others, nor called one, but
/// been busy.
#[cfg(test)]
pub(crate) fn be_over() {
    CALLED_NS.set(0);
    STINT.set(Some(Stint::FIRST));
    while clock::ran_ns() < STINT_NS {
        std::hint::spin_loop();
    }
}

/// When this thread's stint began, unless another is to.
#[cfg(test)]
pub(crate) fn begun_ns() -> Option<u64> {
    STINT.get().map(|stint| stint.begun_ns)
}

/// When this thread last called one more than an heir.
#[cfg(test)]
pub(crate) fn called_ns() -> u64 {
    CALLED_NS.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stint_lasts_until_its_thread_has_had_a_processor_for_so_long() {
        let begun_ns = 7 * STINT_NS;
        let stint = Stint {
            begun_ns,
            ran_ns: 100,
        };
        let after = |passed_ns, had_ns| {
            let next = stint.going_on(begun_ns + passed_ns, || 100 + had_ns);
            next.map(|next| next.begun_ns - begun_ns)
        };
        let unasked = stint.going_on(begun_ns + STINT_NS - 1, || unreachable!("too early"));
        assert_eq!(unasked.map(|stint| stint.begun_ns), Some(begun_ns));
        assert_eq!(after(STINT_NS, STINT_NS), None);
        assert_eq!(after(STINT_NS, STINT_NS - 1), Some(1));
        assert_eq!(
            after(50 * STINT_NS, STINT_NS / 4),
            Some(50 * STINT_NS - STINT_NS / 4)
        );
        assert_eq!(after(50 * STINT_NS, STINT_NS), None);
    }

    #[test]
    fn a_threads_first_stint_begins_with_it_and_is_its_own() {
        be_over();
        let now_ns = clock::now_ns();
        assert!(end_if_over(now_ns));
        // Where that is slow, a thread has had a processor for so long before its first look.
        let is_over_too_soon = move || end_if_over(now_ns) && clock::ran_ns() < STINT_NS;
        let is_over_elsewhere = || std::thread::spawn(is_over_too_soon).join();
        assert!(!is_over_elsewhere().unwrap(), "it has just begun");
        begin();
        assert!(!end_if_over(now_ns), "it has not had a processor since");
        assert_eq!(begun_ns(), Some(now_ns));
        assert!(!end_if_over(now_ns + 2 * STINT_NS), "nor by then");
        assert!(
            begun_ns() > Some(now_ns),
            "which it need not ask again so soon"
        );
    }

    #[test]
    fn one_more_is_called_once_in_a_while() {
        let now_ns = 7 * CALL_NS;
        let times = [0, 1, CALL_NS - 1, CALL_NS, CALL_NS + 1].map(|after_ns| now_ns + after_ns);
        let due_to_another = move || std::thread::spawn(move || times.map(take_due_call)).join();
        // A thread that comes for one grant calls somebody, too.
        let due = [true, false, false, true, false];
        assert_eq!(
            [due_to_another().unwrap(), due_to_another().unwrap()],
            [due; 2]
        );
    }
}
