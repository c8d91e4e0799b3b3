//! The executor on the CPU engine: any architecture on our kernels, sequences packed without padding.

use std::sync::Arc;

use crate::encoder::{Encoder, HiddenStates, TokenBatch};
use crate::error::Result;
use crate::family::architecture::{Architecture, NamedTensor, Parameters};
use text2vec_kernel::{Executor, Kernels, Precision, Transformer};

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
    use text2vec_kernel::{Activation, InstructionSet, Norm, Shape};

    fn build(architecture: &Architecture, kernels: (Kernels, Precision), threads: usize) -> PackedEncoder {
        let tensors = tensors(architecture);
        PackedEncoder::new(architecture, kernels, threads, |name, _| {
            tensors.get(name).cloned().ok_or_else(|| Error::unusable(format!("no tensor '{name}'")))
        })
        .unwrap()
    }

    /// The same encoder in plain f64 loops, for one sequence.
    fn exact(architecture: &Architecture, batch: &TokenBatch) -> Vec<f64> {
        let tensors = tensors(architecture);
        let mut parameters = Parameters::new(architecture, |name, _| Ok(tensors[name].clone()));
        let Shape { hidden, heads, intermediate, layers, epsilon, style, activation } = architecture.shape;
        let (size, width, length) =
            (architecture.shape.head_size(), architecture.shape.attention_width(), batch.tokens());
        let outer = parameters.outer().unwrap();
        let mut states = vec![0f64; length * hidden];
        for (table, rows) in outer.tables.iter().zip(architecture.rows(batch).unwrap()) {
            for (state, &row) in states.chunks_exact_mut(hidden).zip(rows.iter()) {
                let row = &table[row as usize * hidden..][..hidden];
                state.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
            }
        }
        let norm = |rows: &[f64], norm: &Norm| {
            let mut rows = rows.to_vec();
            match style.rms_norm {
                true => exact_rms_norm(&mut rows, &norm.gamma, epsilon.into()),
                false => exact_layer_norm(&mut rows, &norm.gamma, &norm.beta, epsilon.into()),
            }
            rows
        };
        let add = |states: &mut [f64], more: Vec<f64>| states.iter_mut().zip(more).for_each(|(x, y)| *x += y);
        if let Some(parameters) = &outer.embedding_norm {
            states = norm(&states, parameters);
        }
        let distances = outer.position_bias.map(|bias| bias.by_distance(heads, length));
        let bias = |head: usize, query: usize, key: usize| {
            let at = head * (2 * length - 1) + length - 1 + key - query;
            distances.as_ref().map_or(0.0, |distances| distances[at].into())
        };
        for layer in 0..layers {
            let block = parameters.block(layer).unwrap();
            let input = if style.pre_norm { norm(&states, &block.attention_norm) } else { states.clone() };
            let product = |input: &[f64], dense: &text2vec_kernel::Dense, depth: usize| {
                exact_product(input, &dense.weight, &dense.bias, depth)
            };
            let scale = if style.unscaled { 1.0 } else { 1.0 / (size as f64).sqrt() };
            let parts = [&block.query, &block.key, &block.value].map(|dense| product(&input, dense, hidden));
            let mut projected = Vec::new();
            for row in 0..length {
                for (part, factor) in parts.iter().zip([scale, 1.0, 1.0]) {
                    projected.extend(part[row * width..][..width].iter().map(|x| x * factor));
                }
            }
            let context = exact_attention_with(&projected, heads, size, bias);
            add(&mut states, product(&context, &block.attention_output, width));
            let feed_norm = if style.pre_norm { &block.output_norm } else { &block.attention_norm };
            let normed = norm(&states, feed_norm);
            if !style.pre_norm {
                states = normed.clone();
            }
            let mut between = product(&normed, &block.up, hidden);
            between.iter_mut().for_each(|x| {
                *x = match activation {
                    Activation::Gelu => exact_gelu(*x),
                    Activation::GeluTanh => exact_gelu_tanh(*x),
                    Activation::Relu => x.max(0.0),
                }
            });
            if let Some(gate) = &block.gate {
                let gates = product(&normed, gate, hidden);
                between.iter_mut().zip(gates).for_each(|(x, gate)| *x *= gate);
            }
            add(&mut states, product(&between, &block.down, intermediate));
            if !style.pre_norm {
                states = norm(&states, &block.output_norm);
            }
        }
        outer.final_norm.map_or(states.clone(), |parameters| norm(&states, &parameters))
    }

    #[test]
    fn every_family_matches_its_definition_in_f64() {
        for family in FAMILIES {
            for (hidden, heads) in [(48, 3), (60, 4), (96, 3)] {
                let architecture = architecture(family, hidden, heads);
                for kernels in Kernels::available() {
                    let mut encoder = build(&architecture, (kernels, Precision::F32), 2);
                    for length in [1, 2, 9, 33, 64] {
                        let batch = batch(&[text(length, 5)]);
                        let exact = exact(&architecture, &batch);
                        let got = encoder.forward(&batch).unwrap();
                        assert_eq!((got.width, got.values.len()), (hidden, length * hidden));
                        let error = got.values.iter().zip(&exact).map(|(&x, y)| (f64::from(x) - y).abs());
                        let error = error.fold(0.0, f64::max);
                        assert!(error < 1e-5, "{family} {hidden}/{heads} {kernels:?} {length}: {error:e}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_text_has_the_same_bits_alone_packed_and_with_any_number_of_threads() {
        for family in ["bert", "gated t5"] {
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
