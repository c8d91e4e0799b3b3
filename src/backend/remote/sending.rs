//! The sending of one call's texts: cut into requests, as many at once as there may be, and what is refused for its size
//! cut smaller.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::batch::{Learned, Size, batches};
use super::formats::{Batch, Format};
use super::pool::Pool;
use crate::backend::Embedding;
use crate::contract::call::{Call, EmbedSettings};
use crate::error::{Error, ErrorKind, Result};

/// Texts of a call that go into one request.
struct Part {
    texts: Vec<usize>,
    /// The halving it is of, where it is a half.
    of: Option<usize>,
}

/// A batch that was refused, and those of its halves that were accepted.
struct Halving {
    whole: Size,
    accepted: Vec<Size>,
}

/// A call, and who is asked for its texts.
pub(super) struct Sending<'a> {
    /// Whom to ask.
    pub pool: &'a Arc<Pool>,
    /// What speaks there.
    pub format: &'a dyn Format,
    /// How much it takes at once.
    pub learned: &'a Learned,
    /// The texts.
    pub call: &'a Call,
    /// How they are embedded.
    pub settings: &'a EmbedSettings,
    /// Length of the upstream's full vectors, if it is known.
    pub dimensions: Option<usize>,
    /// Until when the answers are waited for.
    pub deadline: Instant,
}

impl Sending<'_> {
    /// Asks for the texts, as many batches at once as there may be: each text's answer, in its place. A batch that is
    /// refused for its size or for one of its texts is halved until it is accepted or that text stands alone: in the
    /// first case at no cost, as the upstream did no work for it, in the second from the retries' budget.
    pub(super) async fn answers(&self) -> Vec<Option<Result<Embedding>>> {
        let all = &self.call.texts;
        let mut results: Vec<Option<Result<Embedding>>> = vec![None; all.len()];
        let most = || self.learned.most(self.format.at_once(), Instant::now());
        let mut halvings: Vec<Halving> = Vec::new();
        let whole = |texts| Part { texts, of: None };
        let mut waiting: VecDeque<Part> = batches(all, 0..all.len(), most()).into_iter().map(whole).collect();
        let mut asked = FuturesUnordered::new();
        loop {
            while asked.len() < self.pool.concurrency()
                && let Some(part) = waiting.pop_front()
            {
                let smaller = batches(all, part.texts.iter().copied(), most());
                // Learned since it was cut.
                if smaller.len() > 1 {
                    smaller.into_iter().rev().for_each(|texts| waiting.push_front(whole(texts)));
                } else {
                    asked.push(self.ask(part));
                }
            }
            let Some((part, answer)) = asked.next().await else { return results };
            let Part { mut texts, of } = part;
            match answer {
                Ok(answers) => {
                    if let Some(halving) = of.and_then(|of| halvings.get_mut(of)) {
                        halving.accepted.push(Size::of(all, &texts));
                        self.learn(halving);
                    }
                    let alone = texts.len() == 1;
                    for (text, answer) in texts.into_iter().zip(answers) {
                        // `errors` beside `vectors` has no kinds: alone, the text gets its error's status.
                        let untold = answer.is_err() && !alone && !self.format.tells_kinds_of_errors();
                        if untold && self.pool.may_ask_again() {
                            waiting.push_back(whole(vec![text]));
                        } else {
                            results[text] = Some(answer);
                        }
                    }
                }
                Err(error) if texts.len() > 1 && self.may_be_halved(&error) => {
                    halvings.push(Halving { whole: Size::of(all, &texts), accepted: Vec::new() });
                    let of = Some(halvings.len() - 1);
                    let second = texts.split_off(texts.len() / 2);
                    // In front: of many batches, few are refused before it is known what is accepted.
                    waiting.push_front(Part { texts: second, of });
                    waiting.push_front(Part { texts, of });
                }
                Err(error) => texts.into_iter().for_each(|text| results[text] = Some(Err(error.clone()))),
            }
        }
    }

    /// Whether the refused batch's halves may be asked for.
    fn may_be_halved(&self, error: &Error) -> bool {
        match error.kind() {
            ErrorKind::TooLarge => true,
            ErrorKind::InvalidArgument => self.pool.may_ask_again(),
            _ => false,
        }
    }

    fn learn(&self, halving: &Halving) {
        let [one, other] = *halving.accepted.as_slice() else { return };
        let half = Size { texts: one.texts.max(other.texts), bytes: one.bytes.max(other.bytes) };
        if self.learned.refused(halving.whole, half, Instant::now()) {
            tracing::info!(
                upstream = self.pool.shown(),
                texts = half.texts,
                bytes = half.bytes,
                "the upstream takes less at once than it was sent: smaller batches from now on"
            );
        }
    }

    /// The answers for one batch.
    async fn ask(&self, part: Part) -> (Part, Result<Vec<Result<Embedding>>>) {
        // Nothing of it is the upstream's fault.
        if Instant::now() >= self.deadline {
            let late = Error::new(ErrorKind::DeadlineExceeded, "no time was left to ask for this text");
            return (part, Err(late));
        }
        let Call { texts, trace, .. } = self.call;
        let texts: Vec<&str> = part.texts.iter().map(|&text| &*texts[text]).collect();
        let batch = Batch {
            texts: &texts,
            settings: self.settings,
            trace: trace.as_deref(),
            dimensions: self.dimensions,
            deadline: self.deadline,
        };
        let answer = self.format.embed(self.pool, batch).await;
        (part, answer)
    }
}
