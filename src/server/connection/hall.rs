//! Who gets in. A connection waits in the lobby until its first whole head; then it takes one of the places, or, where none
//! is left, it is a guest: it gets one answer, which is a refusal except to a probe. Silent connections and slow ones thus
//! take nobody's place, and when the lobby is full the one that has been there longest makes room for the next. Whoever has
//! the last answer and is only listened to goes back into the lobby, and is the first to make room.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// Open files that are not connections at the port: the process's own, and connections to upstreams.
const OTHER_FILES: usize = 64;

/// The lobby holds as many as there are places, and never less than this.
const LEAST_LOBBY: usize = 1024;

/// The least that a process with few files keeps for the lobby, where it has them.
const SCARCE_LOBBY: usize = 16;

/// The log says at most so often that connections had to make room.
const QUIET: Duration = Duration::from_secs(10);

const WAITS: u8 = 0;
const SERVED: u8 = 1;
const GUEST: u8 = 2;
const OUT: u8 = 3;
const ANSWERED: u8 = 4;

/// How many connections there may be at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// Served.
    pub places: usize,
    /// Not served yet, or not at all.
    pub lobby: usize,
}

impl Room {
    /// For so many connections that are wanted, by a process that may have so many files open (`None`: any number).
    pub(crate) fn of(wanted: usize, files: Option<u64>) -> Room {
        let lobby = wanted.max(LEAST_LOBBY);
        let Some(files) = files else { return Room { places: wanted, lobby } };
        let files = usize::try_from(files).unwrap_or(usize::MAX);
        let files = files.saturating_sub(OTHER_FILES.min(files / 2));
        if wanted.saturating_add(lobby) <= files {
            return Room { places: wanted, lobby };
        }
        let lobby = lobby.min((files / 4).max(SCARCE_LOBBY)).min(files / 2).max(1);
        Room { places: wanted.min(files.saturating_sub(lobby)).max(1), lobby }
    }
}

/// What a connection may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Everything.
    Served,
    /// How the server is.
    Guest,
}

/// The places and the lobby, counted.
pub(super) struct Hall {
    room: Room,
    served: AtomicUsize,
    waiting: AtomicUsize,
    /// Those in the lobby who had a place, and some who have left.
    answered: Mutex<VecDeque<Arc<Seat>>>,
}

impl Hall {
    fn answered(&self) -> MutexGuard<'_, VecDeque<Arc<Seat>>> {
        // Nothing panics while it is held.
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a queue of the lobby holds many who have left it.
    fn is_stale(&self, queued: usize) -> bool {
        queued > 2 * self.waiting.load(Ordering::Acquire) + LEAST_LOBBY
    }
}

/// Where a connection stands, and how it is told to leave.
#[derive(Default)]
pub(super) struct Seat {
    standing: AtomicU8,
    leave: Notify,
}

impl Seat {
    fn is(&self, standings: &[u8]) -> bool {
        standings.contains(&self.standing.load(Ordering::Acquire))
    }

    /// Out, if it stands so. Answers how it stood.
    fn out(&self, standings: &[u8]) -> Option<u8> {
        let leaves = |now: u8| standings.contains(&now).then_some(OUT);
        self.standing.fetch_update(Ordering::AcqRel, Ordering::Acquire, leaves).ok()
    }
}

/// A connection's standing. Dropping it gives up what it holds.
pub(super) struct Member {
    hall: Arc<Hall>,
    seat: Arc<Seat>,
}

impl Member {
    /// A whole head has come: where the connection stands from now on.
    pub(super) fn asks(&self) -> Standing {
        match self.seat.standing.load(Ordering::Acquire) {
            SERVED => return Standing::Served,
            WAITS => {}
            _ => return Standing::Guest,
        }
        let hall = &self.hall;
        let free = |served: usize| (served < hall.room.places).then_some(served + 1);
        let has_place = hall.served.fetch_update(Ordering::AcqRel, Ordering::Acquire, free).is_ok();
        let next = if has_place { SERVED } else { GUEST };
        let changed = self.seat.standing.compare_exchange(WAITS, next, Ordering::AcqRel, Ordering::Acquire).is_ok();
        match (has_place, changed) {
            (true, true) => {
                hall.waiting.fetch_sub(1, Ordering::AcqRel);
                Standing::Served
            }
            (true, false) => {
                // It has just been shown out.
                hall.served.fetch_sub(1, Ordering::AcqRel);
                Standing::Guest
            }
            (false, _) => Standing::Guest,
        }
    }

