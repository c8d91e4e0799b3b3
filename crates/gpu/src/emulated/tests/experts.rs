//! Experts for the rows that took them, which is how passes are computed that are not recorded, beside all experts for all rows.

use text2vec_kernel::NormPlacement;

use super::super::EmulatedCard;
use super::model::{model, texts};
use crate::card::{CardError, Number};
use crate::layout::rounded_rows;
use crate::{Error, Pooling, Transformer};

const SEQUENCES: usize = 22;
const LENGTH: usize = 50;
/// Of each half, which is recorded, and of all.
const HALF: usize = SEQUENCES * LENGTH / 2;
const ALL: usize = SEQUENCES * LENGTH;

type Small = Transformer<EmulatedCard>;

/// What routes rows: by their own scores or not, and what is added for each expert.
type Router<'r> = (bool, &'r [f32]);

/// Where its norms are, and the size of its heads.
type Kind = (NormPlacement, usize);

/// With hidden states of 24 columns, which are as wide as two of these heads.
const AFTER: Kind = (NormPlacement::After, 12);

fn small(number: Number, experts: (usize, usize), router: Router<'_>, kind: Kind) -> Small {
    let (shape, outer, block) = model(experts, router, kind);
    Transformer::new(EmulatedCard::new(), number, shape, outer, block).unwrap()
}

/// The states and the vectors of these sequences, and how many rows of products each took.
fn computed(model: &mut Small, ids: &[u32], lengths: &[usize]) -> (Vec<f32>, Vec<Vec<f32>>, usize) {
    let before = model.card().product_rows();
    let states = model.states(&[ids.to_vec()], lengths).unwrap();
    let rows = model.card().product_rows() - before;
    let pooled = model.pooled(&[ids.to_vec()], lengths, [true, false, true]).unwrap();
    assert_eq!(model.card().product_rows() - before, 2 * rows);
    let of = |sequence| [Pooling::Mean, Pooling::Last].map(|kind| pooled.vector(kind, sequence).unwrap()).concat();
    (states, (0..lengths.len()).map(of).collect(), rows)
}

/// Rows of all experts' products in one pass of all sequences and in two of a half each, which come to the same bits. Everything
/// else has four products in each block, and two more in the first one.
fn both_ways(mut model: Small) -> (usize, usize) {
    let (ids, lengths) = texts(SEQUENCES, LENGTH);
    let (states, vectors, rows) = computed(&mut model, &ids, &lengths);
    let mut halves = (Vec::new(), Vec::new(), 0);
    for (ids, lengths) in ids.chunks(HALF).zip(lengths.chunks(SEQUENCES / 2)) {
        let (states, vectors, rows) = computed(&mut model, ids, lengths);
        halves = ([halves.0, states].concat(), [halves.1, vectors].concat(), halves.2 + rows);
    }
    assert!(states.iter().chain(vectors.iter().flatten()).all(|value| value.is_finite()));
    assert!(states == halves.0 && vectors == halves.1, "{:?}", model);
    let others = 2 * 2 + 2;
    (rows - others * rounded_rows(ALL), halves.2 - others * 2 * rounded_rows(HALF))
}

#[test]
fn rows_are_computed_by_the_experts_that_they_took() {
    let of_their_own = (true, &[0.0; 8][..]);
    // With attention that is as wide as the states, and that is not; with states in f32.
    for (number, kind) in [
        (Number::F32, AFTER),
        (Number::F32, (NormPlacement::After, 8)),
        (Number::F16, (NormPlacement::Before, 12)),
        (Number::Bf16, AFTER),
    ] {
        let (some, all) = both_ways(small(number, (8, 2), of_their_own, kind));
        println!("{number:?}, {kind:?}: {some} rows of experts' products, and {all}");
        // Two products for each of a row's two experts, and what is rounded up.
        let least = 2 * 2 * rounded_rows(ALL);
        assert!((least..=least + 2 * (8 * 16 + ALL / 8)).contains(&some), "{some} rows");
        assert_eq!(all, 2 * 8 * 2 * rounded_rows(HALF));
    }
}

