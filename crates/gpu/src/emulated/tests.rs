use half::f16;

use super::*;
use crate::card::{Epilogue, Number, bytes_of, values_of};
use text2vec_kernel::testing::values as numbers;

mod experts;
mod model;

#[repr(C)]
struct Selftest {
    a: Address,
    b: Address,
    to: Address,
    count: u32,
}

/// Bytes on the card.
fn place(card: &EmulatedCard, bytes: &[u8]) -> EmulatedMemory {
    let memory = card.take(bytes.len()).unwrap();
    // SAFETY: as many were taken.
    unsafe { card.write(card.address(&memory), bytes) }.unwrap();
    memory
}

fn fetch(card: &EmulatedCard, memory: &EmulatedMemory, bytes: usize) -> Vec<u8> {
    let mut staging = card.staging(bytes).unwrap();
    // SAFETY: both are there until it is done.
    unsafe { card.copy_out(card.address(memory), bytes, &staging) }.unwrap();
    card.wait().unwrap();
    staging.as_mut().to_vec()
}

/// Launches a kernel that stays within what its arguments name.
fn launch(card: &EmulatedCard, kernel: &CStr, blocks: [u32; 2], threads: u32, arguments: &Selftest) -> CardResult<()> {
    let launch = Launch { blocks, threads, shared_bytes: 512, arguments_bytes: size_of::<Selftest>() };
    // SAFETY: the argument is what the kernels of `selftest.cu` take.
    unsafe { card.launch(kernel, launch, (&raw const *arguments).cast()) }
}

/// What a kernel makes of `a` and `b`, and of what is at its result before.
fn run(kernel: &CStr, blocks: [u32; 2], threads: u32, [a, b, to]: [&[u8]; 3], count: u32) -> Vec<u8> {
    let card = EmulatedCard::new();
    let [a, b, result] = [a, b, to].map(|bytes| place(&card, bytes));
    let [at_a, at_b, at_to] = [&a, &b, &result].map(|memory| card.address(memory));
    launch(&card, kernel, blocks, threads, &Selftest { a: at_a, b: at_b, to: at_to, count }).unwrap();
    fetch(&card, &result, to.len())
}

#[test]
fn warps_multiply() {
    for (kernel, number) in [(c"selftest_multiply_f16", Number::F16), (c"selftest_multiply_bf16", Number::Bf16)] {
        let rounded = |count, seed| values_of(number, &bytes_of(number, &numbers(count, seed)));
        let (a, b, c) = (rounded(16 * 16, 1), rounded(16 * 8, 2), numbers(16 * 8, 3));
        let operands: [&[u8]; 3] = [&bytes_of(number, &a), &bytes_of(number, &b), &bytes_of(Number::F32, &c)];
        let sums = values_of(Number::F32, &run(kernel, [1, 1], 32, operands, 0));
        for (place, sum) in sums.iter().enumerate() {
            let (row, column) = (place / 8, place % 8);
            let products = (0..16).map(|i| f64::from(a[row * 16 + i]) * f64::from(b[i * 8 + column]));
            let exact = f64::from(c[place]) + products.sum::<f64>();
            assert!((f64::from(*sum) - exact).abs() < 1e-5, "{kernel:?} {row} {column}: {sum} {exact}");
        }
    }
}

#[test]
fn warps_load_matrices() {
    let values: Vec<u16> = (0..256).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let loaded = run(c"selftest_matrices", [1, 1], 32, [&bytes, &[], &[0; 1024]], 0);
    let loaded: Vec<u16> = loaded.as_chunks().0.iter().map(|x| u16::from_le_bytes(*x)).collect();
    for thread in 0..32 {
        let (group, pair) = (thread / 4, 2 * (thread % 4));
        for matrix in 0..4 {
            let of = |row: usize, column: usize| (matrix * 64 + row * 8 + column) as u16;
            let place = (thread * 4 + matrix) * 2;
            assert_eq!(loaded[place..place + 2], [of(group, pair), of(group, pair + 1)]);
            assert_eq!(loaded[256 + place..256 + place + 2], [of(pair, group), of(pair + 1, group)]);
        }
    }
}

