//! The rules of the queue. Most tests drive it by hand on one thread, without a runtime, a clock or a sleep; the last
//! ones let threads run free.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::task::noop_waker;
use proptest::prelude::*;
use proptest::test_runner::Config;
use tokio::sync::oneshot;

use super::*;
use crate::error::{ErrorKind, Result};

const OPTIONS: Options = Options {
    batch_tokens: 100,
    query_batch_tokens: 40,
    query_fill_tokens: 0,
    queries_in_a_row: 3,
    waiting_tokens: 8000,
};

/// A piece that tells what became of it.
#[derive(Debug)]
struct Probe {
    call: usize,
    index: usize,
    tokens: usize,
    cancelled: Arc<AtomicBool>,
    drops: Arc<AtomicUsize>,
}

impl Piece for Probe {
    fn tokens(&self) -> usize {
        self.tokens
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.drops.fetch_add(1, Ordering::Relaxed);
    }
}

fn probe(call: usize, index: usize, tokens: usize) -> Probe {
    Probe { call, index, tokens, cancelled: Arc::default(), drops: Arc::default() }
}

fn probes(call: usize, weights: &[usize]) -> Vec<Probe> {
    weights.iter().enumerate().map(|(index, &tokens)| probe(call, index, tokens)).collect()
}

/// Admits, which must need no waiting, and submits.
fn put(batcher: &Batcher<Probe>, class: Class, call: usize, weights: &[usize]) -> Submission<Probe> {
    let admission =
        batcher.admit_all(class, weights.iter().sum(), None).now_or_never().expect("there is room").unwrap();
    admission.submit(probes(call, weights), false).unwrap()
}

impl<P: Piece> Batcher<P> {
    /// Room for a whole call.
    async fn admit_all(&self, class: Class, tokens: usize, deadline: Option<Instant>) -> Result<Admission<P>> {
        self.admit(class, Ask { least: tokens, most: tokens }, deadline).await
    }

    /// What a consumer would get now, if anything.
    fn take_now(&self) -> Option<Batch<P>> {
        self.shared.change(|state, dropped| state.take(dropped))
    }

    fn held(&self, class: Class) -> usize {
        self.shared.lock().rooms[class as usize].held()
    }

    fn has_ended(&self) -> bool {
        self.shared.lock().has_ended()
    }
}

