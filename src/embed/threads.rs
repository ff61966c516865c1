//! Work that threads share, as far as the system has some to give.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use parking_lot::{Mutex, RwLock};

use crate::error::{Error, Result};

/// Most threads that a graph is run on, whatever is asked for.
const MOST: usize = 1024;

/// Stack of a thread that is started on trial. Twice what a thread usually gets: those of ONNX
/// Runtime allocate besides.
const TRIAL_STACK: usize = 16 << 20;

/// How many threads, this one among them, the system surely lets this process have now; `wanted`
/// at most. A thread pool of ONNX Runtime that cannot start one of its threads waits for the
/// others for ever, so it must not be asked for more than there are.
///
/// Half of those that started are counted: a thread that was joined is still one of the user's
/// for a moment, and others take threads too.
pub(super) fn affordable(wanted: NonZeroUsize) -> NonZeroUsize {
    let helpers = wanted.get().min(MOST) - 1;
    let gate = RwLock::new(());
    let closed = gate.write();
    let started = thread::scope(|scope| {
        let park = |_| {
            let builder = thread::Builder::new().stack_size(TRIAL_STACK);
            builder.spawn_scoped(scope, || drop(gate.read())).ok()
        };
        // All at once, held until they are counted.
        let parked: Vec<_> = (0..2 * helpers).map_while(park).collect();
        drop(closed);
        // The end of the scope does not wait for a thread to be gone, but for its work.
        parked.into_iter().flat_map(thread::ScopedJoinHandle::join).count()
    });
    NonZeroUsize::MIN.saturating_add(helpers.min(started / 2))
}

/// Does `work` for each item, on as many threads as there are items, this one among them, or on
/// fewer where the system has no more. What came of it, in the order of the items, or the error of
/// the first that has one; `what` is the argument that a panic is blamed on.
pub(super) fn each<I: Send, T: Send>(
    what: &'static str,
    items: Vec<I>,
    work: impl Fn(I) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let helpers = items.len().saturating_sub(1);
    each_with(helpers, what, items, work)
}

fn each_with<I: Send, T: Send>(
    helpers: usize,
    what: &'static str,
    items: Vec<I>,
    work: impl Fn(I) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let queue = Mutex::new(items.into_iter().enumerate());
    let share = || {
        let mut done = Vec::new();
        loop {
            let Some((at, item)) = queue.lock().next() else { return done };
            // What is at fault is foreign code or input that nobody thought of; the program goes on.
            let worked = catch_unwind(AssertUnwindSafe(|| work(item)));
            let panicked = |_| Err(Error::invalid(what, "a thread panicked over it: a defect"));
            done.push((at, worked.unwrap_or_else(panicked)));
        }
    };
    let mut all = thread::scope(|scope| {
        let helper = |_| thread::Builder::new().spawn_scoped(scope, share).ok();
        let helpers: Vec<_> = (0..helpers).map_while(helper).collect();
        let mut all = share();
        for helper in helpers {
            all.extend(helper.join().expect("panics are caught"));
        }
        all
    });
    all.sort_unstable_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, worked)| worked).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_worked_on_whatever_threads_there_are() {
        for helpers in [0, 1, 3, 20] {
            let squares = each_with(helpers, "n", (0..10).collect(), |n: u64| Ok(n * n));
            assert_eq!(squares.expect("no errors"), (0..10).map(|n| n * n).collect::<Vec<_>>());
            let odd = |n: u64| match n {
                4 => panic!("four"),
                7 => Err(Error::invalid("n", "seven")),
                n => Ok(n),
            };
            let refused = |from| each_with(helpers, "n", (from..10).collect(), odd);
            let said = refused(0).expect_err("a panic").to_string();
            assert_eq!(said, "invalid n: a thread panicked over it: a defect");
            assert_eq!(refused(5).expect_err("an error").to_string(), "invalid n: seven");
            assert_eq!(refused(8).expect("no errors"), [8, 9]);
        }
    }

    #[test]
    fn more_threads_than_can_be_are_never_counted() {
        let count = |n: usize| affordable(NonZeroUsize::new(n).expect("not 0")).get();
        assert_eq!(count(1), 1);
        assert!((1..=3).contains(&count(3)));
        assert!((1..=MOST).contains(&count(1 << 32)));
    }

    #[test]
    fn items_can_be_places_to_write_to() {
        let mut places = vec![0; 100];
        let parts: Vec<(usize, &mut [usize])> = places.chunks_mut(7).enumerate().collect();
        let written = each("n", parts, |(n, part)| {
            part.fill(n);
            Ok(())
        });
        assert_eq!(written.expect("no errors").len(), 15);
        assert!(places.iter().enumerate().all(|(at, n)| at / 7 == *n));
    }
}
