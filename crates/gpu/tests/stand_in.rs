//! `CudaCard` beside `EmulatedCard`: the same products, recordings and errors. `make cuda-check` has this linked with a card that is
//! the CPU and is stricter than a driver (tests/fixtures/cuda/card); with NVIDIA's libraries in its place it runs on a GPU.
#![cfg(all(feature = "cuda", feature = "emulated"))]

use std::ffi::CStr;

use text2vec_gpu::card::{
    Address, Card, CardError, CardResult, Epilogue, Launch, Number, Product, bytes_of, values_of,
};
use text2vec_gpu::cuda::CudaCard;
use text2vec_gpu::emulated::EmulatedCard;
use text2vec_gpu::{Error, Pooling, Transformer};
use text2vec_kernel::NormPlacement;
use text2vec_kernel::testing::values as numbers;

#[path = "../src/emulated/tests/model.rs"]
mod model;

/// Bytes on the card.
fn place<C: Card>(card: &C, bytes: &[u8]) -> C::Memory {
    let memory = card.take(bytes.len()).unwrap();
    // SAFETY: as many were taken.
    unsafe { card.write(card.address(&memory), bytes) }.unwrap();
    memory
}

fn fetch<C: Card>(card: &C, memory: &C::Memory, bytes: usize) -> Vec<u8> {
    let mut staging = card.staging(bytes).unwrap();
    // SAFETY: both are there until it is done.
    unsafe { card.copy_out(card.address(memory), bytes, &staging) }.unwrap();
    card.wait().unwrap();
    staging.as_mut().to_vec()
}

/// What is added to a product.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Added {
    Nothing,
    Another,
    /// What is there already.
    Itself,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    rows: usize,
    depth: usize,
    columns: usize,
    /// Columns that are no part of a matrix, behind each of its rows.
    beyond: usize,
    number: Number,
    to_number: Number,
    bias: bool,
    epilogue: Epilogue,
    added: Added,
    recorded: bool,
}

fn product<C: Card>(card: &C, case: Case) -> Vec<f32> {
    let Case { rows, depth, columns, beyond, number, to_number, epilogue, .. } = case;
    let (from_stride, weight_stride, to_stride) = (depth + beyond, depth + 2 * beyond, columns + beyond);
    let from = place(card, &bytes_of(number, &numbers(rows * from_stride, 1)));
    let weight = place(card, &bytes_of(number, &numbers(columns * weight_stride, 2)));
    let bias = place(card, &bytes_of(to_number, &numbers(columns, 3)));
    let another = place(card, &bytes_of(to_number, &numbers(rows * to_stride, 4)));
    let to = place(card, &bytes_of(to_number, &numbers(rows * to_stride, 5)));
    let product = Product {
        rows,
        depth,
        columns,
        number,
        to_number,
        from: (card.address(&from), from_stride),
        weight: (card.address(&weight), weight_stride),
        bias: if case.bias { card.address(&bias) } else { Address::NOWHERE },
        epilogue,
        added: match case.added {
            Added::Nothing => Address::NOWHERE,
            Added::Another => card.address(&another),
            Added::Itself => card.address(&to),
        },
        to: (card.address(&to), to_stride),
    };
    // SAFETY: its matrices are as large as it says, and stay until the result is fetched; so does the recording.
    let _recording = unsafe {
        if case.recorded {
            let recording = card.record(&mut || card.multiply(&product)).unwrap();
            card.replay(&recording).unwrap();
            Some(recording)
        } else {
            card.multiply(&product).unwrap();
            None
        }
    };
    values_of(to_number, &fetch(card, &to, rows * to_stride * to_number.bytes()))
}

