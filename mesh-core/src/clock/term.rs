//! For how long somebody surely leads.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// Until when others are surely kept from leading. Cloning gives another handle on the same: who acts for the leader looks at the
/// moment of acting, not at the moment of being told to.
///
/// It is measured by the clock of this machine that only runs. One that was suspended as a whole may not have counted that time.
#[derive(Debug, Clone, Default)]
pub struct Term(Arc<Mutex<Option<Instant>>>);

impl Term {
    /// It goes on until then.
    pub fn extend_to(&self, until: Instant) {
        self.set(Some(until));
    }

    /// It is over.
    pub fn end(&self) {
        self.set(None);
    }

    /// Until when it goes, as far as is known; `None`: it was ended, or did not begin.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is over now.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.until().is_none_or(|until| until <= Instant::now())
    }

    fn set(&self, until: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_has_a_handle_sees_it_go_on_and_end() {
        let (term, second) = (Term::default(), Duration::from_secs(1));
        let other = term.clone();
        assert!(other.is_over(), "it did not begin");
        term.extend_to(Instant::now() + second);
        assert!(!other.is_over());
        tokio::time::advance(second).await;
        assert!(other.is_over() && other.until().is_some(), "it was not extended");
        term.extend_to(Instant::now() + second);
        assert!(!other.is_over());
        term.end();
        assert!(other.is_over() && other.until().is_none());
    }
}
