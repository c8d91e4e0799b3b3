//! What the system's service manager is told, where it asks for it: `Type=notify` of systemd, over the socket that
//! `NOTIFY_SOCKET` names, and `WatchdogSec=`.

use crate::server::Readiness;

/// Tells that all models are loaded and warmed: what is to start after this service starts now.
pub(super) fn ready() {
    told::ready();
}

/// Tells that the server ends, as it was asked to.
pub(super) fn stopping() {
    told::stopping();
}

/// Tells in time, again and again, that the server is alive, as long as it is: a model whose thread has ended will not embed
/// anything until the process is started again. Never resolves.
pub(super) async fn alive(readiness: Readiness) {
    told::alive(|| readiness.trouble().is_none()).await;
}

#[cfg(target_os = "linux")]
mod told {
    use std::ffi::OsStr;
    use std::io;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    /// That it is alive, which is said again and again.
    const ALIVE: &str = "WATCHDOG=1";

    /// Where a thread of their own takes words from: it may have to wait for the service manager, and nobody else should.
    static TELLER: OnceLock<Option<Sender<&'static str>>> = OnceLock::new();

    /// [`ALIVE`] waits to be said: another one would say no more. The other words are said once each.
    static IS_WAITING: AtomicBool = AtomicBool::new(false);

    fn tell(words: &'static str) {
        let teller = TELLER.get_or_init(|| {
            let path = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty())?;
            let (sender, receiver) = channel();
            let thread = std::thread::Builder::new().name("notify".into());
            thread.spawn(move || tell_all(&path, &receiver)).ok()?;
            Some(sender)
        });
        if words == ALIVE && IS_WAITING.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Some(teller) = teller {
            let _ = teller.send(words);
        }
    }

    fn tell_all(path: &OsStr, words: &Receiver<&'static str>) {
        let mut is_known = false;
        for words in words {
            if words == ALIVE {
                IS_WAITING.store(false, Ordering::Relaxed);
            }
            let said = say(path, words);
            if let (Err(error), false) = (&said, is_known) {
                tracing::warn!("the service manager cannot be told over NOTIFY_SOCKET: {error}");
            }
            is_known = said.is_err();
        }
    }

    fn say(path: &OsStr, words: &str) -> io::Result<()> {
        let address = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(path)?,
        };
        UnixDatagram::unbound()?.send_to_addr(words.as_bytes(), &address).map(drop)
    }

    pub(super) fn ready() {
        tell("READY=1");
    }

    pub(super) fn stopping() {
        tell("STOPPING=1");
    }

    pub(super) async fn alive(is_alive: impl Fn() -> bool) {
        let Some(patience) = sd_notify::watchdog_enabled().filter(|patience| !patience.is_zero()) else {
            return std::future::pending().await;
        };
        loop {
            if is_alive() {
                tell(ALIVE);
            }
            tokio::time::sleep((patience / 2).max(Duration::from_millis(1))).await;
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod told {
    pub(super) fn ready() {}

    pub(super) fn stopping() {}

    pub(super) async fn alive(_is_alive: impl Fn() -> bool) {
        std::future::pending().await
    }
}
