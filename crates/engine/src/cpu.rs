//! The executor on the CPU engine: any architecture on our kernels, sequences packed without padding.

use std::sync::Arc;

use crate::encoder::{Encoder, HiddenStates, TokenBatch, pool_states};
use crate::error::Result;
use crate::family::architecture::Architecture;
use crate::family::parameters::{NamedTensor, Parameters};
use crate::pooling::PoolingMode;
use text2vec_kernel::{Executor, Kernels, Pick, Precision, Transformer};

/// An encoder on the CPU engine.
#[derive(Debug)]
pub struct PackedEncoder {
    architecture: Arc<Architecture>,
    executor: Executor,
}

impl PackedEncoder {
    /// Builds the encoder from tensors, asked for by name (without a prefix such as `bert.`, LayerNorm's parameters called
    /// `weight` and `bias`) and shape. Each is asked for once and packed before the next block's.
    ///
    /// `threads` run one forward pass, the caller's included.
    ///
    /// # Errors
    /// `Unusable` for a tensor of another shape than the configuration says, which it names, and for weights that the
    /// precision cannot hold; `Internal` if a thread cannot be started; and what `tensors` says, as of a tensor that is
    /// missing.
    pub fn new(
        architecture: &Architecture,
        (kernels, precision): (Kernels, Precision),
        threads: usize,
        tensors: impl FnMut(&str, &[usize]) -> Result<NamedTensor>,
    ) -> Result<PackedEncoder> {
        let mut parameters = Parameters::new(architecture, tensors);
        let outer = parameters.outer()?;
        let model = Transformer::new(kernels, precision, architecture.shape, outer, |layer| parameters.block(layer))?;
        let executor = Executor::new(Arc::new(model), threads)?;
        Ok(PackedEncoder { architecture: Arc::new(architecture.clone()), executor })
    }

    /// Another encoder over the same weights, with threads and scratch memory of its own.
    ///
    /// # Errors
    /// `Internal` if a thread cannot be started.
    pub fn sibling(&self, threads: usize) -> Result<PackedEncoder> {
        let executor = Executor::new(Arc::clone(self.executor.model()), threads)?;
        Ok(PackedEncoder { architecture: Arc::clone(&self.architecture), executor })
    }

    /// The packed weights.
    pub fn model(&self) -> &Transformer {
        self.executor.model()
    }

    /// Threads of a forward pass.
    pub fn threads(&self) -> usize {
        self.executor.threads()
    }
}

impl Encoder for PackedEncoder {
    fn forward(&mut self, batch: &TokenBatch) -> Result<HiddenStates> {
        let rows = self.architecture.rows(batch)?;
        let rows: Vec<&[u32]> = rows.iter().map(AsRef::as_ref).collect();
        let values = self.executor.forward(&rows, batch.lengths())?;
        Ok(HiddenStates { values, width: self.hidden_size() })
    }

    fn pooled(&mut self, batch: &TokenBatch, modes: &[&[PoolingMode]]) -> Result<Vec<Vec<f32>>> {
        let all = |mode: PoolingMode| modes.iter().all(|&modes| modes == [mode]) && !batch.lengths().contains(&0);
        let pick = match () {
            () if all(PoolingMode::Cls) => Pick::First,
            () if all(PoolingMode::LastToken) => Pick::Last,
            () => return Ok(pool_states(&self.forward(batch)?, batch, modes)),
        };
        let rows = self.architecture.rows(batch)?;
        let rows: Vec<&[u32]> = rows.iter().map(AsRef::as_ref).collect();
        let states = self.executor.forward_picked(&rows, batch.lengths(), pick)?;
        Ok(states.chunks_exact(self.hidden_size()).map(<[f32]>::to_vec).collect())
    }