#[test]
fn warps_exchange() {
    let values: Vec<f32> = (0..256).map(|i| i as f32).collect();
    let sums = run(c"selftest_exchange", [2, 1], 128, [&bytes_of(Number::F32, &values), &[], &[0; 1024]], 0);
    let sums = values_of(Number::F32, &sums);
    for (warp, sums) in values.chunks(32).zip(sums.chunks(32)) {
        assert_eq!(sums, [warp.iter().sum::<f32>(); 32]);
    }
}

#[test]
fn blocks_meet() {
    let values = numbers(6 * 96, 4);
    let given = bytes_of(Number::F32, &values);
    for times in [0, 1, 2, 5] {
        let turned = run(c"selftest_meet", [3, 2], 96, [&given, &[], &vec![0; given.len()]], times);
        for (block, turned) in values.chunks(96).zip(values_of(Number::F32, &turned).chunks(96)) {
            let mut expected = block.to_vec();
            if times % 2 != 0 {
                expected.reverse();
            }
            assert_eq!(turned, expected);
        }
    }
}

#[test]
fn halves_are_rounded_to_the_nearest() {
    let halves: Vec<u16> = (0..=u16::MAX).collect();
    let bytes: Vec<u8> = halves.iter().flat_map(|x| x.to_le_bytes()).collect();
    for (number, widen, round) in [
        (Number::F16, c"selftest_widen_f16", c"selftest_round_f16"),
        (Number::Bf16, c"selftest_widen_bf16", c"selftest_round_bf16"),
    ] {
        let expected = values_of(number, &bytes);
        let floats = values_of(Number::F32, &run(widen, [1, 1], 32, [&bytes, &[], &[0; 4 << 16]], 1 << 16));
        for (float, expected) in floats.iter().zip(&expected) {
            assert!(float.to_bits() == expected.to_bits() || float.is_nan() && expected.is_nan());
        }
        // Every half, what lies between it and the next one, and what lies beside these.
        let near = |x: f32| [x.to_bits().wrapping_sub(1), x.to_bits(), x.to_bits().wrapping_add(1)].map(f32::from_bits);
        let halfway = |x: &f32| near(f32::from_bits(x.to_bits().wrapping_add(half_a_step(number, *x))));
        let values: Vec<f32> = expected.iter().flat_map(|x| [near(*x), halfway(x)].concat()).collect();
        let rounded = vec![0; values.len() * 2];
        let given = bytes_of(Number::F32, &values);
        let rounded = run(round, [1, 1], 64, [&given, &[], &rounded], values.len() as u32);
        for ((value, got), expected) in values.iter().zip(rounded.chunks(2)).zip(bytes_of(number, &values).chunks(2)) {
            let nan = value.is_nan() && values_of(number, got)[0].is_nan();
            assert!(got == expected || nan, "{number:?} {value}: {got:?} {expected:?}");
        }
    }
}

/// In bits of an f32; a subnormal f16 gets half of its own step too.
fn half_a_step(number: Number, x: f32) -> u32 {
    let subnormal = f32::from(f16::MIN_POSITIVE);
    match number {
        Number::F16 if x.abs() < subnormal => (x.abs() + subnormal / 2048.0).to_bits() - x.abs().to_bits(),
        Number::F16 => 1 << 12,
        _ => 1 << 15,
    }
}

#[test]
fn launches_run_beside_each_other() {
    std::thread::scope(|scope| {
        (0..4).for_each(|_| drop(scope.spawn(blocks_meet)));
    });
}

/// These tests, in the emulator of `make test-arm` if that has them.
fn this_program() -> std::process::Command {
    let program = std::env::current_exe().unwrap();
    let Ok(emulator) = std::env::var("T2V_TEST_EMULATED") else { return std::process::Command::new(program) };
    let mut words = emulator.split_whitespace();
    let mut command = std::process::Command::new(words.next().unwrap());
    command.args(words).arg(program);
    command
}

