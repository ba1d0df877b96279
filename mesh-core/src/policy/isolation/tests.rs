use super::*;
use proptest::prelude::*;

const PLACES: usize = 64;
const FREE: Room = Room { places: PLACES, free: PLACES, hand: 2 * PLACES, in_hand: 0 };
const FIRST: Asking = Asking { may_wait: true, aside: 100, is_known: true };
const RETRY: Asking = Asking { may_wait: false, aside: 100, is_known: true };

/// With so many places free, and nothing that waits.
fn room(free: usize) -> Room {
    Room { free, in_hand: PLACES - free, ..FREE }
}

/// First deliveries of one target until none more is begun; how many run then.
fn fill(target: &mut Target, mut free: usize, now_ms: i64) -> usize {
    let mut begun = 0;
    while free > 0 && target.admit(&IsolationRule::default(), room(free), FIRST, now_ms) == Admit::Begin {
        begun += 1;
        free -= 1;
    }
    begun
}

fn end(target: &mut Target, began_ms: i64, came: Came, now_ms: i64) -> Vec<i64> {
    target.ended(&IsolationRule::default(), End { began_ms, came, aside: 100 }, (now_ms, 1.0))
}

fn aside_of(admit: Admit) -> Aside {
    match admit {
        Admit::PutAside(aside) => aside,
        other => panic!("{other:?}"),
    }
}

/// One that failed as often as it takes, at `now_ms`.
fn down(now_ms: i64) -> Target {
    let mut target = Target::default();
    for _ in 0..IsolationRule::default().failures {
        assert_eq!(target.admit(&IsolationRule::default(), FREE, FIRST, now_ms), Admit::Begin);
        let nothing_aside = End { began_ms: now_ms, came: Came::Failed, aside: 0 };
        target.ended(&IsolationRule::default(), nothing_aside, (now_ms, 1.0));
    }
    target
}

#[test]
fn one_target_that_hangs_leaves_places_free_and_its_queue_goes_to_the_lane() {
    let (rule, mut target) = (IsolationRule::default(), Target::default());
    let begun = fill(&mut target, PLACES, 0);
    assert!((44..=52).contains(&begun), "{begun} of {PLACES}");
    let left = room(PLACES - begun);
    assert_eq!(target.admit(&rule, left, FIRST, 100), Admit::Wait, "it may only be busy");
    let slow = aside_of(target.admit(&rule, left, FIRST, 300));
    assert!(slow.due_ms > 300 && !slow.is_down && slow.waits_for_call);
    assert_eq!(Target::default().admit(&rule, left, FIRST, 300), Admit::Begin, "another target finds a place");
}

#[test]
fn one_that_refuses_is_probed_one_at_a_time_and_comes_back_with_its_first_answer() {
    let (rule, mut target) = (IsolationRule::default(), down(0));
    assert!(aside_of(target.admit(&rule, FREE, FIRST, 500)).due_ms >= 1000);
    assert_eq!(target.admit(&rule, FREE, FIRST, 1000), Admit::Begin, "a probe");
    assert!(aside_of(target.admit(&rule, FREE, FIRST, 1000)).is_down, "one at a time");
    end(&mut target, 1000, Came::Failed, 1000);
    aside_of(target.admit(&rule, FREE, FIRST, 2500)); // The pause has doubled.
    assert_eq!(target.admit(&rule, FREE, FIRST, 3000), Admit::Begin);
    end(&mut target, 3000, Came::Answered, 3000);
    assert!(fill(&mut target, PLACES, 3001) > 40, "all at once");
}

#[test]
fn a_blip_under_many_attempts_is_one_pause() {
    let (rule, mut target) = (IsolationRule::default(), Target::default());
    for _ in 0..fill(&mut target, PLACES, 0) {
        end(&mut target, 0, Came::Failed, 10);
    }
    assert_eq!(target.admit(&rule, FREE, FIRST, 1010), Admit::Begin, "a second later");
    end(&mut target, 1010, Came::Failed, 1010);
    aside_of(target.admit(&rule, FREE, FIRST, 3000));
    assert_eq!(target.admit(&rule, FREE, FIRST, 3010), Admit::Begin, "only a probe that fails doubles the pause");
}

#[test]
fn what_began_before_the_pause_and_hangs_keeps_no_probe_away_and_a_probe_that_hangs_only_for_a_while() {
    let (rule, mut target) = (IsolationRule::default(), Target::default());
    assert_eq!(target.admit(&rule, FREE, FIRST, 0), Admit::Begin, "it hangs");
    for _ in 0..rule.failures {
        assert_eq!(target.admit(&rule, FREE, FIRST, 1), Admit::Begin);
        end(&mut target, 1, Came::Failed, 2);
    }
    assert_eq!(target.admit(&rule, FREE, FIRST, 1500), Admit::Begin, "a probe, which hangs too");
    assert!(aside_of(target.admit(&rule, FREE, FIRST, 20_000)).waits_for_call, "none is to come back meanwhile");
    assert_eq!(target.admit(&rule, FREE, FIRST, 31_501), Admit::Begin, "it hangs for long");
    aside_of(target.admit(&rule, FREE, FIRST, 90_000)); // Two are enough.
}

