//! Feed-forwards by a few of several experts.

use std::cell::RefCell;

use super::{Pass, To};
use crate::arguments::{AddShareArguments, GatherArguments, RouteArguments, TakersArguments, WidenArguments};
use crate::card::{Address, Card, CardResult, Epilogue};
use crate::layout::{Takers, rounded_rows};
use crate::places::{Place, Places};
use crate::weights::{Block, FeedForward, Linear};

/// As all of a pass, unsafe on the one condition that model and arena outlive the work.
impl<C: Card> Pass<'_, C> {
    /// Adds to `wide` what the experts make of rows: to what is there, or to other rows in place of it.
    pub(super) unsafe fn experts(&self, block: &Block<C>, from: Place, other: Option<Place>) -> CardResult<()> {
        let FeedForward::Experts { router, router_bias, experts, taken, bias } = &block.feed_forward else {
            return Ok(());
        };
        let Places { wide, shares, .. } = self.places;
        let card = self.queue.card;
        let optional = |memory: &Option<C::Memory>| memory.as_ref().map_or(Address::NOWHERE, |it| card.address(it));
        let (rows, width) = (self.rows(), self.model.shape.hidden as u32);
        // SAFETY: the caller's promise, here and in all that follows.
        unsafe {
            self.queue.route(&RouteArguments {
                from: from.0,
                weight: card.address(router),
                bias: optional(router_bias),
                shares: shares.0,
                rows,
                width,
                from_stride: from.1 as u32,
                experts: experts.len() as u32,
                taken: *taken as u32,
            })?;
            self.queue.widen(&WidenArguments {
                from: other.map_or(Address::NOWHERE, |other| other.0),
                bias: optional(bias),
                to: wide.0,
                rows,
                width,
                from_stride: other.map_or(0, |other| other.1) as u32,
                to_stride: wide.1 as u32,
            })?;
            if let Some(totals) = self.totals {
                return self.experts_of_takers(experts, from, totals);
            }
            // All experts for all rows: nobody waits for the card, so this can be recorded.
            for (expert, [up, down]) in experts.iter().enumerate() {
                let made = self.made(self.size.rows, [up, down], from)?;
                self.queue.add_share(&self.share(made, expert, experts.len()))?;
            }
        }
        Ok(())
    }

    /// Each expert for the rows that took it, in the experts' order, so that sums are those of all experts for all rows. The
    /// host waits to hear how many rows these are: cuBLASLt takes sizes from the host, and groups of a size that is known before
    /// would need room for all rows each.
    unsafe fn experts_of_takers(
        &self,
        experts: &[[Linear<C>; 2]],
        from: Place,
        totals: &RefCell<C::Staging>,
    ) -> CardResult<()> {
        let Places { shares, gathered, takers, .. } = self.places;
        let card = self.queue.card;
        let words = Takers { rows: self.size.rows, experts: experts.len() };
        let at = |word: usize| takers.skip(4 * word);
        let row_bytes = |place: Place| place.1 * self.queue.number.bytes();
        // SAFETY: the caller's promise; no expert has more rows than the pass.
        unsafe {
            self.queue.list_takers(&TakersArguments {
                shares: shares.0,
                counts: at(words.counts()),
                takers,
                totals: at(words.totals()),
                rows: self.rows(),
                experts: experts.len() as u32,
            })?;
            let bytes = 4 * experts.len();
            card.copy_out(at(words.totals()), bytes, &totals.borrow())?;
            card.wait()?;
            let totals = &mut *totals.borrow_mut();
            let totals = totals.as_mut()[..bytes].as_chunks().0.iter().map(|&total| u32::from_le_bytes(total));
            for (expert, (total, [up, down])) in totals.zip(experts).enumerate() {
                let total = total.min(self.rows());
                if total == 0 {
                    continue;
                }
                self.queue.gather(&GatherArguments {
                    from: from.0,
                    takers: at(words.of(expert)),
                    to: gathered.0,
                    rows: total,
                    pieces: (row_bytes(from) / 16) as u32,
                    from_stride: (row_bytes(from) / 16) as u32,
                    to_stride: (row_bytes(gathered) / 16) as u32,
                })?;
                // A few rows more, of whatever is there: few sizes of products are met, and found again.
                let made = self.made(rounded_rows(total as usize), [up, down], gathered)?;
                let share = self.share(made, expert, experts.len());
                self.queue.add_share(&AddShareArguments { takers: at(words.of(expert)), rows: total, ..share })?;
            }
        }
        Ok(())
    }

    /// What an expert makes of the first rows.
    unsafe fn made(&self, rows: usize, [up, down]: [&Linear<C>; 2], from: Place) -> CardResult<Place> {
        let aside = To { place: self.places.sums, number: self.queue.number, added: Address::NOWHERE };
        // SAFETY: the caller's promise.
        unsafe {
            let between = self.activated(rows, up, from)?;
            self.multiply_some(rows, down, between, aside, Epilogue::None)?;
        }
        Ok(aside.place)
    }

    /// To be added to all rows.
    fn share(&self, made: Place, expert: usize, experts: usize) -> AddShareArguments {
        let Places { wide, shares, .. } = self.places;
        AddShareArguments {
            from: made.0,
            takers: Address::NOWHERE,
            shares: shares.0,
            to: wide.0,
            rows: self.rows(),
            width: self.model.shape.hidden as u32,
            from_stride: made.1 as u32,
            to_stride: wide.1 as u32,
            experts: experts as u32,
            expert: expert as u32,
        }
    }
}
