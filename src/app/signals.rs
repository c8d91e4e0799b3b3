//! What the system asks of a server: to read files again, and to end.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::server::{Access, Tls};

#[cfg(unix)]
mod heard {
    use tokio::signal::unix::{Signal, SignalKind, signal};

    pub(super) fn hangups() -> std::io::Result<Signal> {
        signal(SignalKind::hangup())
    }

    /// Resolves on SIGTERM or SIGINT.
    pub(super) async fn termination() {
        let wait = |kind| async move {
            match signal(kind) {
                Ok(mut signals) => {
                    signals.recv().await;
                }
                // Without the handler the signal ends the process by itself.
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            () = wait(SignalKind::terminate()) => {}
            () = wait(SignalKind::interrupt()) => {}
        }
    }
}

#[cfg(windows)]
mod heard {
    use tokio::signal::windows;

    /// There are none: tokens and certificates are looked at from time to time as everywhere.
    pub(super) struct Never;

    impl Never {
        pub(super) async fn recv(&mut self) -> Option<()> {
            std::future::pending().await
        }
    }

    pub(super) fn hangups() -> std::io::Result<Never> {
        Ok(Never)
    }

    /// Resolves on Ctrl-C and Ctrl-Break, when the console is closed, which leaves five seconds, and when the system shuts down.
    pub(super) async fn termination() {
        // Without a handler the event ends the process by itself.
        macro_rules! wait {
            ($event:ident) => {
                async {
                    match windows::$event() {
                        Ok(mut events) => {
                            events.recv().await;
                        }
                        Err(_) => std::future::pending().await,
                    }
                }
            };
        }
        tokio::select! {
            () = wait!(ctrl_c) => {}
            () = wait!(ctrl_break) => {}
            () = wait!(ctrl_close) => {}
            () = wait!(ctrl_shutdown) => {}
        }
    }
}

/// On each SIGHUP, reads certificates and tokens again. Never resolves.
///
/// # Errors
/// `Internal` if the signal cannot be heard, which would else end the process, and lose what is in flight.
pub(super) fn hangups(access: Access, tls: Option<Arc<Tls>>) -> Result<impl Future<Output = ()>> {
    let unheard = |error| Error::internal(format!("SIGHUP cannot be listened to: {error}"));
    let mut signals = heard::hangups().map_err(unheard)?;
    Ok(async move {
        while signals.recv().await.is_some() {
            tracing::info!("SIGHUP: files of tokens and certificates are read again; other settings need a restart");
            access.look_now();
            if let Some(tls) = &tls {
                tls.look_now();
            }
        }
        std::future::pending().await
    })
}

/// Resolves when the process is asked to end: on SIGTERM or SIGINT, or what a system has in their place.
pub(super) async fn termination() {
    heard::termination().await;
}
