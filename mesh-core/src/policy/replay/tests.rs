use std::time::Duration;

use proptest::{collection::vec, prelude::*};

use super::*;

fn counts(dispatched: u64, resolved: u64, failed: u64) -> Counts {
    Counts { dispatched, resolved, failed, skipped: Skips::default() }
}

fn plan(rule: &str, canary: &[f64]) -> Plan {
    Plan {
        selected: 100,
        rate: None,
        canary: Canary::new(canary.to_vec()).unwrap(),
        abort_if: (!rule.is_empty()).then(|| rule.parse().unwrap()),
        max_in_flight: 10,
    }
}

fn view(counts: Counts) -> View {
    View { counts, starting: 0, step: 0, is_paused: false, is_stopped: false, is_walked: false }
}

#[test]
fn rules_are_read_and_written() {
    for rule in ["failed > 5%", "failed > 10", "failed > 2.5% or failed > 100"] {
        assert_eq!(rule.parse::<AbortRule>().unwrap().to_string(), rule);
    }
    assert_eq!("failed>5%or failed>1".parse::<AbortRule>().unwrap().to_string(), "failed > 5% or failed > 1");
}

#[test]
fn a_rule_that_cant_be_read_says_at_which_column() {
    let columns = [
        ("", 1),
        ("errors > 5%", 1),
        ("failed < 5", 8),
        ("failed > ", 10),
        ("failed > x", 10),
        ("failed > 1.5", 10),
        ("failed > 100%", 10),
        ("failed > 5% failed > 1", 13),
        ("failed > 5% or", 15),
        ("failed > 5% or ä", 16),
        ("failed > 1.2.3", 10),
    ];
    for (rule, column) in columns {
        let error = rule.parse::<AbortRule>().unwrap_err();
        assert_eq!(error.column, column, "{rule:?}: {error}");
    }
}

#[test]
fn a_share_is_judged_of_enough_letters_or_of_all() {
    let rule: AbortRule = "failed > 5%".parse().unwrap();
    assert_eq!(rule.fires(&counts(20, 0, 1), false), None, "the first of twenty");
    assert!(rule.fires(&counts(20, 0, 1), true).is_some(), "all there is");
    assert_eq!(rule.fires(&counts(20, 19, 1), true), None, "exactly 5 % is not more");
    assert!(rule.fires(&counts(40, 18, 2), false).unwrap().starts_with("failed > 5%: 2 of 20"));
    let zero: AbortRule = "failed > 0%".parse().unwrap();
    assert_eq!(zero.fires(&counts(9, 9, 0), true), None);
    assert!(zero.fires(&counts(1000, 8, 1), false).is_some(), "none may fail");
    assert!(rule.fires(&counts(1000, 0, 2), false).is_some(), "2 of 20 at best");
    let small: AbortRule = "failed > 0.01%".parse().unwrap();
    assert_eq!(small.fires(&counts(20_000, 0, 1), false), None, "1 of 10,000 is not more");
    assert!(small.fires(&counts(20_000, 0, 2), false).is_some(), "2 of 10,000 at best");
    assert_eq!(small.fires(&counts(20_000, 20_000, 2), false), None);
    let count: AbortRule = "failed > 3".parse().unwrap();
    assert_eq!((count.fires(&counts(9, 0, 3), true), count.fires(&counts(9, 0, 4), false).is_some()), (None, true));
}

#[test]
fn a_step_ends_when_all_of_it_has_ended_and_the_rule_holds() {
    let plan = plan("failed > 5%", &[1.0, 5.0, 100.0]);
    assert_eq!(next(&plan, &view(counts(0, 0, 0))), Next::Dispatch);
    assert_eq!(next(&plan, &View { starting: 1, ..view(counts(0, 0, 0)) }), Next::Wait);
    assert_eq!(next(&plan, &view(counts(1, 0, 0))), Next::Wait, "the first letter has not ended");
    assert_eq!(next(&plan, &view(counts(1, 1, 0))), Next::Advance);
    assert!(matches!(next(&plan, &view(counts(1, 0, 1))), Next::Abort(_)));
    assert_eq!(next(&plan, &View { step: 1, ..view(counts(1, 1, 0)) }), Next::Dispatch);
    assert_eq!(next(&plan, &View { step: 1, ..view(counts(5, 5, 0)) }), Next::Advance);
    assert_eq!(next(&plan, &View { step: 2, ..view(counts(500, 495, 0)) }), Next::Dispatch, "no limit at 100");
    assert_eq!(next(&plan, &View { step: 2, is_walked: true, ..view(counts(100, 99, 1)) }), Next::Finish);
}

#[test]
fn what_is_stopped_or_paused_sends_nothing() {
    let plan = plan("", &[]);
    let stopped = View { is_stopped: true, ..view(counts(3, 2, 0)) };
    assert_eq!(next(&plan, &stopped), Next::Wait);
    assert_eq!(next(&plan, &View { counts: counts(3, 2, 1), ..stopped }), Next::Finish);
    assert_eq!(next(&plan, &View { is_paused: true, ..view(counts(0, 0, 0)) }), Next::Wait);
    assert_eq!(next(&plan, &view(counts(10, 0, 0))), Next::Wait, "as many as may be in flight");
}

#[test]
fn steps_are_shares_and_each_has_a_letter() {
    let canary = Canary::new(vec![1.0, 5.0, 20.0, 100.0]).unwrap();
    let limits = |selected| [0, 1, 2, 3, 4].map(|step| canary.limit(step, selected));
    assert_eq!(limits(1000), [Some(10), Some(50), Some(200), None, None]);
    assert_eq!(limits(3), [Some(1), Some(2), Some(3), None, None]);
    for wrong in [vec![0.0], vec![101.0], vec![5.0, 1.0], vec![5.0, 5.0], vec![f64::NAN]] {
        assert!(Canary::new(wrong.clone()).is_err(), "{wrong:?}");
    }
}