/// `(call, index)` of each piece.
fn names(batch: &Batch<Probe>) -> Vec<(usize, usize)> {
    batch.pieces.iter().map(|piece| (piece.call, piece.index)).collect()
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(&noop_waker())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

#[test]
fn what_was_gathered_goes_as_one_batch_within_the_budget_and_an_oversized_piece_alone() {
    let batcher = Batcher::new(OPTIONS);
    let calls = [30, 30, 30, 30, 500, 1];
    let _held: Vec<_> =
        calls.iter().enumerate().map(|(n, &tokens)| put(&batcher, Class::Passage, n, &[tokens])).collect();
    let batches: Vec<_> =
        std::iter::from_fn(|| batcher.take_now()).map(|batch| (batch.tokens, names(&batch))).collect();
    assert_eq!(
        batches,
        [(90, vec![(0, 0), (1, 0), (2, 0)]), (30, vec![(3, 0)]), (500, vec![(4, 0)]), (1, vec![(5, 0)])]
    );
}

#[test]
fn other_sizes_hold_from_the_next_batch_on() {
    let batcher = Batcher::new(Options { waiting_tokens: 800, ..OPTIONS });
    let _held = put(&batcher, Class::Passage, 0, &[50; 10]);
    let mut waiting = Box::pin(batcher.admit_all(Class::Passage, 600, None));
    assert!(poll(waiting.as_mut()).is_none(), "500 of 700 are taken");
    assert_eq!(batcher.take_now().unwrap().tokens, 100);
    let wide = Options { batch_tokens: 1000, waiting_tokens: 8000, ..OPTIONS };
    batcher.resize(wide);
    assert_eq!(batcher.options(), wide);
    // There is room for who waited for it, at once.
    let admission = poll(waiting.as_mut()).expect("admitted").unwrap();
    let _other = admission.submit(probes(1, &[300, 300]), false).unwrap();
    // A turn is a quarter of the new budget; the first call has had 50 tokens of its turn.
    let batch = batcher.take_now().unwrap();
    assert_eq!((batch.tokens, &names(&batch)[..5]), (1000, &[(0, 2), (0, 3), (0, 4), (0, 5), (1, 0)][..]));
    // Room that becomes less is not taken from those who have it.
    batcher.resize(Options { waiting_tokens: 8, ..wide });
    assert!(batcher.take_now().is_none());
    assert_eq!(batcher.held(Class::Passage), 0);
}

#[test]
fn calls_take_turns_so_that_a_long_one_does_not_block_the_next() {
    let batcher = Batcher::new(OPTIONS);
    let _long = put(&batcher, Class::Passage, 0, &[10; 500]);
    assert_eq!(names(&batcher.take_now().unwrap()).len(), 10, "alone it has the whole batch");
    let _short = put(&batcher, Class::Passage, 1, &[20]);
    let _other = put(&batcher, Class::Passage, 2, &[60, 20]);
    // A turn is at most a quarter of the budget, 25 tokens, or one piece. The long call's was over.
    assert_eq!(names(&batcher.take_now().unwrap()), [(1, 0), (2, 0), (0, 10), (0, 11)]);
    assert_eq!(names(&batcher.take_now().unwrap())[..4], [(2, 1), (0, 12), (0, 13), (0, 14)]);
}

#[test]
fn a_turn_cut_short_by_a_full_batch_goes_on_in_the_next() {
    let batcher = Batcher::new(OPTIONS);
    let _calls = [put(&batcher, Class::Passage, 0, &[90]), put(&batcher, Class::Passage, 1, &[10, 10, 10, 10])];
    let _late = put(&batcher, Class::Passage, 2, &[10]);
    assert_eq!(names(&batcher.take_now().unwrap()), [(0, 0), (1, 0)]);
    assert_eq!(names(&batcher.take_now().unwrap()), [(1, 1), (2, 0), (1, 2), (1, 3)]);
}

#[test]
fn queries_overtake_and_are_not_delayed_by_passages() {
    let batcher = Batcher::new(OPTIONS);
    let _passages = put(&batcher, Class::Passage, 0, &[10; 100]);
    let _query = put(&batcher, Class::Query, 1, &[8]);
    let batch = batcher.take_now().unwrap();
    assert_eq!((batch.class, names(&batch)), (Class::Query, vec![(1, 0)]));
    assert_eq!(batcher.take_now().unwrap().class, Class::Passage);
}

#[test]
fn a_call_can_be_withdrawn_for_its_deadline_until_it_has_begun() {
    let batcher = Batcher::new(OPTIONS);
    let begun = put(&batcher, Class::Passage, 0, &[60, 60]);
    let untouched = put(&batcher, Class::Passage, 1, &[60, 60]);
    assert_eq!(names(&batcher.take_now().unwrap()), [(0, 0)]);
    assert!(!begun.withdraw_untouched(), "it is being served");
    assert!(untouched.withdraw_untouched());
    assert!(!untouched.withdraw_untouched(), "it is gone");
    assert_eq!(batcher.held(Class::Passage), 60, "the room of the other's second piece");
    assert_eq!(names(&batcher.take_now().unwrap()), [(0, 1)]);
    assert!(batcher.take_now().is_none());
    assert!(!begun.withdraw_untouched(), "it is done");
}

#[test]
fn a_small_batch_of_queries_is_filled_up_to_the_weight_given() {
    let batcher = Batcher::new(Options { query_fill_tokens: 30, ..OPTIONS });
    let _passages = put(&batcher, Class::Passage, 0, &[10; 100]);
    let _query = put(&batcher, Class::Query, 1, &[8]);
    let batch = batcher.take_now().unwrap();
    assert_eq!((batch.class, batch.tokens, names(&batch)), (Class::Query, 28, vec![(1, 0), (0, 0), (0, 1)]));
    assert_eq!(batcher.held(Class::Passage), 980);
}

#[test]
fn endless_queries_leave_passages_every_fourth_batch() {
    let batcher = Batcher::new(OPTIONS);
    let _passages = put(&batcher, Class::Passage, 0, &[60; 5]);
    let mut classes = String::new();
    for call in 1..=20 {
        // A call from long before, and the next is there before the batch is taken: queries never end.
        let _query = put(&batcher, Class::Query, call, &[40]);
        let _next = put(&batcher, Class::Query, call, &[40]);
        classes.push(if batcher.take_now().unwrap().class == Class::Query { 'q' } else { 'P' });
    }
    assert_eq!(classes, "qqqPqqqPqqqPqqqPqqqP");
}

#[test]
fn a_call_waits_for_room_and_first_come_is_first_served() {
    // 7000 for passages, 1000 for queries.
    let batcher = Batcher::new(OPTIONS);
    let first = put(&batcher, Class::Passage, 0, &[5000]);
    let mut large = Box::pin(batcher.admit_all(Class::Passage, 3000, None));
    assert!(poll(large.as_mut()).is_none());
    // It would fit, but came later.
    let mut small = Box::pin(batcher.admit_all(Class::Passage, 10, None));
    assert!(poll(small.as_mut()).is_none());
    assert_eq!(batcher.depth(Class::Passage).at_the_door, 2);
    // Queries do not stand in that line.
    let _query = put(&batcher, Class::Query, 1, &[1000]);
    assert!(batcher.admit_all(Class::Query, 1, None).now_or_never().is_none());

    assert_eq!(batcher.take_now().unwrap().class, Class::Query);
    assert_eq!(batcher.take_now().unwrap().tokens, 5000);
    let _admitted = (poll(large.as_mut()).unwrap().unwrap(), poll(small.as_mut()).unwrap().unwrap());
    assert_eq!(batcher.held(Class::Passage), 3010);
    drop(first);
    assert_eq!(batcher.held(Class::Passage), 3010, "what was dispatched is given back once");
}

#[test]
fn a_call_larger_than_the_room_has_it_alone() {
    let batcher = Batcher::new(OPTIONS);
    let before = put(&batcher, Class::Passage, 0, &[1]);
    let mut huge = Box::pin(batcher.admit_all(Class::Passage, 20_000, None));
    assert!(poll(huge.as_mut()).is_none());
    drop(before);
    let huge = poll(huge.as_mut()).unwrap().unwrap();
    let mut after = Box::pin(batcher.admit_all(Class::Passage, 1, None));
    assert!(poll(after.as_mut()).is_none());
    let _huge = huge.submit(probes(0, &[100; 200]), false).unwrap();
    for _ in 0..129 {
        batcher.take_now().unwrap();
        assert!(poll(after.as_mut()).is_none());
    }
    // 7100 are left of it: with one batch more it is within the room.
    batcher.take_now().unwrap();
    assert!(poll(after.as_mut()).is_none());
    batcher.take_now().unwrap();
    assert!(poll(after.as_mut()).is_some());
}

#[test]
fn a_large_call_is_brought_in_portions_within_its_share() {
    let batcher = Batcher::new(OPTIONS);
    // An eighth of 7000, and a quarter of a batch.
    let wanted = batcher.wanted(Class::Passage);
    assert_eq!(wanted, Wanted { tokens: 875, turn: 25 });
    let ask = Ask { least: 20, most: 870 };
    let room = batcher.admit(Class::Passage, ask, None).now_or_never().expect("there is room").unwrap();
    assert_eq!(room.tokens(), 870);
    let call = room.submit(probes(0, &[10; 87]), true).unwrap();
    let mut more = Box::pin(call.wants_more());
    for _ in 0..4 {
        batcher.take_now().unwrap();
        assert!(poll(more.as_mut()).is_none(), "more than half of its share is left");
    }
    batcher.take_now().unwrap();
    assert_eq!(poll(more.as_mut()).expect("370 are left").unwrap(), Wanted { tokens: 505, turn: 25 });
    let room = call.admit(Ask { least: 20, most: 500 }).now_or_never().expect("there is room").unwrap();
    call.add(room, probes(0, &[10; 50]), true).unwrap();
    assert_eq!(batcher.held(Class::Passage), 870);
    while batcher.held(Class::Passage) > 0 {
        batcher.take_now().unwrap();
    }
    // It is there without a piece until it says that nothing more comes; then its portions are over.
    assert!(batcher.take_now().is_none() && !call.withdraw_untouched());
    call.wants_more().now_or_never().expect("at once").unwrap();
    call.complete();
    assert!(call.wants_more().now_or_never().expect("at once").is_err());
    assert_eq!(batcher.depth(Class::Passage).calls, 0);
}

/// A call without an end, ten tokens a piece.
async fn feed_for_ever(batcher: &Batcher<Probe>, call: usize) {
    let ask = |wanted: Wanted| Ask { least: wanted.turn / 10 * 10, most: wanted.tokens / 10 * 10 };
    let pieces = |room: &Admission<Probe>| probes(call, &vec![10; room.tokens() / 10]);
    let room = batcher.admit(Class::Passage, ask(batcher.wanted(Class::Passage)), None).await.unwrap();
    let brought = pieces(&room);
    let submission = room.submit(brought, true).unwrap();
    loop {
        let room = submission.admit(ask(submission.wants_more().await.unwrap())).await.unwrap();
        let brought = pieces(&room);
        submission.add(room, brought, true).unwrap();
    }
}

/// However many large calls there are, the next one waits for a turn of each at the door and a turn of each in the queue.
#[test]
fn whoever_comes_to_large_calls_waits_for_a_turn_of_each_of_them() {
    for large in [1, 8, 12, 40] {
        let batcher = Batcher::new(OPTIONS);
        let mut calls: Vec<_> = (0..large).map(|call| Box::pin(feed_for_ever(&batcher, call))).collect();
        let mut poll_all = || calls.iter_mut().for_each(|call| assert!(poll(call.as_mut()).is_none()));
        for _ in 0..20 {
            poll_all();
            assert_eq!(batcher.take_now().unwrap().tokens, 100);
        }
        poll_all();
        assert!(large < 8 || batcher.held(Class::Passage) > 3400, "the room is filled");
        let mut small = Box::pin(batcher.admit_all(Class::Passage, 20, None));
        let (mut submission, mut batches) = (None, 0);
        loop {
            if submission.is_none()
                && let Some(admission) = poll(small.as_mut())
            {
                submission = Some(admission.unwrap().submit(probes(large, &[20]), false).unwrap());
            }
            let served = batcher.take_now().unwrap();
            batches += 1;
            poll_all();
            if served.pieces.iter().any(|piece| piece.call == large) {
                break;
            }
        }
        // A turn of these pieces is 20 of a batch's 100; one batch more for each of the two that the small one just missed.
        let fair = 2 * large.div_ceil(5) + 2;
        assert!(batches <= fair, "{large} large calls: after {batches} batches, {fair} are fair");
    }
}

#[test]
fn a_call_that_was_begun_is_served_to_its_end_after_closing() {
    let batcher = Batcher::new(OPTIONS);
    let whole = |tokens| Ask { least: tokens, most: tokens };
    let room = batcher.admit(Class::Passage, whole(7000), None).now_or_never().unwrap().unwrap();
    let call = room.submit(probes(0, &[100; 70]), true).unwrap();
    let (mut next, mut newcomer) =
        (Box::pin(call.admit(whole(20))), Box::pin(batcher.admit_all(Class::Passage, 20, None)));
    assert!(poll(next.as_mut()).is_none() && poll(newcomer.as_mut()).is_none());
    batcher.close();
    assert_eq!(poll(newcomer.as_mut()).expect("turned away").err().unwrap().kind(), ErrorKind::Unavailable);
    assert!(poll(next.as_mut()).is_none(), "still at the door");
    batcher.take_now().unwrap();
    let room = poll(next.as_mut()).expect("admitted").unwrap();
    call.add(room, probes(0, &[20]), true).unwrap();
    while batcher.take_now().is_some() {}
    assert!(!batcher.has_ended(), "there may be more");
    call.complete();
    assert!(batcher.next_batch().is_none());
    // One that stopped short of its end.
    let batcher = Batcher::new(OPTIONS);
    let room = batcher.admit(Class::Passage, whole(7000), None).now_or_never().unwrap().unwrap();
    let call = room.submit(probes(0, &[100; 70]), true).unwrap();
    let (mut more, mut next) = (Box::pin(call.wants_more()), Box::pin(call.admit(whole(20))));
    assert!(poll(more.as_mut()).is_none() && poll(next.as_mut()).is_none());
    batcher.stop();
    assert!(poll(more.as_mut()).expect("told").is_err() && poll(next.as_mut()).expect("told").is_err());
    assert!(batcher.next_batch().is_none());
}

#[test]
fn whoever_leaves_gives_its_room_back_at_once() {
    let batcher = Batcher::new(OPTIONS);
    let admit = |tokens| Box::pin(batcher.admit_all(Class::Passage, tokens, None));
    // While it waits for room, and nobody else leaves.
    let inside = put(&batcher, Class::Passage, 0, &[4000]);
    let (mut large, mut small) = (admit(5000), admit(3000));
    assert!(poll(large.as_mut()).is_none() && poll(small.as_mut()).is_none());
    drop(large);
    let admitted = poll(small.as_mut()).expect("the one in front left").unwrap();
    // Before it submits; submitting less than asked for.
    drop(admitted);
    assert_eq!(batcher.held(Class::Passage), 4000);
    let part = admit(3000).now_or_never().unwrap().unwrap().submit(probes(1, &[10]), false).unwrap();
    assert_eq!(batcher.held(Class::Passage), 4010);
    // While it waits in the queue.
    drop(inside);
    assert_eq!((batcher.held(Class::Passage), batcher.depth(Class::Passage).dropped), (10, 1));
    // Admitted, but gone before it heard.
    let mut next = admit(6991);
    assert!(poll(next.as_mut()).is_none());
    drop(part);
    assert_eq!(batcher.held(Class::Passage), 6991);
    drop(next);
    assert_eq!(batcher.held(Class::Passage), 0);
    assert!(batcher.take_now().is_none());
}

#[test]
fn a_cancelled_piece_is_dropped_in_place_of_being_dispatched() {
    let batcher = Batcher::new(OPTIONS);
    let pieces = probes(0, &[50, 50, 50]);
    let (cancelled, drops) = (pieces[1].cancelled.clone(), pieces[1].drops.clone());
    let admission = batcher.admit_all(Class::Passage, 150, None).now_or_never().unwrap().unwrap();
    let _call = admission.submit(pieces, false).unwrap();
    cancelled.store(true, Ordering::Relaxed);
    let batch = batcher.take_now().unwrap();
    assert_eq!((names(&batch), batch.tokens, drops.load(Ordering::Relaxed)), (vec![(0, 0), (0, 2)], 100, 1));
    assert_eq!(batcher.held(Class::Passage), 0);
}

#[test]
fn a_call_may_not_bring_more_than_it_was_admitted_for() {
    let batcher = Batcher::new(OPTIONS);
    let admission = batcher.admit_all(Class::Query, 10, None).now_or_never().unwrap().unwrap();
    let error = admission.submit(probes(0, &[5, 6]), false).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert_eq!(batcher.held(Class::Query), 0);
    assert!(batcher.take_now().is_none());
}

#[test]
fn closing_refuses_the_new_and_serves_the_admitted() {
    let batcher = Batcher::new(OPTIONS);
    let _queued = put(&batcher, Class::Passage, 0, &[10]);
    let admitted = batcher.admit_all(Class::Query, 1000, None).now_or_never().unwrap().unwrap();
    let mut at_the_door = Box::pin(batcher.admit_all(Class::Query, 1, None));
    assert!(poll(at_the_door.as_mut()).is_none());
    batcher.close();
    let refused = |outcome: Option<Result<Admission<Probe>>>| outcome.unwrap().err().unwrap().kind();
    assert_eq!(refused(poll(at_the_door.as_mut())), ErrorKind::Unavailable);
    assert_eq!(refused(batcher.admit_all(Class::Query, 1, None).now_or_never()), ErrorKind::Unavailable);
    assert_eq!(batcher.next_batch().unwrap().tokens, 10);
    assert!(!batcher.has_ended(), "somebody admitted has not submitted yet");
    let _late = admitted.submit(probes(1, &[10]), false).unwrap();
    assert_eq!(batcher.next_batch().unwrap().tokens, 10);
    assert!(batcher.next_batch().is_none());
}

#[test]
fn stopping_drops_what_waits() {
    let batcher = Batcher::new(OPTIONS);
    let pieces = probes(0, &[10, 10]);
    let drops = pieces[0].drops.clone();
    let admit = || batcher.admit_all(Class::Passage, 20, None).now_or_never().unwrap().unwrap();
    let (unsubmitted, _queued) = (admit(), admit().submit(pieces, false).unwrap());
    batcher.stop();
    assert_eq!(drops.load(Ordering::Relaxed), 1);
    assert!(batcher.next_batch().is_none());
    assert_eq!(unsubmitted.submit(probes(1, &[10]), false).err().unwrap().kind(), ErrorKind::Unavailable);
    assert_eq!(batcher.held(Class::Passage), 0);
}

#[test]
fn a_panic_in_a_piece_leaves_the_queue_usable() {
    struct Bomb(Arc<AtomicBool>);
    impl Piece for Bomb {
        fn tokens(&self) -> usize {
            1
        }
        fn is_cancelled(&self) -> bool {
            assert!(!self.0.load(Ordering::Relaxed), "a bug");
            false
        }
    }
    let batcher = Batcher::new(OPTIONS);
    let armed = Arc::new(AtomicBool::new(true));
    let admit = || batcher.admit_all(Class::Passage, 1, None).now_or_never().unwrap().unwrap();
    let bomb = admit().submit([Bomb(armed)], false).unwrap();
    let _other = admit().submit([Bomb(Arc::default())], false).unwrap();
    let taken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| batcher.take_now().is_some()));
    assert!(taken.is_err());
    drop(bomb);
    assert_eq!(batcher.take_now().unwrap().pieces.len(), 1);
    let depth = batcher.depth(Class::Passage);
    assert_eq!((depth.pieces, depth.tokens, depth.calls, depth.dropped), (0, 0, 0, 1));
}

