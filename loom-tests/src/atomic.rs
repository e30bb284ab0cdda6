//! The atomics that the protocol is compiled against here: loom's, with each access a
//! step at which an actor can be made to stop.

use loom::sync::atomic as loomed;

use crate::stop;

pub use core::sync::atomic::Ordering;

/// A fence, and a step. A fence that was weakened to nothing is none.
pub fn fence(order: Ordering) {
    stop::step();
    if order != Ordering::Relaxed {
        loomed::fence(order);
    }
}

macro_rules! atomic {
    ($(#[$doc:meta])* $name:ident, $int:ty) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name(loomed::$name);

        impl $name {
            /// An atomic of this execution of the model.
            #[must_use]
            pub fn new(value: $int) -> Self {
                Self(loomed::$name::new(value))
            }

            /// As in `core`.
            pub fn load(&self, order: Ordering) -> $int {
                stop::step();
                self.0.load(order)
            }

            /// As in `core`.
            pub fn store(&self, value: $int, order: Ordering) {
                stop::step();
                self.0.store(value, order);
            }

            /// As in `core`.
            pub fn swap(&self, value: $int, order: Ordering) -> $int {
                stop::step();
                self.0.swap(value, order)
            }

            /// As in `core`.
            ///
            /// # Errors
            ///
            /// The value found, when it is not `current`.
            pub fn compare_exchange(
                &self,
                current: $int,
                new: $int,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$int, $int> {
                stop::step();
                self.0.compare_exchange(current, new, success, failure)
            }

            /// As in `core`.
            pub fn fetch_add(&self, value: $int, order: Ordering) -> $int {
                stop::step();
                self.0.fetch_add(value, order)
            }

            /// As in `core`.
            pub fn fetch_sub(&self, value: $int, order: Ordering) -> $int {
                stop::step();
                self.0.fetch_sub(value, order)
            }

            /// As in `core`.
            pub fn fetch_and(&self, value: $int, order: Ordering) -> $int {
                stop::step();
                self.0.fetch_and(value, order)
            }

            /// As in `core`.
            pub fn fetch_or(&self, value: $int, order: Ordering) -> $int {
                stop::step();
                self.0.fetch_or(value, order)
            }

            /// As in `core`.
            pub fn fetch_max(&self, value: $int, order: Ordering) -> $int {
                stop::step();
                self.0.fetch_max(value, order)
            }

            /// The newest value, with no ordering: what the kernel's futex compares, and
            /// what a model looks at when all is over. A CAS that fails reads just that.
            #[must_use]
            pub fn newest(&self, but: $int) -> $int {
                match self
                    .0
                    .compare_exchange(but, but, Ordering::Relaxed, Ordering::Relaxed)
                {
                    Ok(value) | Err(value) => value,
                }
            }
        }
    };
}

atomic!(
    /// loom's 32-bit atomic.
    AtomicU32,
    u32
);
atomic!(
    /// loom's 64-bit atomic.
    AtomicU64,
    u64
);
