//! The matrix unit of this CPU, if it has one.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use super::amx::Amx;
#[cfg(test)]
use super::emulated_unit::EmulatedTiles;
use super::matrix_unit::UnitTask;

/// A unit that this CPU has and this process may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// Intel's tiles.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Amx(Amx),
    /// Plain Rust.
    #[cfg(test)]
    Emulated,
}

impl Unit {
    /// The one there is.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn detect() -> Option<Unit> {
        #[cfg(target_os = "linux")]
        return Amx::detect().map(Unit::Amx);
        #[cfg(not(target_os = "linux"))]
        None
    }

    /// Runs a task with the unit made ready for it on this thread, and released after it: a thread that waits has no tiles
    /// that the kernel would have to keep. Within a task no other must be run.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn run<T: UnitTask>(self, task: T) {
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Unit::Amx(amx) => task.run(&mut amx.start()),
            #[cfg(test)]
            Unit::Emulated => self.run_emulated(task),
        }
    }

    /// The same, where only the one in plain Rust can be.
    #[cfg(test)]
    pub(super) fn run_emulated<T: UnitTask>(self, task: T) {
        assert_eq!(self, Unit::Emulated);
        task.run(&mut EmulatedTiles::default());
    }
}
