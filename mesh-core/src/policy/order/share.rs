//! Which partitions a process should take and give up, so that all processes have about the same number.

use std::collections::BTreeSet;

/// What one process should do next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Share {
    /// Partitions that nobody has: to be taken, in this order.
    pub take: Vec<usize>,
    /// One that it should give up: it has more than its share. One at a time, so that little stands still at once.
    pub give: Option<usize>,
}

/// What `me` should do, given who is alive and who owns each partition. Each may have at most an equal share, rounded up.
#[must_use]
pub fn share(me: &str, alive: &BTreeSet<String>, owners: &[Option<String>]) -> Share {
    let processes = alive.len().max(1);
    let most = owners.len().div_ceil(processes);
    let mine = owners.iter().filter(|owner| owner.as_deref() == Some(me)).count();
    if mine > most {
        return Share { take: Vec::new(), give: owners.iter().rposition(|owner| owner.as_deref() == Some(me)) };
    }
    let is_free = |owner: &Option<String>| owner.as_ref().is_none_or(|owner| !alive.contains(owner));
    // Each begins elsewhere, so that two rarely reach for the same one.
    let rank = alive.iter().position(|other| other == me).unwrap_or(0);
    let start = rank * owners.len() / processes;
    let around = (start..owners.len()).chain(0..start);
    let take = around.filter(|partition| is_free(&owners[*partition])).take(most - mine).collect();
    Share { take, give: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(number: usize) -> String {
        format!("m{number}")
    }

    /// Every process acts in turn until nobody has anything to do; how many rounds that took.
    fn settle(alive: &BTreeSet<String>, owners: &mut [Option<String>]) -> usize {
        for round in 0..100 {
            let mut idle = true;
            for me in alive {
                let Share { take, give } = share(me, alive, owners);
                idle &= take.is_empty() && give.is_none();
                for partition in take {
                    owners[partition] = Some(me.clone());
                }
                if let Some(partition) = give {
                    owners[partition] = None;
                }
            }
            if idle {
                return round;
            }
        }
        panic!("no rest: {owners:?}");
    }

    proptest! {
        /// Whoever joins and leaves, all partitions have a living owner soon, and nobody has more than its share.
        #[test]
        fn all_partitions_find_an_owner_and_nobody_has_more_than_its_share(
            crews in prop::collection::vec(prop::collection::btree_set(0usize..20, 1..20), 1..6),
        ) {
            let mut owners = vec![None; 16];
            for crew in crews {
                let alive: BTreeSet<String> = crew.iter().copied().map(name).collect();
                let rounds = settle(&alive, &mut owners);
                prop_assert!(rounds <= 17, "{rounds} rounds");
                let most = 16usize.div_ceil(alive.len());
                for me in &alive {
                    prop_assert!(owners.iter().filter(|owner| owner.as_ref() == Some(me)).count() <= most);
                }
                prop_assert!(owners.iter().all(|owner| owner.as_ref().is_some_and(|owner| alive.contains(owner))));
            }
        }
    }

    #[test]
    fn one_more_process_gets_partitions_one_at_a_time() {
        let owners = vec![Some(name(1)); 16];
        let alive = BTreeSet::from([name(1), name(2)]);
        assert_eq!(share("m1", &alive, &owners), Share { take: vec![], give: Some(15) });
        assert_eq!(share("m2", &alive, &owners), Share::default());
    }
}
