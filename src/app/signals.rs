//! What the system asks of a server: to read files again, and to end.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Error, Result};
use crate::server::{Access, Tls};

/// On each SIGHUP, reads certificates and tokens again. Never resolves.
///
/// # Errors
/// `Internal` if the signal cannot be heard, which would else end the process, and lose what is in flight.
pub(super) fn hangups(access: Access, tls: Option<Arc<Tls>>) -> Result<impl Future<Output = ()>> {
    let unheard = |error| Error::internal(format!("SIGHUP cannot be listened to: {error}"));
    let mut signals = signal(SignalKind::hangup()).map_err(unheard)?;
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
