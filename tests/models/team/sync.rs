//! loom's in place of `crates/kernel/src/sync.rs`.

pub(crate) use loom::sync::atomic::fence;
pub(crate) use loom::sync::{Mutex, MutexGuard};

use std::sync::atomic::Ordering;
use std::time::Duration;

/// An atomic with loom's of the same name. loom takes sequentially consistent accesses for acquire and release; the fence
/// in front of each makes up for it, as on machines that have fences only.
macro_rules! atomic {
    ($name:ident, $value:ty) => {
        pub(crate) struct $name(loom::sync::atomic::$name);

        #[allow(dead_code)]
        impl $name {
            pub(crate) fn new(value: $value) -> Self {
                $name(loom::sync::atomic::$name::new(value))
            }

            pub(crate) fn load(&self, order: Ordering) -> $value {
                before(order);
                self.0.load(order)
            }

            pub(crate) fn store(&self, value: $value, order: Ordering) {
                before(order);
                self.0.store(value, order);
            }

            pub(crate) fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                before(success);
                self.0.compare_exchange(current, new, success, failure)
            }

            pub(crate) fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(current, new, success, failure)
            }
        }
    };
}

atomic!(AtomicBool, bool);
atomic!(AtomicU64, u64);
atomic!(AtomicUsize, usize);

impl AtomicUsize {
    pub(crate) fn fetch_add(&self, value: usize, order: Ordering) -> usize {
        before(order);
        self.0.fetch_add(value, order)
    }

    pub(crate) fn fetch_sub(&self, value: usize, order: Ordering) -> usize {
        before(order);
        self.0.fetch_sub(value, order)
    }
}

fn before(order: Ordering) {
    if order == Ordering::SeqCst {
        fence(Ordering::SeqCst);
    }
}

/// A clock on which all patience is over: nobody spins, which would show loom nothing new.
pub(crate) struct Instant;

impl Instant {
    pub(crate) fn now() -> Instant {
        Instant
    }

    pub(crate) fn elapsed(&self) -> Duration {
        Duration::MAX
    }
}

/// Threads that may be told to go on while they wait for a lock, as the system's: loom's own would take it for the lock.
pub(crate) mod thread {
    use std::cell::RefCell;
    use std::io;
    use std::sync::Arc;

    use loom::sync::Notify;
    pub(crate) use loom::thread::yield_now;

    #[derive(Clone)]
    pub(crate) struct Thread(Arc<Notify>);

    pub(crate) struct JoinHandle<T> {
        thread: Thread,
        inner: loom::thread::JoinHandle<T>,
    }

    pub(crate) struct Builder;

    loom::thread_local! {
        static CURRENT: RefCell<Option<Thread>> = RefCell::new(None);
    }

    pub(crate) fn current() -> Thread {
        CURRENT.with(|current| current.borrow_mut().get_or_insert_with(Thread::new).clone())
    }

    /// May come back for no reason, once for each thread.
    pub(crate) fn park() {
        current().0.wait();
    }

    impl Thread {
        fn new() -> Thread {
            Thread(Arc::new(Notify::new()))
        }

        pub(crate) fn unpark(&self) {
            self.0.notify();
        }
    }

    impl Builder {
        pub(crate) fn new() -> Builder {
            Builder
        }

        pub(crate) fn name(self, _name: String) -> Builder {
            self
        }

        pub(crate) fn spawn<T: 'static>(self, work: impl FnOnce() -> T + 'static) -> io::Result<JoinHandle<T>> {
            let thread = Thread::new();
            let own = thread.clone();
            let inner = loom::thread::spawn(move || {
                CURRENT.with(|current| *current.borrow_mut() = Some(own));
                work()
            });
            Ok(JoinHandle { thread, inner })
        }
    }

    impl<T> JoinHandle<T> {
        pub(crate) fn thread(&self) -> &Thread {
            &self.thread
        }

        pub(crate) fn join(self) -> std::thread::Result<T> {
            self.inner.join()
        }
    }
}