#[test]
fn broken_kernels_end_the_program() {
    const VARIABLE: &str = "T2V_TEST_BROKEN_KERNEL";
    if let Ok(which) = std::env::var(VARIABLE) {
        run(c"selftest_broken", [1, 1], 64, [&[], &[], &[0; 256]], which.parse().unwrap());
        return;
    }
    let reasons = [
        "it waits in exchange, and other threads of the warp have ended",
        "it waits in exchange, and other threads of the warp in meet",
        "it waits in exchange, and other threads of the warp in multiply_add<half>",
        "it ends, and other threads of the block wait in meet",
        "the block wrote outside of its 512 bytes of shared memory",
        "is not at a multiple of 16",
        "is not in shared memory",
        "exchange of 1 and of 2",
    ];
    for (which, reason) in reasons.iter().enumerate() {
        let output = this_program()
            .args(["--exact", "emulated::tests::broken_kernels_end_the_program", "--nocapture"])
            .env(VARIABLE, which.to_string())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("kernel selftest_broken, block (0, 0)"), "{which}: {said}");
        assert!(said.contains(reason), "{which}: {said}");
    }
    // What nobody wrote to shared memory is no number.
    let read = run(c"selftest_broken", [1, 1], 64, [&[], &[], &[0; 256]], reasons.len() as u32);
    assert!(values_of(Number::F32, &read).iter().all(|x| x.is_nan()));
}

/// `added`, if any, is what the result overwrites; `to` is the right half of rows twice as long.
fn product(number: Number, to_number: Number, epilogue: Epilogue, add: bool, [rows, depth, columns]: [usize; 3]) {
    let card = EmulatedCard::new();
    let rounded = |number, count, seed| values_of(number, &bytes_of(number, &numbers(count, seed)));
    let (from_stride, to_stride) = (depth + 8, 2 * columns);
    let from = rounded(number, rows * from_stride, 1);
    let weight = rounded(number, columns * depth, 2);
    let bias = rounded(to_number, columns, 3);
    let before = rounded(to_number, rows * to_stride, 4);
    let [at_from, at_weight] = [&from, &weight].map(|values| place(&card, &bytes_of(number, values)));
    let [at_bias, at_to] = [&bias, &before].map(|values| place(&card, &bytes_of(to_number, values)));
    let to = card.address(&at_to).skip(columns * to_number.bytes());
    let product = Product {
        rows,
        depth,
        columns,
        number,
        to_number,
        from: (card.address(&at_from), from_stride),
        weight: (card.address(&at_weight), depth),
        bias: card.address(&at_bias),
        epilogue,
        added: if add { to } else { Address::NOWHERE },
        to: (to, to_stride),
    };
    // SAFETY: all of it was taken above.
    unsafe { card.multiply(&product) }.unwrap();
    let after = values_of(to_number, &fetch(&card, &at_to, before.len() * to_number.bytes()));
    let step = match to_number {
        Number::F32 => 1e-5,
        Number::F16 => 1e-3,
        Number::Bf16 => 8e-3,
    };
    for (place, (after, before)) in after.iter().zip(before).enumerate() {
        let (row, column) = (place / to_stride, place % to_stride);
        let Some(column) = column.checked_sub(columns) else {
            assert_eq!(*after, before);
            continue;
        };
        let products =
            (0..depth).map(|i| f64::from(from[row * from_stride + i]) * f64::from(weight[column * depth + i]));
        let sum = products.sum::<f64>() + f64::from(bias[column]);
        let exact = match epilogue {
            Epilogue::None => sum,
            Epilogue::Relu => sum.max(0.0),
            Epilogue::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (sum + 0.044715 * sum.powi(3));
                0.5 * sum * (1.0 + inner.tanh())
            }
        };
        let exact = exact + if add { f64::from(before) } else { 0.0 };
        assert!((f64::from(*after) - exact).abs() <= step * exact.abs().max(1.0), "{product:?}: {after} {exact}");
    }
}

#[test]
fn products_are_what_they_are_defined_to_be() {
    for (number, to_number) in [
        (Number::F32, Number::F32),
        (Number::F16, Number::F16),
        (Number::F16, Number::F32),
        (Number::Bf16, Number::Bf16),
        (Number::Bf16, Number::F32),
    ] {
        product(number, to_number, Epilogue::None, true, [5, 40, 24]);
        product(number, to_number, Epilogue::None, false, [1, 8, 8]);
        product(number, to_number, Epilogue::Relu, false, [3, 16, 40]);
        product(number, to_number, Epilogue::GeluTanh, false, [7, 64, 16]);
    }
    // On two threads.
    product(Number::F32, Number::F32, Epilogue::None, false, [130, 128, 72]);
}