#[test]
fn while_a_probe_hangs_retries_come_back_more_and_more_seldom() {
    let (rule, mut target) = (IsolationRule::default(), down(0));
    assert_eq!(target.admit(&rule, FREE, FIRST, 1000), Admit::Begin, "the probe, which hangs");
    let (mut now_ms, mut returns) = (1000, 0);
    while now_ms < 11_000 {
        now_ms = aside_of(target.admit(&rule, FREE, RETRY, now_ms)).due_ms;
        returns += 1;
    }
    assert!((4..=7).contains(&returns), "{returns} returns in ten seconds");
}

#[test]
fn one_that_hangs_is_found_slow_before_what_waits_for_it_fills_the_hand() {
    let rule = IsolationRule::default();
    let mut hangs = Target::default();
    let (mut free, mut waiting, mut aside_at_ms) = (PLACES, 0, None);
    // Something of it comes every other millisecond.
    for now_ms in (0..400).step_by(2) {
        let room = Room { in_hand: PLACES - free + waiting, ..room(free) };
        match hangs.admit(&rule, room, FIRST, now_ms) {
            Admit::Begin => free -= 1,
            Admit::Wait => waiting += 1,
            Admit::PutAside(_) => {
                aside_at_ms = Some(now_ms);
                break;
            }
        }
    }
    assert!(aside_at_ms.unwrap() < 200 && PLACES - free + waiting < FREE.hand / 2 + 8, "{aside_at_ms:?}, {waiting}");
    let mut busy = Target::default();
    let begun = fill(&mut busy, PLACES, 0);
    end(&mut busy, 0, Came::Answered, 80);
    assert_eq!(
        busy.admit(&rule, Room { free: 0, in_hand: FREE.hand, ..FREE }, FIRST, 100),
        Admit::Wait,
        "{begun} are at work, and end"
    );
    let mut quick = Target::default();
    let begun = fill(&mut quick, PLACES, 0);
    let full = Room { in_hand: FREE.hand, ..room(PLACES - begun) };
    assert_eq!(quick.admit(&rule, full, FIRST, 24), Admit::Wait, "one that answers within some milliseconds");
}

#[test]
fn one_comes_back_for_the_probe_and_the_others_wait_to_be_called() {
    let (rule, mut target) = (IsolationRule::default(), down(0));
    let asides: Vec<_> = (0..50).map(|_| aside_of(target.admit(&rule, FREE, FIRST, 0))).collect();
    let soon: Vec<_> = asides.iter().filter(|aside| !aside.waits_for_call).map(|aside| aside.due_ms).collect();
    assert_eq!(soon.len(), 1, "{asides:?}");
    assert!((1000..2000).contains(&soon[0]));
    let late: Vec<_> = asides.iter().filter(|aside| aside.waits_for_call).map(|aside| aside.due_ms).collect();
    assert!(late.windows(2).all(|pair| pair[1] - pair[0] == 2), "spaced: {late:?}");
    assert!(late[0] >= millis(rule.aside));
    let retry = aside_of(target.admit(&rule, FREE, RETRY, 0));
    assert!(!retry.waits_for_call && retry.due_ms < 2000, "a retry comes back soon");
}

#[test]
fn a_failed_probe_calls_one_for_the_next_and_each_answer_calls_two() {
    let (rule, mut target) = (IsolationRule::default(), down(0));
    assert_eq!(target.admit(&rule, FREE, FIRST, 1000), Admit::Begin);
    assert_eq!(end(&mut target, 1000, Came::Failed, 1000), [3000], "when it may be probed again");
    assert_eq!(target.admit(&rule, FREE, FIRST, 3000), Admit::Begin);
    assert_eq!(end(&mut target, 3000, Came::Answered, 3100), [3100, 3102]);
    let mut none = down(0);
    none.ended(&rule, End { began_ms: 0, came: Came::Answered, aside: 0 }, (5000, 0.5));
    assert_eq!(none.called_ms, 0, "what is not there is not counted");
}

