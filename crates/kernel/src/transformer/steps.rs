//! What a pass does, in order: the steps of all layers, made once when a model is packed.
//!
//! All but attention work row by row. So both schedules go through the same steps: one gives the rows of a step, or the columns
//! of its product, to the threads, and meets after each; the other takes a block of rows through all steps up to the next
//! attention.

use std::ops::Range;

use super::shape::{NormPlacement, Shape};
use crate::linear::Linear;
use crate::mask::Mask;

/// A step of a pass.
pub(super) enum Step {
    /// Sums of embedding rows, as wide as the tables.
    Embed { to: Place },
    /// A norm of rows.
    Norm(NormStep),
    /// A product.
    Product(ProductStep),
    /// Norms of queries and keys, and their turning, in place.
    Heads(HeadStep),
    /// Attention, from what is projected to the context.
    Attend { mask: Mask },
    /// A feed-forward by a few of several experts, added to the hidden states.
    Experts(ExpertStep),
}

impl Step {
    /// Whether it works row by row in both schedules.
    pub(super) fn is_by_row(&self) -> bool {
        !matches!(self, Step::Product(_) | Step::Attend { .. } | Step::Experts(_))
    }
}

/// A matrix that steps read and write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The hidden states, to which blocks add.
    States,
    /// Sums before a norm, or what a norm gives.
    Sums,
    /// Queries, keys and values.
    Projected,
    /// What attention gives.
    Context,
    /// Between the feed-forward matrices.
    Between,
    /// The factors of a gated feed-forward.
    Gates,
}

/// See [`Step::Norm`].
pub(super) struct NormStep {
    pub(super) norm: PackedNorm,
    pub(super) from: Place,
    pub(super) to: Place,
    /// It is added to what is there.
    pub(super) adds: bool,
}

/// See [`Step::Product`].
pub(super) struct ProductStep {
    pub(super) linear: Linear,
    pub(super) from: Place,
    pub(super) to: Place,
    pub(super) after: After,
}

/// What follows a product, besides its bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    Nothing,
    /// The activation, and with gates the factors in [`Place::Gates`].
    Activation,
    /// The hidden states are added.
    AddStates,
}

/// See [`Step::Heads`].
pub(super) struct HeadStep {
    /// Of queries and keys.
    pub(super) norms: Option<[PackedNorm; 2]>,
    /// Which rotary.
    pub(super) rotary: Option<usize>,
}

/// See [`Step::Experts`].
pub(super) struct ExpertStep {
    pub(super) router: Router,
    /// `up` and `down` of each.
    pub(super) experts: Vec<(Linear, Linear)>,
    /// How many a row takes.
    pub(super) taken: usize,
    /// Added once.
    pub(super) bias: Range<usize>,
    pub(super) from: Place,
    pub(super) to: Place,
}

/// Where a norm's gamma and beta lie in the arena; an RMS norm's beta is empty.
#[derive(Clone)]
pub(super) struct PackedNorm {
    pub(super) gamma: Range<usize>,
    pub(super) beta: Range<usize>,
}

/// A packed block.
#[derive(Clone)]
pub(super) struct PackedBlock {
    pub(super) projection: Linear,
    pub(super) head_norms: Option<[PackedNorm; 2]>,
    pub(super) rotary: Option<usize>,
    pub(super) mask: Mask,
    pub(super) attention_output: Linear,
    pub(super) attention_norm: Option<PackedNorm>,
    pub(super) attention_second_norm: Option<PackedNorm>,
    pub(super) attention_output_norm: Option<PackedNorm>,
    pub(super) feed_forward: FeedForward,
    pub(super) output_norm: PackedNorm,
    pub(super) feed_forward_norm: Option<PackedNorm>,
}

/// A block's feed-forward.
#[derive(Clone)]
pub(super) enum FeedForward {
    One(Box<Products>),
    Experts { router: Router, experts: Vec<(Linear, Linear)>, taken: usize, bias: Range<usize> },
}

/// The layers of a feed-forward.
#[derive(Clone)]
pub(super) struct Products {
    pub(super) gate: Option<Linear>,
    pub(super) up: Linear,
    pub(super) down: Linear,
}

/// Where the router's weights and bias lie in the arena, in f32 whatever the precision: a choice cannot be rounded.
#[derive(Clone)]
pub(super) struct Router {
    pub(super) weight: Range<usize>,
    pub(super) bias: Range<usize>,
}

