//! Mutants: known bugs that can be put back at compile time, to show that the simulator finds
//! them.
//!
//! `mutant!("name")` is a constant `false` in every ordinary build. With `--cfg mutant="name"` it
//! is `true`; with `--cfg mutant="any"` it is `true` for the one that was [chosen](choose) in this
//! process, so that one build serves all of them.

#[cfg(mutant = "any")]
static CHOSEN: std::sync::RwLock<Option<String>> = std::sync::RwLock::new(None);

/// Chooses the mutant of this process, in builds with `--cfg mutant="any"`; elsewhere nothing
/// happens and the answer is `false`.
pub fn choose(name: Option<&str>) -> bool {
    #[cfg(mutant = "any")]
    {
        *CHOSEN.write().unwrap_or_else(std::sync::PoisonError::into_inner) = name.map(str::to_owned);
        true
    }
    #[cfg(not(mutant = "any"))]
    {
        let _ = name;
        false
    }
}

/// Whether this mutant was chosen.
#[cfg(mutant = "any")]
pub fn is_chosen(name: &str) -> bool {
    CHOSEN.read().unwrap_or_else(std::sync::PoisonError::into_inner).as_deref() == Some(name)
}

/// Whether the known bug of this name is to be put back; see the module.
macro_rules! mutant {
    ($name:tt) => {{
        #[cfg(mutant = "any")]
        let chosen = $crate::mutant::is_chosen($name);
        #[cfg(not(mutant = "any"))]
        let chosen = cfg!(mutant = $name);
        chosen
    }};
}
pub(crate) use mutant;
