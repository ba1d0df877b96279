//! The waits between tries at what must not be given up.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};

const LONGEST: Duration = Duration::from_secs(5);

/// Waits from 100 ms up to 5 s with jitter, for what is tried until the bus takes it. It never ends.
pub(crate) fn patient_delays() -> impl Iterator<Item = Duration> + Send {
    let delays = ExponentialBuilder::default().with_min_delay(Duration::from_millis(100)).with_max_delay(LONGEST);
    delays.with_jitter().without_max_times().build().chain(std::iter::repeat(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_never_end() {
        let delays: Vec<_> = patient_delays().take(1000).collect();
        assert_eq!(delays.len(), 1000);
        assert!(delays[0] <= Duration::from_millis(200) && delays[0] >= Duration::from_millis(100));
        assert!(delays[50..].iter().all(|delay| (LONGEST..=2 * LONGEST).contains(delay)));
    }
}