    /// Its last answer is sent: it gives up its place and goes on in the lobby.
    pub(super) fn steps_down(&self) {
        let standing = &self.seat.standing;
        if standing.compare_exchange(SERVED, ANSWERED, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return;
        }
        self.hall.waiting.fetch_add(1, Ordering::AcqRel);
        self.hall.served.fetch_sub(1, Ordering::AcqRel);
        let mut answered = self.hall.answered();
        if self.hall.is_stale(answered.len()) {
            answered.retain(|seat| seat.is(&[ANSWERED]));
        }
        answered.push_back(self.seat.clone());
    }

    /// Until it is to leave the lobby, having stepped down.
    pub(super) async fn shown_out(&self) {
        self.seat.leave.notified().await;
    }

    /// What the doorkeeper follows.
    pub(super) fn seat(&self) -> Arc<Seat> {
        self.seat.clone()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        match self.seat.standing.swap(OUT, Ordering::AcqRel) {
            SERVED => self.hall.served.fetch_sub(1, Ordering::AcqRel),
            WAITS | GUEST | ANSWERED => self.hall.waiting.fetch_sub(1, Ordering::AcqRel),
            _ => 0,
        };
    }
}

/// Keeps the lobby.
pub(super) struct Doorkeeper {
    hall: Arc<Hall>,
    /// Those in the lobby who never had a place, the oldest first, and some who have left it.
    queue: VecDeque<(Arc<Seat>, AbortHandle)>,
    unheard: ShownOut,
    answered: ShownOut,
    complained: Option<Instant>,
}

/// How many were shown out since the log said so, and when it did.
#[derive(Default)]
struct ShownOut {
    connections: u64,
    said: Option<Instant>,
}

impl Doorkeeper {
    /// Of an empty hall.
    pub(super) fn new(room: Room) -> Doorkeeper {
        let (served, waiting) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let hall = Hall { room, served, waiting, answered: Mutex::default() };
        let (unheard, answered) = (ShownOut::default(), ShownOut::default());
        Doorkeeper { hall: Arc::new(hall), queue: VecDeque::new(), unheard, answered, complained: None }
    }

    /// Lets one more into the lobby. Whoever has been in it longest leaves where it is full.
    pub(super) fn admit(&mut self) -> Member {
        while self.hall.waiting.load(Ordering::Acquire) >= self.hall.room.lobby && self.show_out_the_oldest() {}
        self.hall.waiting.fetch_add(1, Ordering::AcqRel);
        Member { hall: self.hall.clone(), seat: Arc::default() }
    }

    /// The task that serves a connection that was admitted.
    pub(super) fn is_served_by(&mut self, seat: Arc<Seat>, task: AbortHandle) {
        while self.queue.front().is_some_and(|(seat, _)| !seat.is(&[WAITS, GUEST])) {
            self.queue.pop_front();
        }
        if self.hall.is_stale(self.queue.len()) {
            self.queue.retain(|(seat, _)| seat.is(&[WAITS, GUEST]));
        }
        self.queue.push_back((seat, task));
    }

    /// Ends a connection in the lobby, of those who have their answer, else of all, the one that has been there longest;
    /// `false` if nobody is there.
    pub(super) fn show_out_the_oldest(&mut self) -> bool {
        loop {
            let Some(seat) = self.hall.answered().pop_front() else { break };
            if seat.out(&[ANSWERED]).is_some() {
                self.hall.waiting.fetch_sub(1, Ordering::AcqRel);
                seat.leave.notify_one();
                self.say(ANSWERED);
                return true;
            }
        }
        while let Some((seat, task)) = self.queue.pop_front() {
            let Some(stood) = seat.out(&[WAITS, GUEST]) else { continue };
            self.hall.waiting.fetch_sub(1, Ordering::AcqRel);
            task.abort();
            self.say(stood);
            return true;
        }
        false
    }

    /// Says, now and then, that whoever stood so was shown out.
    fn say(&mut self, stood: u8) {
        let lobby = self.hall.room.lobby;
        if stood == WAITS {
            if let Some(connections) = self.unheard.one_more() {
                tracing::warn!(
                    connections,
                    "connections that had not asked anything yet were closed to make room for new ones: {lobby} may wait"
                );
            }
        } else if let Some(connections) = self.answered.one_more() {
            tracing::warn!(
                connections,
                "connections that had their answer were closed to make room for new ones: {lobby} may wait"
            );
        }
    }

    /// Says, now and then, that a connection could not be accepted.
    pub(super) fn complain(&mut self, error: &io::Error) {
        if self.complained.is_none_or(|said| said.elapsed() >= QUIET) {
            tracing::warn!(
                "a connection could not be accepted: {error}; where open files are the reason, allow more (ulimit -n, \
                 LimitNOFILE=, --ulimit nofile=), or lower --max-connections (now {})",
                self.hall.room.places
            );
            self.complained = Some(Instant::now());
        }
    }
}

