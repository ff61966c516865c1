//! Locks, atomics and threads of the engine, in one place so that a test can put
//! a scheduler in theirs: with the feature `shuttle` they are those of the crate
//! of that name, and `tests/shuttle.rs` decides who runs next at each of them.

#[cfg(not(feature = "shuttle"))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
#[cfg(not(feature = "shuttle"))]
pub(crate) use std::sync::atomic;
#[cfg(not(feature = "shuttle"))]
pub(crate) use std::thread;

/// Starts a thread that shares the work of this one; `None` where the system has none to
/// give, and this one does more.
#[cfg_attr(feature = "shuttle", expect(clippy::unnecessary_wraps, reason = "it always has one"))]
pub(crate) fn helper<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Option<thread::ScopedJoinHandle<'scope, T>> {
    #[cfg(not(feature = "shuttle"))]
    return thread::Builder::new().spawn_scoped(scope, work).ok();
    #[cfg(feature = "shuttle")]
    Some(scope.spawn(work))
}

/// Does `work` on this many threads, or as many as the system has to give, this one among them;
/// what they found, in any order, or an error of one of them.
pub(crate) fn on_threads<T: Send, E: Send>(
    threads: usize,
    work: &(dyn Fn() -> Result<Vec<T>, E> + Sync),
) -> Result<Vec<T>, E> {
    thread::scope(|scope| {
        // Where one cannot be had, no more are asked for.
        let others: Vec<_> = (1..threads).map_while(|_| helper(scope, work)).collect();
        let mut found = work();
        for other in others {
            // A panic goes on in the thread that waits: it is a bug, and not to be passed over.
            let more = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            found = found.and_then(|mut found| {
                found.extend(more?);
                Ok(found)
            });
        }
        found
    })
}

#[cfg(feature = "shuttle")]
pub(crate) use scheduled::{Condvar, Mutex, MutexGuard, RwLock, thread};
#[cfg(feature = "shuttle")]
pub(crate) use shuttle::sync::atomic;

/// Shuttle's types with the faces of those above.
#[cfg(feature = "shuttle")]
mod scheduled {
    use std::ops::{Deref, DerefMut};
    use std::sync::PoisonError;

    use shuttle::sync::{self, RwLockReadGuard, RwLockWriteGuard};

    #[derive(Default)]
    pub(crate) struct Mutex<T>(sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
        }

        pub(crate) fn get_mut(&mut self) -> &mut T {
            self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn into_inner(self) -> T {
            self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
        }
    }

    /// Empty only while [`Condvar::wait`] has it.
    pub(crate) struct MutexGuard<'a, T>(Option<sync::MutexGuard<'a, T>>);

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.0.as_ref().expect("not waiting")
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().expect("not waiting")
        }
    }

    #[derive(Default)]
    pub(crate) struct Condvar(sync::Condvar);

    impl Condvar {
        pub(crate) fn new() -> Self {
            Self::default()
        }

        pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            let held = guard.0.take().expect("not waiting");
            let woken = self.0.wait(held);
            guard.0 = Some(woken.unwrap_or_else(PoisonError::into_inner));
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    pub(crate) struct RwLock<T>(sync::RwLock<T>);

    impl<T> RwLock<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(sync::RwLock::new(value))
        }

        pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
            self.0.read().unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
            self.0.write().unwrap_or_else(PoisonError::into_inner)
        }
    }

    pub(crate) mod thread {
        use std::io;
        use std::sync::Arc;

        pub(crate) use shuttle::thread::{Result, Scope, ScopedJoinHandle, scope};
        pub(crate) use std::thread::available_parallelism;

        use shuttle::sync::atomic::{AtomicBool, Ordering};

        pub(crate) struct Builder(shuttle::thread::Builder);

        /// Shuttle's does not tell whether the thread is done.
        pub(crate) struct JoinHandle<T>(shuttle::thread::JoinHandle<T>, Arc<AtomicBool>);

        impl Builder {
            pub(crate) fn new() -> Self {
                Self(shuttle::thread::Builder::new())
            }

            pub(crate) fn name(self, name: String) -> Self {
                Self(self.0.name(name))
            }

            pub(crate) fn spawn<T: Send + 'static>(
                self,
                work: impl FnOnce() -> T + Send + 'static,
            ) -> io::Result<JoinHandle<T>> {
                let done = Arc::new(AtomicBool::new(false));
                let finished = done.clone();
                let work = move || {
                    let result = work();
                    done.store(true, Ordering::SeqCst);
                    result
                };
                Ok(JoinHandle(self.0.spawn(work)?, finished))
            }
        }

        impl<T> JoinHandle<T> {
            pub(crate) fn is_finished(&self) -> bool {
                self.1.load(Ordering::SeqCst)
            }

            pub(crate) fn join(self) -> Result<T> {
                self.0.join()
            }
        }
    }
}