#[test]
fn where_the_answers_go_elsewhere_more_is_called_each_second_until_it_is_too_much() {
    let (rule, mut target) = (IsolationRule::default(), Target::default());
    let mut aside = 1000;
    let seconds = (1..60).find(|second| {
        aside -= target.remind(&rule, aside, second * 1000).len();
        aside == 0
    });
    assert!(seconds.unwrap() < 12, "{aside} are left");
    let mut hangs = Target::default();
    let begun = fill(&mut hangs, PLACES, 0);
    for second in 1..10 {
        aside_of(hangs.admit(&rule, room(PLACES - begun), FIRST, second * 1000));
        assert_eq!(hangs.remind(&rule, 100, second * 1000).len(), 1);
    }
    let mut down = down(60_000);
    assert_eq!(down.remind(&rule, 3, 60_000), [61_000], "for the probe");
    assert!(down.remind(&rule, 3, 65_000).is_empty());
    assert_eq!(down.remind(&rule, 3, 66_000), [66_000]);
    assert!(down.remind(&rule, 0, 90_000).is_empty(), "nothing waits");
}

#[test]
fn every_end_that_is_no_answer_calls_one_if_nothing_else_comes() {
    for came in [Came::Failed, Came::Nothing] {
        let mut target = Target::default();
        assert_eq!(end(&mut target, 0, came, 5000), [5000]);
        assert!(end(&mut target, 0, came, 5000).is_empty(), "it is on its way");
    }
    let mut down = down(0);
    assert_eq!(end(&mut down, 0, Came::Nothing, 500), [1000], "for the probe");
}

#[test]
fn no_more_is_called_than_may_come_back_in_a_second() {
    let (rule, mut target) = (IsolationRule { returns_per_s: 10, ..IsolationRule::default() }, Target::default());
    let ended = End { began_ms: 0, came: Came::Answered, aside: 1000 };
    let called: usize = (0..100).map(|_| target.ended(&rule, ended, (0, 0.0)).len()).sum();
    assert_eq!(called, 10);
}

#[test]
fn even_with_few_places_a_target_that_hangs_leaves_one_and_a_failure_long_ago_is_forgotten() {
    let rule = IsolationRule::default();
    let of_three = |free| Room { places: 3, free, hand: 6, in_hand: 3 - free };
    let mut target = Target::default();
    let mut free = 3;
    while free > 0 && target.admit(&rule, of_three(free), FIRST, 0) == Admit::Begin {
        free -= 1;
    }
    assert!(free >= 1);
    let mut once = Target::default();
    assert_eq!(once.admit(&rule, of_three(3), FIRST, 0), Admit::Begin);
    end(&mut once, 0, Came::Failed, 0);
    assert!(once.is_idle(&rule, 0, 40_000));
    assert_eq!(Target::default().admit(&rule, of_three(0), FIRST, 0), Admit::Wait, "no place at all");
}

proptest! {
    /// Whatever three targets do that never end, one that is healthy finds a place.
    #[test]
    fn somebody_who_is_healthy_finds_a_place(order in proptest::collection::vec(0usize..3, 0..400)) {
        let rule = IsolationRule::default();
        let mut targets: Vec<Target> = (0..3).map(|_| Target::default()).collect();
        let mut free = PLACES;
        for which in order {
            if free > 0 && targets[which].admit(&rule, room(free), FIRST, 0) == Admit::Begin {
                free -= 1;
            }
        }
        prop_assert!(free >= 1, "no place is left");
    }

    /// Whatever a target does: where something of it waits to be called, something of it is to come back, or came back a
    /// moment ago. What is called may vanish: somebody else settled it, or it ended in another process.
    #[test]
    fn a_target_with_something_aside_is_always_asked_again(
        steps in proptest::collection::vec((0i64..1000, 0u8..6, any::<bool>()), 1..300),
    ) {
        let rule = IsolationRule::default();
        let (mut target, mut now_ms, mut shelf, mut running) = (Target::default(), 0, 0usize, Vec::new());
        for (passed_ms, what, may_wait) in steps {
            let second = now_ms / 1000;
            now_ms += passed_ms;
            let mut called = Vec::new();
            if now_ms / 1000 > second {
                called.extend(target.remind(&rule, shelf, now_ms));
                shelf -= called.len();
            }
            let came = [Came::Answered, Came::Failed, Came::Failed, Came::Nothing].get(usize::from(what));
            if let (Some(came), Some(began_ms)) = (came, running.pop()) {
                called = target.ended(&rule, End { began_ms, came: *came, aside: shelf }, (now_ms, 0.5));
                prop_assert!(called.len() <= shelf);
                shelf -= called.len();
            }
            let free = PLACES - running.len();
            match target.admit(&rule, room(free), Asking { may_wait, aside: shelf, is_known: now_ms % 3 > 0 }, now_ms) {
                Admit::Begin => running.push(now_ms),
                Admit::PutAside(aside) => shelf += usize::from(aside.waits_for_call),
                Admit::Wait => {}
            }
            let back_ms = target.soon_ms.max(target.called_ms);
            let begun_ms = running.last().copied().unwrap_or(0);
            let longest_ms = REMINDED_AFTER_MS + 1000;
            prop_assert!(shelf == 0 || back_ms.max(begun_ms).max(target.probe_at_ms) + longest_ms >= now_ms);
        }
    }
}