/// A list of steps that grows.
pub(super) struct Steps {
    steps: Vec<Step>,
    placement: NormPlacement,
}

impl Steps {
    /// From the tables to the hidden states, by way of a projection where the tables have another width.
    pub(super) fn new(shape: Shape, embedding_norm: Option<PackedNorm>, projection: Option<Linear>) -> Steps {
        let mut steps = Steps { steps: Vec::new(), placement: shape.style.placement };
        let at = if projection.is_some() { Place::Sums } else { Place::States };
        steps.steps.push(Step::Embed { to: at });
        if let Some(norm) = embedding_norm {
            steps.norm(norm, at, at);
        }
        if let Some(linear) = projection {
            steps.product(linear, at, Place::States, After::Nothing);
        }
        steps
    }

    fn norm(&mut self, norm: PackedNorm, from: Place, to: Place) {
        self.steps.push(Step::Norm(NormStep { norm, from, to, adds: false }));
    }

    fn product(&mut self, linear: Linear, from: Place, to: Place, after: After) {
        self.steps.push(Step::Product(ProductStep { linear, from, to, after }));
    }

    /// A block's steps. Its norms must be those of the placement.
    pub(super) fn block(&mut self, block: PackedBlock) {
        let PackedBlock { projection, head_norms, rotary, mask, attention_output, feed_forward, .. } = block;
        let norms = (block.attention_norm, block.output_norm);
        // Sums before a norm have a place of their own; where norms come first it is theirs, and sums stay in the states.
        let after = self.placement == NormPlacement::After;
        let (added, normed) = if after { (Place::Sums, Place::States) } else { (Place::States, Place::Sums) };
        // A norm that is left out hands on what it would have read.
        let mut read = Place::States;
        if let (false, Some(norm)) = (after, &norms.0) {
            self.norm(norm.clone(), added, normed);
            read = normed;
        }
        self.product(projection, read, Place::Projected, After::Nothing);
        if head_norms.is_some() || rotary.is_some() {
            self.steps.push(Step::Heads(HeadStep { norms: head_norms, rotary }));
        }
        self.steps.push(Step::Attend { mask });
        self.add(attention_output, Place::Context, added, block.attention_output_norm);
        match norms {
            (Some(norm), output) if after => {
                match block.attention_second_norm {
                    None => self.norm(norm, added, normed),
                    Some(second) => {
                        self.steps.push(Step::Norm(NormStep { norm, from: added, to: normed, adds: true }));
                        self.norm(second, normed, normed);
                    }
                }
                self.feed_forward(feed_forward, normed, added, block.feed_forward_norm);
                self.norm(output, added, normed);
            }
            (_, norm) => {
                self.norm(norm, added, normed);
                self.feed_forward(feed_forward, normed, added, block.feed_forward_norm);
            }
        }
    }

    fn feed_forward(&mut self, part: FeedForward, from: Place, added: Place, norm: Option<PackedNorm>) {
        match part {
            FeedForward::One(products) => {
                let Products { gate, up, down } = *products;
                if let Some(gate) = gate {
                    self.product(gate, from, Place::Gates, After::Nothing);
                }
                self.product(up, from, Place::Between, After::Activation);
                self.add(down, Place::Between, added, norm);
            }
            FeedForward::Experts { router, experts, taken, bias } => {
                self.steps.push(Step::Experts(ExpertStep { router, experts, taken, bias, from, to: added }));
            }
        }
    }

    /// A part's last product, added to the hidden states, by way of its own norm if it has one.
    fn add(&mut self, linear: Linear, from: Place, added: Place, norm: Option<PackedNorm>) {
        match norm {
            None => self.product(linear, from, added, After::AddStates),
            Some(norm) => {
                self.product(linear, from, Place::Sums, After::Nothing);
                self.steps.push(Step::Norm(NormStep { norm, from: Place::Sums, to: Place::States, adds: true }));
            }
        }
    }

    /// All of them, each product told which comes next.
    pub(super) fn finish(mut self, final_norm: Option<PackedNorm>) -> Vec<Step> {
        if let Some(norm) = final_norm {
            self.norm(norm, Place::States, Place::States);
        }
        let products = self.steps.iter_mut().filter_map(|step| match step {
            Step::Product(step) => Some(&mut step.linear),
            _ => None,
        });
        let mut products: Vec<_> = products.collect();
        for at in 1..products.len() {
            let (before, after) = products.split_at_mut(at);
            before[at - 1].set_next(after[0]);
        }
        self.steps
    }
}
