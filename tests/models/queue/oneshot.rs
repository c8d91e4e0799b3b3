//! A word from one thread to another, as tokio's of the same name, each step of which loom sees.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use loom::sync::Mutex;

enum Slot<T> {
    /// Nothing was said yet; whom to wake.
    Empty(Option<Waker>),
    Said(T),
    /// One of the two has left, or heard it.
    Closed,
}

type Shared<T> = Arc<Mutex<Slot<T>>>;

pub struct Sender<T>(Shared<T>);

pub struct Receiver<T>(Shared<T>);

/// The sender left without a word.
#[derive(Debug)]
pub struct Gone;

pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Mutex::new(Slot::Empty(None)));
    (Sender(shared.clone()), Receiver(shared))
}

impl<T> Sender<T> {
    pub fn send(self, word: T) -> Result<(), T> {
        let mut slot = self.0.lock().expect("nobody panics with it");
        let Slot::Empty(waker) = &mut *slot else { return Err(word) };
        let waker = waker.take();
        *slot = Slot::Said(word);
        drop(slot);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut slot = self.0.lock().expect("nobody panics with it");
        if let Slot::Empty(waker) = &mut *slot {
            let waker = waker.take();
            *slot = Slot::Closed;
            drop(slot);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl<T> Future for Receiver<T> {
    type Output = Result<T, Gone>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.0.lock().expect("nobody panics with it");
        if let Slot::Empty(waker) = &mut *slot {
            *waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        match std::mem::replace(&mut *slot, Slot::Closed) {
            Slot::Said(word) => Poll::Ready(Ok(word)),
            _ => Poll::Ready(Err(Gone)),
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        *self.0.lock().expect("nobody panics with it") = Slot::Closed;
    }
}
