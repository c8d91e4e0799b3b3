//! A team's promises: every item once, nobody held up, panics are errors.

use super::*;

#[test]
fn every_item_of_every_phase_is_done_once_before_the_next_phase() {
    for size in [1, 2, 3, 5] {
        let mut team = Team::new(size).unwrap();
        for round in 0..50 {
            let phases = 20;
            let done: Arc<Vec<AtomicUsize>> = Arc::new((0..phases).map(|_| AtomicUsize::new(0)).collect());
            let seen = Arc::clone(&done);
            let items = move |phase: usize| (phase * 7 + round) % 13;
            team.run(Arc::new(move |member| {
                for phase in 0..phases {
                    member.phase(items(phase), |_| {
                        if phase > 0 {
                            assert_eq!(done[phase - 1].load(Ordering::Relaxed), items(phase - 1));
                        }
                        done[phase].fetch_add(1, Ordering::Relaxed);
                    });
                }
            }))
            .unwrap();
            assert!((0..phases).all(|phase| seen[phase].load(Ordering::Relaxed) == items(phase)));
        }
    }
}

#[test]
fn more_items_than_a_claim_can_count_are_all_done() {
    let items = 3 * Claim::ITEMS as usize + 5;
    let done = Arc::new(AtomicUsize::new(0));
    let sum = Arc::clone(&done);
    let function = move |member: &Member<'_>| {
        member.phase(items, |item| {
            sum.fetch_add(item, Ordering::Relaxed);
        });
    };
    Team::new(2).unwrap().run(Arc::new(function)).unwrap();
    assert_eq!(done.load(Ordering::Relaxed), items * (items - 1) / 2);
}

/// Runs a function of one phase whose items wait for each other, so that all members must take part.
fn meet(team: &mut Team) -> usize {
    let seen = Arc::new(AtomicUsize::new(0));
    let (counter, size) = (Arc::clone(&seen), team.size());
    team.run(Arc::new(move |member| {
        member.phase(size, |_| {
            counter.fetch_add(1 << (8 * member.index()), Ordering::SeqCst);
            while counter.load(Ordering::SeqCst) != 0x01_01_01 {
                std::thread::yield_now();
            }
        });
    }))
    .unwrap();
    seen.load(Ordering::SeqCst)
}

#[test]
fn members_have_different_indices_and_wake_from_parking() {
    let mut team = Team::new(3).unwrap();
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(meet(&mut team), 0x01_01_01);
    }
}

#[test]
fn a_member_outside_of_items_holds_up_nobody() {
    let mut team = Team::new(2).unwrap();
    let asleep = Arc::new(AtomicBool::new(false));
    let (sleeper, release) = (Arc::clone(&asleep), Arc::new(AtomicBool::new(false)));
    let released = Arc::clone(&release);
    // The thread is put aside between phases; the caller starts once it is.
    team.run(Arc::new(move |member| {
        if member.index() == 1 {
            sleeper.store(true, Ordering::SeqCst);
            while !released.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        }
        while !sleeper.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        member.phase(10, |_| assert_eq!(member.index(), 0));
    }))
    .unwrap();
    // A second run ends without it too, and does not disturb or wait for it.
    let sum = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sum);
    let add = move |member: &Member<'_>| {
        member.phase(10, |item| {
            counter.fetch_add(item, Ordering::SeqCst);
        });
    };
    let add: Arc<Function> = Arc::new(add);
    team.run(Arc::clone(&add)).unwrap();
    assert_eq!(sum.load(Ordering::SeqCst), 45);
    release.store(true, Ordering::SeqCst);
    for runs in 2..200 {
        team.run(Arc::clone(&add)).unwrap();
        assert_eq!(sum.load(Ordering::SeqCst), 45 * runs);
    }
}

#[test]
fn a_function_that_borrows_has_been_left_by_all_when_its_run_is_over() {
    let mut team = Team::new(3).unwrap();
    for _ in 0..200 {
        let inside = AtomicUsize::new(0);
        let mut sum = AtomicUsize::new(0);
        team.run_borrowed(&|member| {
            inside.fetch_add(1, Ordering::SeqCst);
            member.phase(7, |item| {
                sum.fetch_add(item, Ordering::SeqCst);
            });
            std::thread::yield_now();
            inside.fetch_sub(1, Ordering::SeqCst);
        })
        .unwrap();
        assert_eq!((inside.into_inner(), *sum.get_mut()), (0, 21));
    }
}

#[test]
fn a_panic_of_any_member_is_an_error_and_the_team_goes_on() {
    for size in [1, 2, 3] {
        let mut team = Team::new(size).unwrap();
        for guilty in 0..size {
            let met = Arc::new(AtomicUsize::new(0));
            let error = team
                .run(Arc::new(move |member| {
                    // All are there before one panics, within an item as it would.
                    member.phase(size, |_| {
                        met.fetch_add(1, Ordering::SeqCst);
                        while met.load(Ordering::SeqCst) < size {
                            std::thread::yield_now();
                        }
                        // Quietly: the panic hook need not print.
                        if member.index() == guilty {
                            resume_unwind(Box::new(format!("member {guilty}")));
                        }
                    });
                    member.phase(4, |_| ());
                    member.phase(0, |_| ());
                }))
                .unwrap_err();
            assert!(error.message().ends_with(&format!("member {guilty}")), "{error}");
            let sum = Arc::new(AtomicUsize::new(0));
            let counter = Arc::clone(&sum);
            team.run(Arc::new(move |member| {
                member.phase(10, |item| {
                    counter.fetch_add(item, Ordering::Relaxed);
                });
            }))
            .unwrap();
            assert_eq!(sum.load(Ordering::Relaxed), 45);
        }
    }
}

#[test]
fn dropping_a_team_joins_its_threads() {
    let team = Team::new(4).unwrap();
    let shared = Arc::downgrade(&team.shared);
    drop(team);
    assert_eq!(shared.strong_count(), 0, "a thread still holds the team's state");
}