/// What is wrong with a product, if anything.
fn compare(card: &CudaCard, case: Case) -> Option<String> {
    let (found, wanted) = (product(card, case), product(&EmulatedCard::new(), case));
    assert_eq!(found.len(), wanted.len());
    let tolerance = match case.to_number {
        Number::F32 => 2e-5,
        Number::F16 => 5e-3,
        Number::Bf16 => 4e-2,
    };
    let is_right = |(found, wanted): &(&f32, &f32)| (*found - *wanted).abs() <= tolerance * (1.0 + wanted.abs());
    let (found, wanted) = found.iter().zip(&wanted).find(|pair| !is_right(pair))?;
    Some(format!("{case:?}: {found}, not {wanted}"))
}

#[test]
fn products_on_a_card_are_those_of_the_emulated_one() {
    let card = CudaCard::open(0).unwrap();
    let mut failures = Vec::new();
    let kinds = [
        (Number::F32, Number::F32),
        (Number::F16, Number::F16),
        (Number::F16, Number::F32),
        (Number::Bf16, Number::Bf16),
        (Number::Bf16, Number::F32),
    ];
    let ends = [
        (Epilogue::None, Added::Nothing),
        (Epilogue::None, Added::Another),
        (Epilogue::None, Added::Itself),
        (Epilogue::GeluTanh, Added::Nothing),
        (Epilogue::Relu, Added::Nothing),
    ];
    for (number, to_number) in kinds {
        for (epilogue, added) in ends {
            // What is activated stays as it is; of f32 cuBLASLt activates nothing but by ReLU.
            let is_asked = match epilogue {
                Epilogue::None => true,
                Epilogue::GeluTanh => number == to_number && number != Number::F32,
                Epilogue::Relu => number == to_number,
            };
            if !is_asked {
                continue;
            }
            // Of the last one, algorithms are timed: where it is not recorded, which comes first, as in a pass.
            for (rows, depth, columns, beyond) in [(1, 8, 8, 0), (7, 24, 40, 8), (70, 32, 16, 16), (1030, 8, 8, 0)] {
                for (bias, recorded) in [(true, false), (true, true), (false, false), (false, true)] {
                    let case =
                        Case { rows, depth, columns, beyond, number, to_number, bias, epilogue, added, recorded };
                    // A card is not at hand every day: one failure does not hide the others.
                    failures.extend(compare(&card, case));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} are wrong: {failures:#?}", failures.len());
}

fn launch<C: Card>(card: &C, kernel: &CStr) -> CardResult<()> {
    let launch = Launch { blocks: [1, 1], threads: 32, shared_bytes: 0, arguments_bytes: 0 };
    // SAFETY: there is no such kernel.
    unsafe { card.launch(kernel, launch, std::ptr::null()) }
}

/// What a card answers to what cannot be done, or not now.
fn answers<C: Card>(card: &C) -> Vec<(&'static str, Option<CardError>)> {
    let memory = card.take(64).unwrap();
    let mut answers = vec![
        ("too much memory", card.take(1 << 50).err()),
        ("an unknown kernel", launch(card, c"no_such_kernel").err()),
        ("nothing to take", card.take(0).err()),
    ];
    let mut inner = Vec::new();
    let mut work = || {
        inner.push(("take while recording", card.take(8).err()));
        inner.push(("staging while recording", card.staging(8).err()));
        inner.push(("wait while recording", card.wait().err()));
        // SAFETY: as many were taken.
        inner.push(("write while recording", unsafe { card.write(card.address(&memory), &[1]) }.err()));
        // SAFETY: it uses no memory.
        inner.push(("record while recording", unsafe { card.record(&mut || Ok(())) }.err()));
        Ok(())
    };
    // SAFETY: what was recorded, if anything, is never done.
    let recorded = unsafe { card.record(&mut work) }.err();
    answers.extend(inner);
    answers.push(("all of that", recorded));
    // SAFETY: it uses no memory.
    let failed = unsafe { card.record(&mut || Err(CardError::Failed("as asked".to_owned()))) };
    answers.push(("work that fails", failed.err()));
    answers.push(("going on", card.wait().err()));
    answers
}

#[test]
fn errors_on_a_card_are_those_of_the_emulated_one() {
    let (found, wanted) = (answers(&CudaCard::open(0).unwrap()), answers(&EmulatedCard::new()));
    let kind = |answer: &Option<CardError>| answer.as_ref().map(std::mem::discriminant);
    assert_eq!(found.len(), wanted.len());
    for ((what, found), (_, wanted)) in found.iter().zip(&wanted) {
        assert_eq!(kind(found), kind(wanted), "{what}: {found:?}, not {wanted:?}");
    }
    assert!(matches!(CudaCard::open(1000), Err(CardError::Failed(_))));
}

/// A recording, memory and page-locked memory outlive the card, and go on another thread, in this order.
#[test]
fn what_was_taken_on_a_card_is_given_back_whatever_is_dropped_first() {
    let card = CudaCard::open(0).unwrap();
    let (memory, staging) = (card.take(1024).unwrap(), card.staging(1024).unwrap());
    let mut dropped = Some((card.take(64).unwrap(), card.staging(64).unwrap()));
    let mut work = || {
        // Freed once nothing is recorded any more.
        drop(dropped.take());
        // SAFETY: both are there until the recording is dropped.
        unsafe { card.copy_in(&staging, 1024, card.address(&memory)) }
    };
    // SAFETY: as above.
    let recording = unsafe { card.record(&mut work) }.unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        // SAFETY: it uses no memory.
        let _ = unsafe { card.record(&mut || panic!("as asked")) };
    }));
    assert!(panicked.is_err());
    // SAFETY: as above.
    unsafe { card.replay(&recording) }.unwrap();
    card.give_back_unused().unwrap();
    let other = std::thread::spawn(move || {
        drop(card);
        drop(recording);
        drop(memory);
        drop(staging);
    });
    other.join().unwrap();
}

/// A transformer with experts: each row has its own where one is biased by a half.
fn transformer<C: Card>(card: C, number: Number, biases: &[f32]) -> Result<Transformer<C>, Error> {
    let (shape, outer, block) =
        model::model((biases.len(), 2), (biases.contains(&0.5), biases), (NormPlacement::After, 12));
    Transformer::new(card, number, shape, outer, block)
}

/// Large passes wait for the card to hear how many rows each expert has; small ones are recorded.
#[test]
fn experts_on_a_card_are_those_of_the_emulated_one() {
    for number in [Number::F32, Number::F16] {
        // Each row takes its own; all take the same.
        for biases in [&[0.5; 8][..], &[1.0, 0.0, 2.0]] {
            let mut found = transformer(CudaCard::open(0).unwrap(), number, biases).unwrap();
            let mut wanted = transformer(EmulatedCard::new(), number, biases).unwrap();
            for (sequences, length) in [(22, 50), (4, 20), (4, 20), (4, 20), (40, 30)] {
                let (ids, lengths) = model::texts(sequences, length);
                let found = found.pooled(std::slice::from_ref(&ids), &lengths, [true, false, true]).unwrap();
                let wanted = wanted.pooled(&[ids], &lengths, [true, false, true]).unwrap();
                for sequence in 0..sequences {
                    for kind in [Pooling::Mean, Pooling::Last] {
                        let (found, wanted) = (found.vector(kind, sequence).unwrap(), wanted.vector(kind, sequence));
                        for (found, wanted) in found.iter().zip(wanted.unwrap()) {
                            // Where a row's experts are nearly alike, rounding may choose.
                            let tolerance = if number == Number::F32 { 1e-4 } else { 5e-2 };
                            assert!(
                                (found - wanted).abs() <= tolerance,
                                "{number:?} {biases:?}: {found}, not {wanted}"
                            );
                        }
                    }
                }
            }
        }
    }
}

/// As the driver counts it; what is taken may have been the pool's before.
#[test]
fn a_card_tells_how_much_memory_is_free() {
    let card = CudaCard::open(0).unwrap();
    let (free, all) = card.memory().unwrap();
    assert!(0 < free && free <= all, "{free} of {all} bytes");
}