#[test]
fn rates_are_read_and_written() {
    for (text, shown) in [("50/s", "50/s"), ("90/m", "1.5/s"), ("1/m", "1/m"), ("7/h", "7/h"), ("0.5/s", "30/m")] {
        assert_eq!(text.parse::<Rate>().unwrap().to_string(), shown);
    }
    for wrong in ["50", "/s", "x/s", "0/s", "-1/s", "NaN/s", "inf/s", "5/d", "1e9/s"] {
        assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
    }
}

proptest! {
    /// Whatever the timers do, never more than the rate and what is made up for; and with timers that are a little late, not
    /// less than the rate less the last gap.
    #[test]
    fn a_pace_is_kept(rate in 1.0f64..5000.0, late_us in vec(0u64..40_000, 50..400)) {
        let mut pace = Pace::new(Rate::per_second(rate).unwrap(), Duration::ZERO);
        let (mut now, mut sent) = (Duration::ZERO, 0u32);
        for late in late_us {
            while pace.take(now).is_ok() {
                sent += 1;
            }
            let due = pace.take(now).unwrap_err();
            prop_assert!(due > now);
            now = due + Duration::from_micros(late);
        }
        let (sent, due) = (f64::from(sent), now.as_secs_f64() * rate);
        prop_assert!(sent <= due + 1.0, "{sent} of {due}");
        prop_assert!(sent >= due - rate * 0.04 - 2.0, "{sent} of {due}");
    }

    /// A long standstill is not followed by a burst.
    #[test]
    fn a_pause_is_not_made_up_for(rate in 1.0f64..5000.0, pause_s in 1u64..10_000) {
        let mut pace = Pace::new(Rate::per_second(rate).unwrap(), Duration::ZERO);
        let now = Duration::from_secs(pause_s);
        let burst = std::iter::repeat_with(|| pace.take(now)).take_while(Result::is_ok).count();
        prop_assert!(f64::from(u32::try_from(burst).unwrap()) <= rate * 0.25 + 2.0, "{burst}");
    }

    /// A plan that is driven to its end by any consumer sends each letter at most once, obeys its limits on the way, and ends.
    #[test]
    fn every_rollout_ends(
        steps in vec(0.5f64..100.0, 0..4),
        outcomes in vec(any::<bool>(), 1..80),
        max_in_flight in 1u64..20,
        rule in prop_oneof![Just(""), Just("failed > 20%"), Just("failed > 0%"), Just("failed > 0.01%"), Just("failed > 3")],
    ) {
        let mut steps = steps;
        steps.sort_by(f64::total_cmp);
        steps.dedup();
        let letters = outcomes.len() as u64;
        let mut plan = plan(rule, &steps);
        (plan.selected, plan.max_in_flight) = (letters, max_in_flight);
        let mut view = view(Counts::default());
        let mut waits = 0;
        for turn in 0.. {
            prop_assert!(turn < 2000, "it does not end");
            prop_assert!(view.counts.in_flight() <= max_in_flight);
            prop_assert!(plan.canary.limit(view.step, letters).is_none_or(|limit| view.counts.dispatched <= limit));
            match next(&plan, &view) {
                Next::Dispatch if view.counts.dispatched == letters => view.is_walked = true,
                Next::Dispatch => view.counts.dispatched += 1,
                Next::Advance => view.step += 1,
                Next::Abort(_) => {
                    prop_assert!(!view.is_stopped && view.counts.failed > 0);
                    view.is_stopped = true;
                }
                Next::Finish => break,
                Next::Wait => {
                    waits += 1;
                    let ended = usize::try_from(view.counts.ended()).unwrap();
                    prop_assert!(view.counts.in_flight() > 0, "it waits for nothing after {waits}");
                    if outcomes[ended] { view.counts.resolved += 1 } else { view.counts.failed += 1 }
                }
            }
        }
        prop_assert_eq!(view.counts.in_flight(), 0);
        prop_assert!(view.is_stopped || view.counts.dispatched == letters);
    }

    /// What fires before there are letters enough would fire of that many, were all others handled. And what fails without end
    /// is stopped at the second failure, however small the share.
    #[test]
    fn a_share_is_never_judged_too_soon_nor_too_late(enough in 2u32..100_000, failed in 1u64..50, resolved in 0u64..2000) {
        let rule: AbortRule = format!("failed > {}%", 100.0 / f64::from(enough)).parse().unwrap();
        if rule.fires(&counts(1_000_000, resolved, failed), false).is_some() {
            let best = resolved.max(u64::from(enough).saturating_sub(failed));
            prop_assert!(rule.fires(&counts(1_000_000, best, failed), true).is_some(), "{enough} {failed} {best}");
        }
        prop_assert!(rule.fires(&counts(1_000_000, 0, 2), false).is_some());
    }

    #[test]
    fn no_text_makes_the_rule_panic(text in "\\PC{0,30}") {
        let _ = text.parse::<AbortRule>();
    }
}

#[test]
fn a_moment_that_is_given_back_is_the_next_ones() {
    let ms = Duration::from_millis;
    let mut pace = Pace::new("1/s".parse().unwrap(), ms(0));
    assert_eq!(pace.take(ms(0)), Ok(()));
    pace.give_back();
    assert_eq!(pace.take(ms(5)), Ok(()));
    assert_eq!(pace.take(ms(5)), Err(ms(1000)), "and no more than that");
}
