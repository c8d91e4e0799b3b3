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
    use std::time::Duration;

    use sd_notify::NotifyState;

    fn tell(state: NotifyState<'_>) {
        if let Err(error) = sd_notify::notify(&[state]) {
            tracing::warn!("the service manager cannot be told over NOTIFY_SOCKET: {error}");
        }
    }

    pub(super) fn ready() {
        tell(NotifyState::Ready);
    }

    pub(super) fn stopping() {
        tell(NotifyState::Stopping);
    }

    pub(super) async fn alive(is_alive: impl Fn() -> bool) {
        let Some(patience) = sd_notify::watchdog_enabled().filter(|patience| !patience.is_zero()) else {
            return std::future::pending().await;
        };
        loop {
            if is_alive() {
                tell(NotifyState::Watchdog);
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