#[test]
fn wrong_products_are_refused() {
    let card = EmulatedCard::new();
    let memory = card.take(3 * 1024).unwrap();
    let at = card.address(&memory);
    let right = Product {
        rows: 8,
        depth: 32,
        columns: 32,
        number: Number::F16,
        to_number: Number::F16,
        from: (at, 64),
        weight: (at.skip(1024), 32),
        bias: Address::NOWHERE,
        epilogue: Epilogue::None,
        added: Address::NOWHERE,
        to: (at.skip(64), 64),
    };
    // SAFETY: it is checked, and what is right lies in memory of its own.
    let ask = |product: Product| unsafe { card.multiply(&product) };
    assert_eq!(ask(right), Ok(()));
    assert_eq!(ask(Product { added: right.to.0, ..right }), Ok(()));
    for (wrong, reason) in [
        (Product { from: (at.skip(8), 64), ..right }, "multiply, from: not every row lies on 16 bytes"),
        (Product { from: (at, 60), ..right }, "multiply, from: not every row lies on 16 bytes"),
        (Product { from: (at, 24), ..right }, "multiply, from: 32 columns in a stride of 24"),
        (Product { from: (at.skip(48), 64), ..right }, "multiply, from: the result lies on it"),
        (Product { added: at.skip(48), ..right }, "multiply, added: the result lies on it"),
        (Product { to: (at.skip(1024), 32), ..right }, "multiply, weight: the result lies on it"),
        (Product { weight: (at.skip(1040), 32), ..right }, "2048 bytes at"),
        (Product { bias: at.skip(3 * 1024), ..right }, "multiply, bias: 64 bytes at"),
        (Product { to_number: Number::Bf16, ..right }, "multiply: F16 to Bf16"),
        (Product { epilogue: Epilogue::Relu, added: right.to.0, ..right }, "Relu before something is added"),
    ] {
        let Err(CardError::Failed(said)) = ask(wrong) else { panic!("{wrong:?}") };
        assert!(said.contains(reason), "{said}");
    }
}

#[test]
fn what_is_recorded_is_done_when_it_is_replayed() {
    let card = EmulatedCard::new();
    let memory = card.take(128).unwrap();
    let at = card.address(&memory);
    let (mut given, mut got) = (card.staging(128).unwrap(), card.staging(128).unwrap());
    let record = |given: &EmulatedMemory, got: &EmulatedMemory| {
        // The argument is another one afterwards.
        let arguments = Selftest { a: at, b: at, to: at, count: 0 };
        // SAFETY: all memory outlives the recording.
        let recording = unsafe {
            card.record(&mut || {
                card.copy_in(given, 128, at)?;
                launch(&card, c"selftest_exchange", [1, 1], 32, &arguments)?;
                card.copy_out(at, 128, got)
            })
        };
        recording.unwrap()
    };
    let recording = record(&given, &got);
    card.wait().unwrap();
    for value in [1.0, 2.0] {
        given.as_mut().copy_from_slice(&bytes_of(Number::F32, &[value; 32]));
        // SAFETY: all memory is still there.
        unsafe { card.replay(&recording) }.unwrap();
        card.wait().unwrap();
        assert_eq!(values_of(Number::F32, got.as_mut()), [32.0 * value; 32]);
    }
    let refused = |work: &mut dyn FnMut() -> CardResult<()>| {
        // SAFETY: nothing is recorded.
        let Err(CardError::Failed(said)) = (unsafe { card.record(work) }) else { panic!() };
        assert!(said.contains("not while recording"), "{said}");
    };
    refused(&mut || card.take(1).map(drop));
    refused(&mut || card.staging(1).map(drop));
    refused(&mut || card.wait());
    // SAFETY: it is refused, and else the bytes are there.
    refused(&mut || unsafe { card.write(at, &[0]) });
    // SAFETY: it is refused, and else all memory is there.
    refused(&mut || unsafe { card.replay(&recording) });
    // It goes on working.
    card.wait().unwrap();
}