#[test]
fn depth_tells_what_waits_and_for_how_long() {
    let batcher = Batcher::new(OPTIONS);
    assert_eq!(batcher.depth(Class::Passage), Depth::default());
    let before = Instant::now();
    let _calls = [put(&batcher, Class::Passage, 0, &[100, 20]), put(&batcher, Class::Passage, 1, &[30])];
    let depth = batcher.depth(Class::Passage);
    assert_eq!((depth.calls, depth.pieces, depth.tokens), (2, 3, 150));
    assert!(depth.oldest.unwrap() <= before.elapsed());
    batcher.take_now().unwrap();
    let depth = batcher.depth(Class::Passage);
    assert_eq!((depth.calls, depth.pieces, depth.tokens), (2, 2, 50));
}

/// What the model test does to the queue. Numbers are taken modulo what there is.
#[derive(Debug, Clone)]
enum Step {
    Arrive { class: Class, weights: Vec<usize>, spare: usize },
    More { call: usize, weights: Vec<usize>, last: bool },
    Poll,
    Submit(usize),
    Leave(usize),
    Cancel { call: usize, piece: usize },
    Take,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let class = prop_oneof![Just(Class::Query), Just(Class::Passage)];
    let weights = prop::collection::vec(prop_oneof![9 => 0..30_usize, 1 => 30..150_usize], 0..8);
    let more = (any::<usize>(), weights.clone(), any::<bool>());
    let step = prop_oneof![
        3 => more.prop_map(|(call, weights, last)| Step::More { call, weights, last }),
        4 => (class, weights, 0..20_usize).prop_map(|(class, weights, spare)| Step::Arrive { class, weights, spare }),
        4 => Just(Step::Poll),
        4 => any::<usize>().prop_map(Step::Submit),
        1 => any::<usize>().prop_map(Step::Leave),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(call, piece)| Step::Cancel { call, piece }),
        4 => Just(Step::Take),
    ];
    prop::collection::vec(step, 0..150)
}

