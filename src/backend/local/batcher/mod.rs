//! The queue in front of the encoder: bounded, two classes, continuous batches.
//!
//! A call asks for room ([`Batcher::admit`]), puts pieces in ([`Admission::submit`]) and holds the [`Submission`] while it
//! awaits its answers; the inference thread takes a [`Batch`] whenever it is free ([`Batcher::next_batch`]). A *piece* is
//! one token sequence; a *call* is all the pieces that one request brings, of one text or of many. A call that has more
//! than its share of the room brings them portion by portion, as they are dispatched ([`Submission::wants_more`],
//! [`Submission::admit`]). Nothing here knows tensors or tokenizers.
//!
//! The rules, each one tested:
//!
//! - **No timer.** A waiting consumer gets a piece the moment it comes; while it computes, what comes is gathered.
//! - **Budget.** A batch never weighs more than its class's budget, except one piece that alone weighs more.
//! - **Sharing.** Calls of a class take turns, first come first; a turn is one piece, and more while the turn stays
//!   within a quarter of the budget. So a call waits for one turn of each call that was there before it, however much
//!   these bring. Pieces of a call keep their order.
//! - **Queries first.** While queries wait, batches are for them, but at most [`Options::queries_in_a_row`] while a
//!   passage waits; then the passages have one batch.
//! - **Bounded room, waiting at the door.** What waits never weighs more than [`Options::waiting_tokens`], except one piece
//!   that alone weighs more. Whoever finds no room waits, first come first, until what it asks for fits or its deadline
//!   passes. One eighth of the room is the queries', the rest the passages': an import that fills its part makes no query
//!   wait, and queries without end take no room from passages.
//! - **A share of the room.** A call holds at most its [`Options::share`] of its class's part, however much it brings. Nobody
//!   at the door asks for more than a turn, and a call is there once: so whoever comes to a room that large calls have
//!   filled waits for a turn of each of them, not for their end.
//! - **A deadline is for the beginning.** A call of which nothing was dispatched by its deadline can be withdrawn whole
//!   ([`Submission::withdraw_untouched`]); one that has begun is finished.
//! - **Who leaves costs nothing.** Dropping the future, the [`Admission`] or the [`Submission`] gives its room back at
//!   once; a piece that says [`Piece::is_cancelled`] is dropped instead of dispatched.
//! - **Drain.** After [`Batcher::close`] no call is admitted; one that was admitted before is served, all its portions,
//!   then the consumers end.

mod admission;
mod batch;
mod handle;
mod lane;
mod options;
mod room;
mod shared;
mod state;
mod submission;
mod sync;

pub use self::admission::{Admission, Ask};
pub use self::batch::{Batch, Piece};
pub use self::handle::Batcher;
pub use self::lane::Depth;
pub use self::options::{Class, Options};
pub use self::state::{FAILED, Wanted};
pub use self::submission::Submission;

#[cfg(test)]
mod tests;