impl ShownOut {
    /// Counts one more. Answers how many there are to be told of, now and then.
    fn one_more(&mut self) -> Option<u64> {
        self.connections += 1;
        if self.said.is_some_and(|said| said.elapsed() < QUIET) {
            return None;
        }
        let connections = self.connections;
        *self = ShownOut { connections: 0, said: Some(Instant::now()) };
        Some(connections)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_what_is_wanted_as_far_as_files_go() {
        for (wanted, files, places, lobby) in [
            (8192, None, 8192, 8192),
            (4, None, 4, 1024),
            (usize::MAX, None, usize::MAX, usize::MAX),
            (8192, Some(1_048_576), 8192, 8192),
            (8192, Some(u64::MAX), 8192, 8192),
            (8192, Some(16_384), 12_240 - 4_080 - 1 + 33, 4_080),
            (8192, Some(1024), 720, 240),
            (4, Some(1024), 4, 240),
            (8192, Some(64), 16, 16),
            (8192, Some(20), 5, 5),
            (8192, Some(0), 1, 1),
        ] {
            assert_eq!(Room::of(wanted, files), Room { places, lobby }, "{wanted} of {files:?}");
        }
    }

    fn admit(keeper: &mut Doorkeeper, tasks: &mut tokio::task::JoinSet<()>) -> Member {
        let member = keeper.admit();
        keeper.is_served_by(member.seat(), tasks.spawn(std::future::pending()));
        member
    }

    #[tokio::test]
    async fn the_oldest_in_the_lobby_makes_room_and_nobody_with_a_place_does() {
        let (mut keeper, mut tasks) = (Doorkeeper::new(Room { places: 1, lobby: 2 }), tokio::task::JoinSet::new());
        let served = admit(&mut keeper, &mut tasks);
        assert_eq!(served.asks(), Standing::Served);
        let first = admit(&mut keeper, &mut tasks);
        let guest = admit(&mut keeper, &mut tasks);
        assert_eq!(guest.asks(), Standing::Guest);
        let third = admit(&mut keeper, &mut tasks);
        assert!(tasks.join_next().await.expect("the first").expect_err("shown out").is_cancelled());
        assert_eq!((first.asks(), served.asks()), (Standing::Guest, Standing::Served));
        drop(first);
        drop(served);
        assert_eq!((guest.asks(), third.asks()), (Standing::Guest, Standing::Served));
        drop((guest, third));
        assert_eq!(keeper.hall.served.load(Ordering::Acquire) + keeper.hall.waiting.load(Ordering::Acquire), 0);
        assert!(!keeper.show_out_the_oldest());
    }

    #[tokio::test]
    async fn who_is_answered_gives_up_the_place_and_is_the_first_to_make_room() {
        let (mut keeper, mut tasks) = (Doorkeeper::new(Room { places: 1, lobby: 2 }), tokio::task::JoinSet::new());
        let waits = admit(&mut keeper, &mut tasks);
        let answered = admit(&mut keeper, &mut tasks);
        assert_eq!(answered.asks(), Standing::Served);
        answered.steps_down();
        let third = admit(&mut keeper, &mut tasks);
        tokio::time::timeout(Duration::from_secs(5), answered.shown_out()).await.expect("shown out");
        assert_eq!((third.asks(), waits.asks()), (Standing::Served, Standing::Guest));
        third.steps_down();
        third.steps_down();
        drop((answered, waits, third));
        assert_eq!(keeper.hall.served.load(Ordering::Acquire) + keeper.hall.waiting.load(Ordering::Acquire), 0);
        assert!(!keeper.show_out_the_oldest());
        // Those who step down are forgotten as well.
        for _ in 0..10_000 {
            let member = admit(&mut keeper, &mut tasks);
            assert_eq!(member.asks(), Standing::Served);
            member.steps_down();
        }
        assert!(keeper.hall.answered().len() <= 2 * LEAST_LOBBY, "{}", keeper.hall.answered().len());
    }

    #[tokio::test]
    async fn the_queue_forgets_those_who_left() {
        let (mut keeper, mut tasks) = (Doorkeeper::new(Room { places: 10, lobby: 10 }), tokio::task::JoinSet::new());
        let _stays = admit(&mut keeper, &mut tasks);
        for _ in 0..10_000 {
            drop(admit(&mut keeper, &mut tasks));
        }
        assert!(keeper.queue.len() <= 2 * LEAST_LOBBY, "{}", keeper.queue.len());
    }
}