fn small_options() -> impl Strategy<Value = Options> {
    (1..100_usize, 1..60_usize, 0..60_usize, 0..4_usize, 0..900_usize).prop_map(
        |(batch_tokens, query_batch_tokens, query_fill_tokens, queries_in_a_row, waiting_tokens)| Options {
            batch_tokens,
            query_batch_tokens,
            query_fill_tokens,
            queries_in_a_row,
            waiting_tokens,
        },
    )
}

/// Where a call of the model is.
enum At<'a> {
    Door(Pin<Box<dyn Future<Output = Result<Admission<Probe>>> + 'a>>),
    Inside(Admission<Probe>),
    Queue(Submission<Probe>),
    Gone,
}

struct Caller<'a> {
    class: Class,
    asked: usize,
    weights: Vec<usize>,
    at: At<'a>,
    /// It may bring more.
    open: bool,
    /// Of each piece: said that nobody wants it; times dropped; in a batch.
    cancelled: Vec<Arc<AtomicBool>>,
    drops: Vec<Arc<AtomicUsize>>,
    taken: Vec<bool>,
    /// The most that may be dispatched of its class before its first piece, and what was.
    patience: usize,
    overtaken: usize,
}

impl Caller<'_> {
    fn piece_waits(&self, index: usize) -> bool {
        matches!(self.at, At::Queue(_)) && self.drops[index].load(Ordering::Relaxed) == 0 && !self.taken[index]
    }

    fn waits(&self) -> bool {
        (0..self.weights.len()).any(|index| self.piece_waits(index))
    }

    fn wanted(&self, index: usize) -> bool {
        self.piece_waits(index) && !self.cancelled[index].load(Ordering::Relaxed)
    }

    /// The room it must be holding.
    fn holds(&self) -> usize {
        match self.at {
            At::Inside(_) => self.asked,
            At::Queue(_) => (0..self.weights.len()).filter(|&i| self.piece_waits(i)).map(|i| self.weights[i]).sum(),
            At::Door(_) | At::Gone => 0,
        }
    }
}

