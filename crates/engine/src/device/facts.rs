//! What was found on this machine, and whether the cards asked for can be used: facts in, yes or a refusal out.

use crate::error::{Error, Result};

/// Major and minor.
pub(super) type Version = (u32, u32);

/// What a build needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Built {
    /// The CUDA it was compiled with. A driver for an older one cannot run it.
    pub(super) cuda: Version,
    /// The compute capability its kernels were compiled for. Newer cards run them, older ones do not.
    pub(super) capability: Version,
}

/// What is on this machine. What could not be asked, because something before it failed, is an error too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// The newest CUDA that the driver runs, or why there is no driver.
    pub(super) driver: Result<Version, String>,
    /// Which of CUDA's libraries cannot be loaded, each with the reason.
    pub(super) missing: Vec<String>,
    /// The cards, or why the driver does not show them.
    pub(super) cards: Result<Vec<Card>, String>,
}

/// A card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Card {
    /// As the driver calls it.
    pub(super) name: String,
    /// Its compute capability.
    pub(super) capability: Version,
}

impl Facts {
    /// The names of the cards asked for, in that order.
    ///
    /// # Errors
    /// `Unusable`, with what to do, if one of them cannot be used.
    pub(super) fn cards(&self, built: Built, wanted: &[usize]) -> Result<Vec<String>> {
        let refused = |reason: String, remedy: &str| {
            let way_out = "or serve on the CPU with --device cpu (T2V_DEVICE=cpu)";
            Err(Error::unusable(format!(
                "a GPU is asked for (--device or ENABLE_CUDA) and cannot be used: {reason}; {remedy}, {way_out}"
            )))
        };
        let driver = match &self.driver {
            Ok(version) => *version,
            Err(reason) => {
                return refused(
                    format!("there is no NVIDIA driver: {reason}"),
                    "install the driver, and give a container the GPU (docker run --gpus all, nvidia.com/gpu in \
                     Kubernetes)",
                );
            }
        };
        if driver < built.cuda {
            let (major, minor) = built.cuda;
            return refused(
                format!("the NVIDIA driver is for CUDA {}.{}, this build needs {major}.{minor}", driver.0, driver.1),
                "install a newer driver",
            );
        }
        if !self.missing.is_empty() {
            return refused(
                format!("CUDA's libraries cannot be loaded: {}", self.missing.join("; ")),
                &format!(
                    "install the libraries of CUDA {} or name their folder in LD_LIBRARY_PATH (the GPU image has them)",
                    built.cuda.0
                ),
            );
        }
        let cards = match &self.cards {
            Ok(cards) => cards,
            Err(reason) => {
                return refused(
                    format!("the NVIDIA driver does not start: {reason}"),
                    "see whether nvidia-smi works here, and give a container the GPU (docker run --gpus all)",
                );
            }
        };
        if cards.is_empty() {
            return refused(
                "the NVIDIA driver shows no card".to_owned(),
                "give a container the GPU (docker run --gpus all, nvidia.com/gpu in Kubernetes), see \
                 CUDA_VISIBLE_DEVICES",
            );
        }
        let mut names = Vec::new();
        for &number in wanted {
            let Some(card) = cards.get(number) else {
                return refused(
                    format!("there is no card cuda:{number}, only {}", listed(cards)),
                    "choose one of these with --device (T2V_DEVICE, CUDA_CORE)",
                );
            };
            let (major, minor) = card.capability;
            if card.capability < built.capability {
                return refused(
                    format!(
                        "cuda:{number} ({}) has compute capability {major}.{minor}, this build needs {}.{}",
                        card.name, built.capability.0, built.capability.1
                    ),
                    &format!("build with CUDA_COMPUTE_CAP={major}{minor}"),
                );
            }
            names.push(card.name.clone());
        }
        Ok(names)
    }
}

fn listed(cards: &[Card]) -> String {
    let cards = cards.iter().enumerate().map(|(number, card)| format!("cuda:{number} ({})", card.name));
    cards.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUILT: Built = Built { cuda: (13, 0), capability: (8, 0) };

    fn card(name: &str, capability: Version) -> Card {
        Card { name: name.to_owned(), capability }
    }

    fn good() -> Facts {
        let cards = vec![card("NVIDIA H200", (9, 0)), card("NVIDIA A10", (8, 6)), card("Tesla T4", (7, 5))];
        Facts { driver: Ok((13, 0)), missing: Vec::new(), cards: Ok(cards) }
    }

    fn refused(change: impl FnOnce(&mut Facts), wanted: &[usize], words: &[&str]) {
        let mut facts = good();
        change(&mut facts);
        let error = facts.cards(BUILT, wanted).expect_err("a refusal");
        for word in words.iter().chain(&["--device cpu"]) {
            assert!(error.message().contains(word), "'{word}' is not in: {error}");
        }
    }

    #[test]
    fn cards_that_can_be_used_are_named_in_the_order_asked_for() {
        assert_eq!(good().cards(BUILT, &[1, 0]), Ok(vec!["NVIDIA A10".to_owned(), "NVIDIA H200".to_owned()]));
        // A newer driver runs older builds.
        assert!(Facts { driver: Ok((13, 2)), ..good() }.cards(BUILT, &[0]).is_ok());
        assert!(Facts { driver: Ok((14, 0)), ..good() }.cards(BUILT, &[0]).is_ok());
    }

    #[test]
    fn every_reason_has_its_own_words_and_says_what_to_do() {
        let no_file = || "libcuda.so.1: cannot open shared object file".to_owned();
        // Without a driver everything else is unknown too: the first cause is told.
        let no_driver = |facts: &mut Facts| {
            facts.driver = Err(no_file());
            facts.missing = vec!["libcublas.so.13: cannot open shared object file".to_owned()];
            facts.cards = Err(no_file());
        };
        refused(no_driver, &[0], &["no NVIDIA driver", "libcuda.so.1", "--gpus all", "nvidia.com/gpu"]);
        let old = |facts: &mut Facts| facts.driver = Ok((12, 4));
        refused(old, &[0], &["for CUDA 12.4", "needs 13.0", "newer driver"]);
        let no_library = |facts: &mut Facts| facts.missing = vec!["libcublas.so.13: not found".to_owned()];
        refused(no_library, &[0], &["libcublas.so.13", "CUDA 13", "LD_LIBRARY_PATH"]);
        let broken = |facts: &mut Facts| facts.cards = Err("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH".to_owned());
        refused(broken, &[0], &["does not start", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "nvidia-smi"]);
        let none = |facts: &mut Facts| facts.cards = Ok(Vec::new());
        refused(none, &[0], &["shows no card", "--gpus all", "CUDA_VISIBLE_DEVICES"]);
        refused(|_| {}, &[0, 3], &["no card cuda:3", "cuda:0 (NVIDIA H200)", "cuda:2 (Tesla T4)", "CUDA_CORE"]);
        refused(|_| {}, &[2], &["cuda:2 (Tesla T4)", "capability 7.5", "needs 8.0", "CUDA_COMPUTE_CAP=75"]);
    }
}