    fn hidden_size(&self) -> usize {
        self.architecture.shape.hidden
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::testing::{FAMILIES, architecture, batch, tensors, text};
    use text2vec_kernel::testing::{
        exact_attention_with, exact_gelu, exact_gelu_tanh, exact_layer_norm, exact_product, exact_rms_norm,
    };
    use text2vec_kernel::{Activation, Block, Dense, InstructionSet, Norm, NormPlacement, Shape};

    fn build(architecture: &Architecture, kernels: (Kernels, Precision), threads: usize) -> PackedEncoder {
        let tensors = tensors(architecture);
        PackedEncoder::new(architecture, kernels, threads, |name, _| {
            tensors.get(name).cloned().ok_or_else(|| Error::unusable(format!("no tensor '{name}'")))
        })
        .unwrap()
    }

    fn add(states: &mut [f64], more: &[f64]) {
        states.iter_mut().zip(more).for_each(|(x, y)| *x += y);
    }

    fn norm(shape: Shape, rows: &[f64], norm: &Norm) -> Vec<f64> {
        let mut rows = rows.to_vec();
        match shape.style.rms_norm {
            true => exact_rms_norm(&mut rows, &norm.gamma, shape.epsilon.into()),
            false => exact_layer_norm(&mut rows, &norm.gamma, &norm.beta, shape.epsilon.into()),
        }
        rows
    }

    fn product(input: &[f64], dense: &Dense, depth: usize) -> Vec<f64> {
        exact_product(input, &dense.weight, &dense.bias, depth)
    }

    fn activate(activation: Activation, values: &mut [f64]) {
        let apply = |x: f64| match activation {
            Activation::Gelu => exact_gelu(x),
            Activation::GeluTanh => exact_gelu_tanh(x),
            Activation::Relu => x.max(0.0),
            Activation::Silu => x / (1.0 + (-x).exp()),
        };
        values.iter_mut().for_each(|x| *x = apply(*x));
    }

    /// Queries, keys and values of all heads, normed, turned and repeated for those that share them, the queries scaled.
    fn projected(architecture: &Architecture, block: &Block, input: &[f64]) -> Vec<f64> {
        let shape = architecture.shape;
        let (heads, size, length) = (shape.heads, shape.head_size(), input.len() / shape.hidden);
        let mut parts = [&block.query, &block.key, &block.value].map(|dense| product(input, dense, shape.hidden));
        if let Some(norms) = &block.head_norms {
            parts[0] = norm(shape, &parts[0], &norms.query);
            parts[1] = norm(shape, &parts[1], &norms.key);
        }
        if let Some(rotary) = block.rotary {
            let frequencies = &architecture.rotaries[rotary].frequencies;
            let pairs = frequencies.len();
            for part in &mut parts[..2] {
                let heads = part.len() / length / size;
                for (at, head) in part.chunks_exact_mut(size).enumerate() {
                    for (pair, &frequency) in frequencies.iter().enumerate() {
                        let angle = (at / heads) as f64 * f64::from(frequency);
                        let (x, y) = (head[pair], head[pair + pairs]);
                        head[pair] = x * angle.cos() - y * angle.sin();
                        head[pair + pairs] = y * angle.cos() + x * angle.sin();
                    }
                }
            }
        }
        let mut projected = Vec::new();
        for row in 0..length {
            for (part, factor) in parts.iter().zip([f64::from(shape.score_scale()), 1.0, 1.0]) {
                let of = part.len() / length / size;
                for head in 0..heads {
                    let at = row * of + head / (heads / of);
                    projected.extend(part[at * size..][..size].iter().map(|x| x * factor));
                }
            }
        }
        projected
    }

    fn feed_forward(shape: Shape, layer: usize, block: &Block, input: &[f64]) -> Vec<f64> {
        let Shape { hidden, intermediate, activation, .. } = shape;
        if let (Some(experts), Some(mixture)) = (&block.experts, shape.experts(layer)) {
            let scores = product(input, &experts.router, hidden);
            let mut out = Vec::new();
            for (row, scores) in input.chunks_exact(hidden).zip(scores.chunks_exact(mixture.count)) {
                let total: f64 = scores.iter().map(|score| score.exp()).sum();
                let mut order: Vec<usize> = (0..mixture.count).collect();
                order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
                let mut sum: Vec<f64> = experts.bias.iter().map(|&bias| bias.into()).collect();
                for &expert in &order[..mixture.taken] {
                    let mut between = product(row, &experts.up[expert], hidden);
                    activate(activation, &mut between);
                    let made = product(&between, &experts.down[expert], intermediate);
                    let share = scores[expert].exp() / total;
                    add(&mut sum, &made.iter().map(|x| x * share).collect::<Vec<_>>());
                }
                out.extend(sum);
            }
            return out;
        }
        let mut between = product(input, &block.up, hidden);
        activate(activation, &mut between);
        if let Some(gate) = &block.gate {
            let gates = product(input, gate, hidden);
            between.iter_mut().zip(gates).for_each(|(x, gate)| *x *= gate);
        }
        product(&between, &block.down, intermediate)
    }

    /// The same encoder in plain f64 loops, for one sequence.
    fn exact(architecture: &Architecture, batch: &TokenBatch) -> Vec<f64> {
        let tensors = tensors(architecture);
        let mut parameters = Parameters::new(architecture, |name, _| Ok(tensors[name].clone()));
        let shape = architecture.shape;
        let (heads, length) = (shape.heads, batch.tokens());
        let outer = parameters.outer().unwrap();
        let table_width = architecture.table_width();
        let mut states = vec![0f64; length * table_width];
        for (table, rows) in outer.tables.iter().zip(architecture.rows(batch).unwrap()) {
            for (state, &row) in states.chunks_exact_mut(table_width).zip(rows.iter()) {
                let row = &table[row as usize * table_width..][..table_width];
                state.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
            }
        }
        if let Some(parameters) = &outer.embedding_norm {
            states = norm(shape, &states, parameters);
        }
        if let Some(projection) = &outer.embedding_projection {
            states = product(&states, projection, table_width);
        }
        let distances = outer.position_bias.map(|bias| bias.by_distance(heads, length));
        for layer in architecture.blocks_in_order() {
            let block = parameters.block(layer).unwrap();
            let bias = |head: usize, query: usize, key: usize| {
                let at = head * (2 * length - 1) + length - 1 + key - query;
                match block.mask.keys(query, length).contains(&key) {
                    true => distances.as_ref().map_or(0.0, |distances| distances[at].into()),
                    false => f64::NEG_INFINITY,
                }
            };
            let attend = |input: &[f64]| {
                let projected = projected(architecture, &block, input);
                let context = exact_attention_with(&projected, heads, shape.head_size(), bias);
                product(&context, &block.attention_output, shape.attention_width())
            };
            let optional = |rows: Vec<f64>, parameters: &Option<Norm>| match parameters {
                Some(parameters) => norm(shape, &rows, parameters),
                None => rows,
            };
            let before = states.clone();
            if shape.style.placement == NormPlacement::After {
                add(&mut states, &attend(&before));
                states = optional(states, &block.attention_norm);
                if let Some(second) = &block.attention_second_norm {
                    add(&mut states, &before);
                    states = norm(shape, &states, second);
                }
                let fed = feed_forward(shape, layer, &block, &states);
                add(&mut states, &fed);
                states = norm(shape, &states, &block.output_norm);
            } else {
                let attended = attend(&optional(before, &block.attention_norm));
                add(&mut states, &optional(attended, &block.attention_output_norm));
                let fed = feed_forward(shape, layer, &block, &norm(shape, &states, &block.output_norm));
                add(&mut states, &optional(fed, &block.feed_forward_norm));
            }
        }
        outer.final_norm.map_or(states.clone(), |parameters| norm(shape, &states, &parameters))
    }

    #[test]
    fn every_family_matches_its_definition_in_f64() {
        for family in FAMILIES {
            for (hidden, heads) in [(48, 3), (60, 4), (96, 3)] {
                // Heads of an odd width cannot be turned.
                let turns = !architecture(family, 48, 3).rotaries.is_empty();
                let hidden = if turns && hidden == 60 { 56 } else { hidden };
                let architecture = architecture(family, hidden, heads);
                let batches = [1, 2, 9, 33, 64].map(|length| batch(&[text(length, 5)]));
                let exact = batches.each_ref().map(|batch| exact(&architecture, batch));
                for kernels in Kernels::available() {
                    let mut encoder = build(&architecture, (kernels, Precision::F32), 2);
                    for (batch, exact) in batches.iter().zip(&exact) {
                        let length = batch.tokens();
                        let got = encoder.forward(batch).unwrap();
                        assert_eq!((got.width, got.values.len()), (hidden, length * hidden));
                        let error = got.values.iter().zip(exact).map(|(&x, y)| (f64::from(x) - y).abs());
                        let error = error.fold(0.0, f64::max);
                        assert!(error < 1e-5, "{family} {hidden}/{heads} {kernels:?} {length}: {error:e}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_text_has_the_same_bits_alone_packed_and_with_any_number_of_threads() {
        for family in ["bert", "gated t5", "causal gemma3_text", "nomic_bert with experts"] {
            bits_are_the_same(&architecture(family, 80, 2));
        }
    }

    fn bits_are_the_same(architecture: &Architecture) {
        let lengths = [7, 1, 40, 19, 2, 130, 33];
        let texts: Vec<_> = lengths.iter().zip(50..).map(|(&length, seed)| text(length, seed)).collect();
        for (kernels, precision) in Kernels::available().into_iter().flat_map(|set| Precision::ALL.map(|it| (set, it)))
        {
            let mut alone = build(architecture, (kernels, precision), 1);
            let expected: Vec<_> =
                texts.iter().map(|text| alone.forward(&batch(std::slice::from_ref(text))).unwrap().values).collect();
            for threads in [1, 2, 3] {
                let mut encoder = alone.sibling(threads).unwrap();
                assert_eq!(encoder.threads(), threads);
                // All in one batch, in both orders, and each alone: few and many rows, so both schedules.
                let mut order: Vec<usize> = (0..texts.len()).collect();
                for _ in 0..2 {
                    let packed = batch(&order.iter().map(|&i| texts[i].clone()).collect::<Vec<_>>());
                    let states = encoder.forward(&packed).unwrap();
                    for (range, &i) in packed.ranges().zip(&order) {
                        assert_eq!(
                            states.rows(range),
                            expected[i],
                            "{kernels:?} {precision}, {threads} threads, text {i} packed"
                        );
                    }
                    order.reverse();
                }
                for (text, expected) in texts.iter().zip(&expected) {
                    let states = encoder.forward(&batch(std::slice::from_ref(text))).unwrap();
                    assert_eq!(
                        &states.values,
                        expected,
                        "{kernels:?} {precision}, {threads} threads, {} tokens",
                        text.0.len()
                    );
                }
            }
        }
    }

    /// The largest difference.
    fn apart(some: &[Vec<f32>], others: &[Vec<f32>]) -> f32 {
        some.iter().flatten().zip(others.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    /// What is not computed for the others changes nothing of it, nor do its neighbours. In f32 the last attention may be summed in
    /// another order.
    #[test]
    fn a_picked_token_is_that_of_a_whole_pass() {
        let texts: Vec<_> = [7, 1, 40, 2, 130, 33].iter().zip(70..).map(|(&length, seed)| text(length, seed)).collect();
        let packed = batch(&texts);
        for family in ["bert", "mpnet", "gated t5", "causal gemma3_text", "nomic_bert with experts"] {
            let architecture = architecture(family, 80, 2);
            for (kernels, precision) in
                Kernels::available().into_iter().flat_map(|set| Precision::ALL.map(|it| (set, it)))
            {
                let mut whole = build(&architecture, (kernels, precision), 1);
                let states = whole.forward(&packed).unwrap();
                for mode in [PoolingMode::Cls, PoolingMode::LastToken] {
                    let mode_of_each = [mode];
                    let modes = vec![&mode_of_each[..]; texts.len()];
                    let expected = pool_states(&states, &packed, &modes);
                    let picked = whole.pooled(&packed, &modes).unwrap();
                    let what = format!("{family} {kernels:?} {precision} {mode:?}");
                    match precision {
                        Precision::F32 | Precision::Bf16x3 => assert!(apart(&picked, &expected) < 1e-5, "{what}"),
                        _ => assert!(picked == expected, "{what}"),
                    }
                    for threads in [1, 2, 3, 7] {
                        let mut encoder = whole.sibling(threads).unwrap();
                        assert!(encoder.pooled(&packed, &modes).unwrap() == picked, "{what}, {threads} threads");
                        for (text, expected) in texts.iter().zip(&picked) {
                            let alone = encoder.pooled(&batch(std::slice::from_ref(text)), &modes[..1]).unwrap();
                            let length = text.0.len();
                            assert!(alone[0] == *expected, "{what}, {threads} threads, {length} tokens alone");
                        }
                    }
                }
            }
        }
        let mut encoder = build(&architecture("bert", 48, 3), (Kernels::detect(), Precision::F32), 2);
        let with_empty = batch(&[text(3, 1), text(0, 1)]);
        let vectors = encoder.pooled(&with_empty, &[&[PoolingMode::Cls], &[PoolingMode::Cls]]).unwrap();
        assert_eq!(vectors[1], [0.0; 48], "of nothing");
    }

    #[test]
    fn bad_input_is_an_error() {
        let mut encoder = build(&architecture("roberta", 48, 3), (Kernels::detect(), Precision::F32), 2);
        assert!(encoder.forward(&TokenBatch::new()).unwrap().values.is_empty());
        let empty_text = encoder.forward(&batch(&[text(0, 1), text(3, 1), text(0, 1)])).unwrap();
        assert_eq!(empty_text.values, encoder.forward(&batch(&[text(3, 1)])).unwrap().values);
        let error = encoder.forward(&batch(&[(vec![2, 50], vec![0, 0])])).unwrap_err();
        assert!(error.message().contains("50"), "{error}");
        assert!(encoder.forward(&batch(&[(vec![2, 3], vec![0, 2])])).is_err(), "an unknown token type");
        assert!(encoder.forward(&batch(&[text(138, 1)])).is_ok(), "positions 2 to 139");
        assert!(encoder.forward(&batch(&[text(139, 1)])).is_err(), "no position left");
    }

    #[test]
    fn weights_that_do_not_fit_are_errors_that_name_the_tensor() {
        for family in FAMILIES {
            let good = architecture(family, 48, 3);
            let tensors = tensors(&good);
            let kernels = Kernels::with(InstructionSet::Portable).unwrap();
            let load = |architecture: &Architecture, wrong: &str| {
                PackedEncoder::new(architecture, (kernels, Precision::F32), 1, |name, _| {
                    let (mut shape, mut values) =
                        tensors.get(name).cloned().ok_or_else(|| Error::unusable("missing"))?;
                    if name == wrong {
                        shape.reverse();
                        values.pop();
                    }
                    Ok((shape, values))
                })
                .map(|_| ())
            };
            load(&good, "").unwrap();
            for name in tensors.keys() {
                assert!(load(&good, name).unwrap_err().message().contains(name.as_str()), "{family} {name}");
            }
            let changed = |change: &dyn Fn(&mut Architecture)| {
                let mut architecture = good.clone();
                change(&mut architecture);
                load(&architecture, "")
            };
            assert!(changed(&|architecture| architecture.shape.layers = 3).is_err());
            assert!(changed(&|architecture| architecture.shape.heads = 5).is_err());
            assert!(changed(&|architecture| architecture.shape.heads = 0).is_err());
            assert!(changed(&|architecture| architecture.shape.hidden = 0).is_err());
            assert!(changed(&|architecture| architecture.shape.intermediate = 7).is_err());
            assert!(changed(&|architecture| architecture.tables[0].rows = 51).is_err());
        }
    }
}