proptest! {
    #![proptest_config(Config { cases: 1000, ..Config::default() })]

    /// Whatever happens in whatever order, all rules hold after each step.
    #[test]
    fn the_rules_hold_after_every_step(options in small_options(), steps in steps()) {
        let batcher = Batcher::new(options);
        let mut callers: Vec<Caller<'_>> = Vec::new();
        // Batches of queries in a row while a passage waited that somebody wants; that anybody once wanted.
        let (mut wanted_waits, mut any_waits) = (0, 0);
        let take_all = std::iter::repeat_n(Step::Take, 3);
        for step in steps.into_iter().chain(take_all) {
            let some = |number: usize, callers: &[Caller<'_>]| number.checked_rem(callers.len());
            match step {
                Step::Arrive { class, weights, spare } => {
                    let asked = weights.iter().sum::<usize>() + spare;
                    let line = batcher.depth(class).at_the_door;
                    let mut future = Box::pin(batcher.admit_all(class, asked, None));
                    let at = match poll(future.as_mut()) {
                        Some(admission) => {
                            prop_assert_eq!(line, 0, "overtook somebody at the door");
                            At::Inside(admission.unwrap())
                        }
                        None => At::Door(future),
                    };
                    callers.push(Caller {
                        class,
                        asked,
                        at,
                        open: true,
                        cancelled: weights.iter().map(|_| Arc::default()).collect(),
                        drops: weights.iter().map(|_| Arc::default()).collect(),
                        taken: vec![false; weights.len()],
                        weights,
                        patience: usize::MAX,
                        overtaken: 0,
                    });
                }
                Step::Poll => {
                    for class in Class::ALL {
                        let mut someone_stays = false;
                        for caller in callers.iter_mut().filter(|caller| caller.class == class) {
                            if let At::Door(future) = &mut caller.at {
                                match poll(future.as_mut()) {
                                    Some(admission) => {
                                        prop_assert!(!someone_stays, "overtook somebody at the door");
                                        caller.at = At::Inside(admission.unwrap());
                                    }
                                    None => someone_stays = true,
                                }
                            }
                        }
                        // Whoever stays at the door does so for want of room.
                        let held: usize = callers.iter().filter(|c| c.class == class).map(Caller::holds).sum();
                        let first = callers.iter().find(|c| c.class == class && matches!(c.at, At::Door(_)));
                        if let Some(first) = first {
                            prop_assert!(held > 0 && held + first.asked > options.room(class), "waits beside room");
                        }
                    }
                }
                Step::Submit(number) => {
                    let inside: Vec<_> = (0..callers.len()).filter(|&n| matches!(callers[n].at, At::Inside(_))).collect();
                    let Some(chosen) = number.checked_rem(inside.len()) else { continue };
                    let number = inside[chosen];
                    let class = callers[number].class;
                    let budget = if class == Class::Query { options.query_batch_tokens } else { options.batch_tokens };
                    let ahead = callers.iter().filter(|c| c.class == class && c.waits());
                    let patience = ahead.map(|c| c.weights.iter().fold(budget / 4, |a, &b| a.max(b))).sum();
                    let caller = &mut callers[number];
                    let pieces = (0..caller.weights.len()).map(|index| Probe {
                        call: number,
                        index,
                        tokens: caller.weights[index],
                        cancelled: caller.cancelled[index].clone(),
                        drops: caller.drops[index].clone(),
                    });
                    let pieces: Vec<_> = pieces.collect();
                    if let At::Inside(admission) = std::mem::replace(&mut caller.at, At::Gone) {
                        caller.at = At::Queue(admission.submit(pieces, true).unwrap());
                        caller.patience = patience;
                    }
                }
                Step::More { call, weights, last } => {
                    let open: Vec<_> =
                        (0..callers.len()).filter(|&n| callers[n].open && matches!(callers[n].at, At::Queue(_))).collect();
                    let Some(chosen) = call.checked_rem(open.len()) else { continue };
                    let number = open[chosen];
                    let class = callers[number].class;
                    let budget = if class == Class::Query { options.query_batch_tokens } else { options.batch_tokens };
                    let ahead = callers.iter().filter(|c| c.class == class && c.waits());
                    let patience = ahead.map(|c| c.weights.iter().fold(budget / 4, |a, &b| a.max(b))).sum();
                    let caller = &mut callers[number];
                    let At::Queue(submission) = &caller.at else { continue };
                    let (asked, had) = (weights.iter().sum(), caller.weights.len());
                    // Who would have to wait leaves the door again.
                    let Some(room) = submission.admit(Ask { least: asked, most: asked }).now_or_never() else { continue };
                    let heaviest = weights.iter().copied().max().unwrap_or(0);
                    if caller.waits() {
                        // Its turn may be one of these pieces now.
                        for other in callers.iter_mut().filter(|other| other.class == class) {
                            other.patience = other.patience.saturating_add(heaviest);
                        }
                    } else {
                        (caller.patience, caller.overtaken) = (patience, 0);
                    }
                    let caller = &mut callers[number];
                    caller.weights.extend(weights);
                    caller.cancelled.resize_with(caller.weights.len(), Arc::default);
                    caller.drops.resize_with(caller.weights.len(), Arc::default);
                    caller.taken.resize(caller.weights.len(), false);
                    let pieces = (had..caller.weights.len()).map(|index| Probe {
                        call: number,
                        index,
                        tokens: caller.weights[index],
                        cancelled: caller.cancelled[index].clone(),
                        drops: caller.drops[index].clone(),
                    });
                    let pieces: Vec<_> = pieces.collect();
                    let At::Queue(submission) = &caller.at else { continue };
                    submission.add(room.unwrap(), pieces, !last).unwrap();
                    caller.open = !last;
                }
                Step::Leave(number) => {
                    if let Some(number) = some(number, &callers) {
                        callers[number].at = At::Gone;
                        let caller = &callers[number];
                        for (drops, taken) in caller.drops.iter().zip(&caller.taken) {
                            let submitted = caller.patience < usize::MAX;
                            prop_assert_eq!(drops.load(Ordering::Relaxed), usize::from(submitted || *taken));
                        }
                    }
                }
                Step::Cancel { call, piece } => {
                    if let Some(caller) = some(call, &callers).map(|number| &callers[number])
                        && let Some(piece) = piece.checked_rem(caller.weights.len())
                    {
                        caller.cancelled[piece].store(true, Ordering::Relaxed);
                    }
                }
                Step::Take => {
                    let wanted = |class, callers: &[Caller<'_>]| {
                        callers.iter().any(|c| c.class == class && (0..c.weights.len()).any(|i| c.wanted(i)))
                    };
                    let (queries, passages) = (wanted(Class::Query, &callers), wanted(Class::Passage, &callers));
                    let any_passages = callers.iter().any(|c| c.class == Class::Passage && c.waits());
                    let Some(batch) = batcher.take_now() else {
                        prop_assert!(!queries && !passages, "nothing taken though something waits");
                        continue;
                    };
                    // Budget.
                    let total: usize = batch.pieces.iter().map(|piece| piece.tokens).sum();
                    prop_assert_eq!(batch.tokens, total);
                    let budget = match batch.class {
                        Class::Query => options.query_batch_tokens,
                        Class::Passage => options.batch_tokens,
                    };
                    prop_assert!(total <= budget || batch.pieces.len() == 1);
                    // Class.
                    let mut so_far = 0;
                    for piece in &batch.pieces {
                        so_far += piece.tokens;
                        if callers[piece.call].class != batch.class {
                            prop_assert!(batch.class == Class::Query && so_far <= options.query_fill_tokens);
                        }
                    }
                    prop_assert_eq!(callers[batch.pieces[0].call].class, batch.class);
                    match batch.class {
                        Class::Query => {
                            wanted_waits = if passages { wanted_waits + 1 } else { 0 };
                            any_waits = if any_passages { any_waits + 1 } else { 0 };
                            prop_assert!(wanted_waits <= options.queries_in_a_row, "a passage starves");
                        }
                        Class::Passage => {
                            prop_assert!(!queries || any_waits >= options.queries_in_a_row, "before a query");
                            (wanted_waits, any_waits) = (0, 0);
                        }
                    }
                    // Each once, in order, none that nobody wants; nobody waits longer than a turn of each ahead.
                    for piece in &batch.pieces {
                        let class = callers[piece.call].class;
                        prop_assert!(callers[piece.call].wanted(piece.index));
                        prop_assert!((0..piece.index).all(|earlier| !callers[piece.call].wanted(earlier)), "reordered");
                        callers[piece.call].taken[piece.index] = true;
                        for (number, caller) in callers.iter_mut().enumerate() {
                            let first = !caller.taken.contains(&true);
                            if number != piece.call && caller.class == class && caller.waits() && first {
                                caller.overtaken += piece.tokens;
                                prop_assert!(caller.overtaken <= caller.patience, "pushed back");
                            }
                        }
                    }
                    // No needless batch: it was full, or nothing was left that could have gone with it.
                    let next = callers.iter().filter(|c| c.class == batch.class).filter_map(|c| {
                        (0..c.weights.len()).find(|&index| c.wanted(index)).map(|index| c.weights[index])
                    });
                    let next: Vec<_> = next.collect();
                    let full = next.is_empty() || next.iter().any(|tokens| total + tokens > budget);
                    prop_assert!(full, "the batch could have held more");
                }
            }
            // Room: what the model says, and never above the bound but for one call alone.
            for class in Class::ALL {
                let holders: Vec<_> = callers.iter().filter(|c| c.class == class).map(Caller::holds).collect();
                let held = batcher.held(class);
                // Admitted at the door and not polled yet: held as well.
                let unheard = held.checked_sub(holders.iter().sum()).expect("room given back twice");
                let door = callers.iter().filter(|c| c.class == class && matches!(c.at, At::Door(_)));
                prop_assert!(unheard == 0 || unheard <= door.map(|c| c.asked).sum::<usize>());
                let alone = holders.iter().filter(|&&tokens| tokens > 0).count() + usize::from(unheard > 0) == 1;
                prop_assert!(held <= options.room(class) || alone, "{} of {}", held, options.room(class));
                let depth = batcher.depth(class);
                prop_assert_eq!(depth.calls, batcher.shared.lock().lanes[class as usize].turns());
                prop_assert_eq!(depth.calls, callers.iter().filter(|c| c.class == class && c.waits()).count());
            }
        }
        // All leave: nothing remains, each piece that was submitted was dropped once.
        batcher.close();
        while batcher.take_now().is_some() {}
        for caller in &mut callers {
            caller.at = At::Gone;
            for drops in &caller.drops {
                prop_assert_eq!(drops.load(Ordering::Relaxed), usize::from(caller.patience < usize::MAX));
            }
        }
        prop_assert_eq!(Class::ALL.map(|class| batcher.held(class)), [0, 0]);
        prop_assert!(batcher.has_ended());
    }
}

/// A piece with an answer, as the encoder's callers use it.
struct Job {
    tokens: usize,
    reply: oneshot::Sender<usize>,
    answered: Arc<AtomicU64>,
}

impl Piece for Job {
    fn tokens(&self) -> usize {
        self.tokens
    }

    fn is_cancelled(&self) -> bool {
        self.reply.is_closed()
    }
}

fn job(tokens: usize, answered: &Arc<AtomicU64>) -> (Job, oneshot::Receiver<usize>) {
    let (reply, answer) = oneshot::channel();
    (Job { tokens, reply, answered: answered.clone() }, answer)
}

fn consume(batcher: Batcher<Job>) {
    while let Some(batch) = batcher.next_batch() {
        let budget = batcher.options().batch_tokens.max(batcher.options().query_batch_tokens);
        assert!(batch.tokens <= budget || batch.pieces.len() == 1);
        for job in batch.pieces {
            job.answered.fetch_add(1, Ordering::Relaxed);
            let _ = job.reply.send(job.tokens);
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_time().build().unwrap()
}

/// Fails a test that hangs, instead of hanging with it.
fn within<R: Send + 'static>(limit: Duration, work: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, result) = mpsc::channel();
    let thread = std::thread::spawn(move || done.send(work()));
    match result.recv_timeout(limit) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("stuck: not done within {limit:?}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(_) => unreachable!("the thread ended without a result"),
        },
    }
}

#[test]
fn free_running_callers_and_consumers_lose_nothing_and_never_lock_up() {
    within(Duration::from_secs(60), || {
        for consumers in [1, 2, 3] {
            let options = Options { query_fill_tokens: 20, waiting_tokens: 600, ..OPTIONS };
            let batcher = Batcher::<Job>::new(options);
            let consumers: Vec<_> = (0..consumers)
                .map(|_| {
                    let batcher = batcher.clone();
                    std::thread::spawn(move || consume(batcher))
                })
                .collect();
            let answered = Arc::new(AtomicU64::new(0));
            let (wanted, patient) = runtime().block_on(async {
                let callers = (0..16_u64).map(|caller| {
                    let (batcher, answered) = (batcher.clone(), answered.clone());
                    tokio::spawn(async move {
                        let mut random = caller + 1;
                        let mut next = move |below: u64| {
                            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                            (random >> 33) % below
                        };
                        let (mut wanted, mut patient) = (0, 0);
                        for _ in 0..200 {
                            let class = Class::ALL[next(2) as usize];
                            let weights: Vec<_> = (0..1 + next(8)).map(|_| 1 + next(60) as usize).collect();
                            let leaves = (next(4) == 0).then(|| Duration::from_micros(next(300)));
                            let call = async {
                                let admission = batcher.admit_all(class, weights.iter().sum(), None).await.unwrap();
                                let (jobs, answers): (Vec<_>, Vec<_>) =
                                    weights.iter().map(|&w| job(w, &answered)).unzip();
                                let _call = admission.submit(jobs, false).unwrap();
                                for (answer, &tokens) in answers.into_iter().zip(&weights) {
                                    assert_eq!(answer.await.unwrap(), tokens);
                                }
                            };
                            wanted += weights.len() as u64;
                            match leaves {
                                Some(after) => {
                                    let _ = tokio::time::timeout(after, call).await;
                                }
                                None => {
                                    call.await;
                                    patient += weights.len() as u64;
                                }
                            }
                        }
                        (wanted, patient)
                    })
                });
                let mut totals = (0, 0);
                for caller in callers.collect::<Vec<_>>() {
                    let (wanted, patient) = caller.await.unwrap();
                    totals = (totals.0 + wanted, totals.1 + patient);
                }
                totals
            });
            assert_eq!(Class::ALL.map(|class| batcher.held(class)), [0, 0], "all have left");
            batcher.close();
            consumers.into_iter().for_each(|consumer| consumer.join().unwrap());
            let answered = answered.load(Ordering::Relaxed);
            assert!((patient..=wanted).contains(&answered), "{patient} <= {answered} <= {wanted}");
        }
    });
}

#[test]
fn a_waiting_consumer_gets_a_piece_without_a_timer() {
    within(Duration::from_secs(20), || {
        let batcher = Batcher::<Job>::new(OPTIONS);
        let consumer = std::thread::spawn({
            let batcher = batcher.clone();
            move || consume(batcher)
        });
        let answered = Arc::default();
        // Each answer is awaited before the next piece comes: a queue that waited for company would take for ever.
        for _ in 0..1000 {
            let admission = batcher.admit_all(Class::Passage, 5, None).now_or_never().unwrap().unwrap();
            let (job, answer) = job(5, &answered);
            let _call = admission.submit([job], false).unwrap();
            assert_eq!(answer.blocking_recv(), Ok(5));
        }
        batcher.close();
        consumer.join().unwrap();
    });
}

#[test]
fn one_arrival_of_many_pieces_wakes_every_consumer_it_needs() {
    within(Duration::from_secs(20), || {
        let batcher = Batcher::<Job>::new(OPTIONS);
        // Each keeps its batch until all of them have one.
        let all_have_one = Arc::new(std::sync::Barrier::new(3));
        let consumers = [(); 3].map(|()| {
            let (batcher, all_have_one) = (batcher.clone(), all_have_one.clone());
            std::thread::spawn(move || {
                let batch = batcher.next_batch().unwrap();
                all_have_one.wait();
                batch.pieces.len()
            })
        });
        while batcher.shared.lock().parked < 3 {
            std::thread::yield_now();
        }
        let admission = batcher.admit_all(Class::Passage, 300, None).now_or_never().unwrap().unwrap();
        let (jobs, _answers): (Vec<_>, Vec<_>) = (0..3).map(|_| job(100, &Arc::default())).unzip();
        let _call = admission.submit(jobs, false).unwrap();
        assert_eq!(consumers.map(|consumer| consumer.join().unwrap()), [1, 1, 1]);
    });
}

#[test]
fn a_deadline_ends_the_wait_with_the_name_of_the_limit() {
    let batcher = Batcher::new(OPTIONS);
    let _full = put(&batcher, Class::Passage, 0, &[7000]);
    let runtime = runtime();
    let deadline = Instant::now() + Duration::from_millis(30);
    let outcome = runtime.block_on(batcher.admit_all(Class::Passage, 300, Some(deadline)));
    let late = Instant::now().checked_duration_since(deadline).expect("not before the deadline");
    let error = outcome.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    assert_eq!(
        error.message(),
        "too much work is waiting: the 300 tokens of this request found no room in time among the 7000 that may wait \
         for the class 'passage'; try again later (limit: --max-waiting-tokens, now 8000 for all classes)"
    );
    assert!(late < Duration::from_secs(10), "{late:?} late");
    assert_eq!((batcher.held(Class::Passage), batcher.depth(Class::Passage).at_the_door), (7000, 0));
    // With room, a deadline that has passed refuses nobody.
    let admission = runtime.block_on(batcher.admit_all(Class::Query, 1, Some(deadline)));
    assert!(admission.is_ok());
}

#[test]
fn a_caller_at_the_door_is_let_in_while_its_deadline_runs() {
    within(Duration::from_secs(20), || {
        let batcher = Batcher::new(OPTIONS);
        let full = put(&batcher, Class::Passage, 0, &[7000]);
        let runtime = runtime();
        let caller = runtime.spawn({
            let batcher = batcher.clone();
            async move {
                let deadline = Instant::now() + Duration::from_secs(15);
                batcher.admit_all(Class::Passage, 300, Some(deadline)).await.is_ok()
            }
        });
        while batcher.depth(Class::Passage).at_the_door == 0 {
            std::thread::yield_now();
        }
        drop(full);
        assert!(runtime.block_on(caller).unwrap());
        assert_eq!(batcher.held(Class::Passage), 0, "the admission was dropped");
    });
}

#[test]
fn equal_calls_are_served_in_equal_parts_over_time() {
    // Three calls that bring 50 tokens, 20 tokens and 5 tokens a piece have had nearly the same when one ends.
    let batcher = Batcher::new(Options { batch_tokens: 200, ..OPTIONS });
    let calls = [(0, vec![50; 40]), (1, vec![20; 100]), (2, vec![5; 400])];
    let _held: Vec<_> = calls.iter().map(|(call, weights)| put(&batcher, Class::Passage, *call, weights)).collect();
    let mut served: HashMap<usize, usize> = HashMap::new();
    let mut recent = VecDeque::new();
    for _ in 0..12 {
        let batch = batcher.take_now().unwrap();
        batch.pieces.iter().for_each(|piece| *served.entry(piece.call).or_default() += piece.tokens);
        recent.push_back(batch.tokens);
    }
    let (least, most) = (served.values().min().unwrap(), served.values().max().unwrap());
    assert!(served.len() == 3 && least * 5 >= most * 3, "{served:?}");
    assert!(recent.iter().all(|tokens| (150..=200).contains(tokens)), "{recent:?}");
}