#[test]
fn nothing_is_done_before_somebody_waits() {
    let card = EmulatedCard::new();
    let memory = place(&card, &[1; 16]);
    let mut staging = card.staging(16).unwrap();
    // SAFETY: both stay.
    unsafe { card.copy_out(card.address(&memory), 16, &staging) }.unwrap();
    assert_eq!(staging.as_mut(), [0; 16]);
    card.wait().unwrap();
    assert_eq!(staging.as_mut(), [1; 16]);
}

#[test]
fn memory_has_a_limit() {
    let card = EmulatedCard::with_memory(1000);
    let first = card.take(600).unwrap();
    assert_eq!(card.take(401).unwrap_err(), CardError::OutOfMemory);
    let second = card.take(400).unwrap();
    assert_eq!(card.taken(), 1000);
    drop(first);
    assert_eq!(card.taken(), 400);
    let third = card.take(600).unwrap();
    assert!([&second, &third].iter().all(|memory| card.address(memory).0.is_multiple_of(256)));
    assert_eq!(fetch(&card, &third, 600), [0; 600]);
    // The host has its own.
    card.staging(5000).unwrap();
    assert_eq!(card.take(1).unwrap_err(), CardError::OutOfMemory);
    assert_eq!(EmulatedCard::new().take(usize::MAX).unwrap_err(), CardError::OutOfMemory);
}

#[test]
fn a_launch_fails_when_it_is_told_to() {
    let card = EmulatedCard::new();
    let memory = card.take(128).unwrap();
    let at = card.address(&memory);
    let launch = || launch(&card, c"selftest_exchange", [1, 1], 32, &Selftest { a: at, b: at, to: at, count: 0 });
    card.fail_after(2);
    assert_eq!([launch(), launch(), launch()], [Ok(()), Err(CardError::OutOfMemory), Ok(())]);
    card.wait().unwrap();
}

#[test]
fn what_is_not_there_is_not_touched() {
    let card = EmulatedCard::new();
    let memory = card.take(256).unwrap();
    let at = card.address(&memory);
    let staging = card.staging(512).unwrap();
    let host = Address(staging.start());
    let arguments = Selftest { a: at, b: at, to: at, count: 0 };
    // SAFETY: all of it is refused.
    unsafe {
        let results = [
            card.write(at.skip(1), &[0; 256]),
            card.write(Address::NOWHERE, &[0]),
            card.write(host, &[0]),
            card.copy_in(&staging, 257, at),
            card.copy_in(&staging, 513, at),
            card.copy_out(at.skip(256), 1, &staging),
        ];
        assert!(
            results
                .iter()
                .all(|result| matches!(result, Err(CardError::Failed(said)) if said.contains("not all within")))
        );
    }
    assert!(matches!(launch(&card, c"no_kernel", [1, 1], 32, &arguments), Err(CardError::Failed(_))));
    assert_eq!(launch(&card, c"selftest_exchange", [1, 0], 32, &arguments), Ok(()));
    for (blocks, threads) in [([1, 1], 33), ([1, 1], 0), ([1, 1], 160), ([1, 65536], 32)] {
        launch(&card, c"selftest_exchange", blocks, threads, &arguments).unwrap();
        assert!(matches!(card.wait(), Err(CardError::Failed(said)) if said.contains("no card takes")));
    }
    // A replay finds that its memory has gone.
    // SAFETY: as above.
    let recording = unsafe { card.record(&mut || card.copy_in(&staging, 256, at)) }.unwrap();
    drop(memory);
    // SAFETY: as above.
    assert!(matches!(unsafe { card.replay(&recording) }, Err(CardError::Failed(_))));
}

#[test]
#[should_panic(expected = "something was written beside 124 bytes")]
fn what_lies_beside_memory_is_watched() {
    let card = EmulatedCard::new();
    let (a, to) = (card.take(128).unwrap(), card.take(124).unwrap());
    let (at_a, at_to) = (card.address(&a), card.address(&to));
    launch(&card, c"selftest_exchange", [1, 1], 32, &Selftest { a: at_a, b: at_a, to: at_to, count: 0 }).unwrap();
    drop(to);
}