#[test]
fn all_rows_may_take_the_same_experts_and_none_the_others() {
    for (experts, biases) in [((3, 1), &[0.0, 1.0, 0.5][..]), ((3, 2), &[1.0, 0.0, 0.5]), ((4, 4), &[0.0; 4])] {
        let (some, all) = both_ways(small(Number::F32, experts, (false, biases), AFTER));
        assert_eq!(some, 2 * experts.1 * rounded_rows(ALL), "{experts:?}");
        assert_eq!(all, 2 * experts.0 * 2 * rounded_rows(HALF), "{experts:?}");
    }
    // More experts than threads of a warp.
    let (some, all) = both_ways(small(Number::F32, (33, 3), (true, &[0.0; 33]), AFTER));
    assert!(some < all / 6, "{some} rows of {all}");
}

/// Whoever has no numbers has no best experts: all of them.
#[test]
fn rows_that_are_no_numbers_leave_the_others_alone() {
    let (shape, outer, block) = model((8, 2), (true, &[0.0; 8]), AFTER);
    let mut broken = outer.clone();
    broken.tables[0][..shape.hidden].fill(f32::NAN);
    let (mut ids, lengths) = texts(SEQUENCES, LENGTH);
    ids.iter_mut().for_each(|id| *id = (*id).max(1));
    let mut model = Transformer::new(EmulatedCard::new(), Number::F32, shape, broken, block).unwrap();
    let (states, ..) = computed(&mut model, &ids, &lengths);
    ids[7 * LENGTH] = 0;
    let (found, ..) = computed(&mut model, &ids, &lengths);
    let sequence = 7 * LENGTH * shape.hidden..8 * LENGTH * shape.hidden;
    assert!(found[sequence.clone()].iter().all(|value| value.is_nan()));
    assert!(found[..sequence.start] == states[..sequence.start] && found[sequence.end..] == states[sequence.end..]);
}

#[test]
fn without_memory_at_any_kernel_the_next_pass_works() {
    let mut model = small(Number::F32, (3, 2), (true, &[0.0; 3]), AFTER);
    let (ids, lengths) = texts(SEQUENCES, LENGTH);
    let mut pooled = |fails_at: usize| {
        if fails_at > 0 {
            model.card().fail_after(fails_at);
        }
        model.pooled(std::slice::from_ref(&ids), &lengths, [true, false, false])
    };
    let expected = pooled(0).unwrap();
    let mut failed = 0;
    while let Err(error) = pooled(failed + 1) {
        assert!(matches!(error, Error::Card(CardError::OutOfMemory)), "{error}");
        failed += 1;
    }
    // Those before and after the waiting: 5 and 4 and 2 of blocks, 4 of routing and listing, 3 of each expert.
    assert!(failed >= 20, "{failed} kernels");
    let card = model.card().clone();
    card.fail_after(usize::MAX);
    assert_eq!(model.pooled(&[ids], &lengths, [true, false, false]).unwrap(), expected);
    drop(model);
    assert_eq!(card.taken(), 0);
}

/// What lists and rows take is taken before a pass begins, and counted.
#[test]
fn memory_for_lists_is_counted() {
    let (shape, outer, block) = model((8, 2), (true, &[0.0; 8]), (NormPlacement::After, 8));
    let card = EmulatedCard::new();
    let mut model = Transformer::new(card.clone(), Number::F16, shape, outer, block).unwrap();
    let mut taken_for = |rows: usize| {
        model.give_back();
        let before = card.taken();
        model.reserve(rows).unwrap();
        (card.taken() - before) as f64 / rows as f64
    };
    let (few, many) = (taken_for(1024), taken_for(2048));
    // A word for each expert, a row, and a word for each group and expert.
    let listed = 4.0 * 8.0 + 2.0 * 24.0 + 4.0 * 8.0 / 128.0 + 4.0 * 8.0 / 2048.0;
    assert!((many - few - listed).abs() < 1e-9, "{few} and {many} bytes a row");
}
