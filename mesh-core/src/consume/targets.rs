//! The targets of one consumer, and what was put aside for each of them and waits to be called back.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    clock::Clock,
    delayed::FALLS_DUE_MS,
    policy::isolation::{Admit, Aside, Asking, Came, End, IsolationRule, Room, Target},
};

/// Targets that are remembered at once; idle ones are forgotten beyond it.
const MAX_TARGETS: usize = 10_000;
/// Copies on the lane that are remembered, of all targets: about 100 bytes each. One target has at most as many as are left for
/// all others; what finds no room comes back soon, and in vain, as a retry does.
const MAX_SHELVED: usize = 200_000;
/// A wait for a place of a target looks again so often, whether it has become slow.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The targets of one consumer.
pub(super) struct Targets {
    rule: IsolationRule,
    places: usize,
    /// How many deliveries are here at most, at work or waiting.
    hand: usize,
    clock: Clock,
    running: AtomicUsize,
    /// How many wait for a place of their target.
    waiting: AtomicUsize,
    known: Mutex<All>,
    holder: Mutex<Option<Holder>>,
    /// Rings when something is put aside and others don't know of this process.
    unknown: Notify,
    ended: Notify,
    /// Rings when something is to be called back.
    called: Notify,
}

#[derive(Default)]
struct All {
    by_name: HashMap<String, Known>,
    /// How many lie on all shelves.
    shelved: usize,
    calls: Vec<Called>,
}

#[derive(Default)]
struct Known {
    target: Target,
    /// What was put aside, the oldest first.
    shelf: VecDeque<Shelved>,
}

struct Shelved {
    /// The last token of where its copy waits.
    unique: String,
    /// When it comes back by itself.
    due_ms: i64,
}

/// As whom others know this process, and until when they certainly do.
struct Holder {
    id: Arc<str>,
    until: Instant,
}

/// What is to wait on the lane. `holder`: as whom others know this process, where they do.
pub(super) struct Refused {
    pub(super) aside: Aside,
    pub(super) holder: Option<Arc<str>>,
}

/// What waits to be called back by its target.
#[derive(Clone)]
pub(super) struct Shelf {
    pub(super) target: String,
    pub(super) holder: Option<Arc<str>>,
}

/// A copy that is to come back at another time.
pub(super) struct Called {
    pub(super) target: String,
    pub(super) unique: String,
    /// When it is to be back; Unix milliseconds.
    pub(super) at_ms: i64,
    /// When it comes back by itself.
    due_ms: i64,
}

/// What is asked for a place.
#[derive(Clone, Copy)]
pub(super) struct Asks {
    /// Nobody began it, so it may wait for long.
    pub(super) never_begun: bool,
    /// When it is too late, Unix milliseconds.
    pub(super) deadline_ms: Option<i64>,
}

/// A delivery that may begin, until it is told what came of it.
pub(super) struct Admitted<'a> {
    targets: &'a Targets,
    target: String,
    began_ms: i64,
    came: Came,
}

impl Targets {
    /// Of a consumer that handles so many at once, and has so many here, waiting or at work.
    pub(super) fn new(rule: IsolationRule, (places, hand): (usize, usize), clock: Clock) -> Targets {
        let (known, ended, called) = (Mutex::default(), Notify::new(), Notify::new());
        let (running, waiting) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Targets {
            rule,
            places,
            hand,
            clock,
            running,
            waiting,
            known,
            holder: Mutex::default(),
            unknown: Notify::new(),
            ended,
            called,
        }
    }

    /// The limits.
    pub(super) fn rule(&self) -> &IsolationRule {
        &self.rule
    }

    /// Others know this process by a name until then, and call back in its place should it end. `None`: they don't.
    pub(super) fn set_known(&self, known: Option<(Arc<str>, Instant)>) {
        let holder = known.map(|(id, until)| Holder { id, until });
        *self.holder.lock().unwrap_or_else(PoisonError::into_inner) = holder;
    }

    /// As whom others know this process now.
    pub(super) fn holder(&self) -> Option<Arc<str>> {
        let holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        holder.as_ref().filter(|holder| Instant::now() < holder.until).map(|holder| Arc::clone(&holder.id))
    }

    /// Waits until something is put aside of which others would not know. Cancel-safe.
    pub(super) async fn unknown(&self) {
        self.unknown.notified().await;
    }

    /// Waits for a place of the target. `Err`: it is to wait on the lane.
    pub(super) async fn admit(&self, target: &str, asks: Asks) -> Result<Admitted<'_>, Refused> {
        let mut waits = None;
        loop {
            let ended = self.ended.notified();
            let now_ms = self.clock.now_ms();
            let holder = self.holder();
            match self.ask(target, (asks, holder.is_some()), now_ms) {
                Admit::Begin => {
                    let target = target.to_owned();
                    return Ok(Admitted { targets: self, target, began_ms: now_ms, came: Came::Nothing });
                }
                // It would be too late when it comes back, and a place may become free before.
                Admit::PutAside(aside) if !aside.is_down && ends_between(asks.deadline_ms, now_ms, &aside) => {}
                Admit::PutAside(aside) => {
                    if holder.is_none() && aside.waits_for_call {
                        self.unknown.notify_one();
                    }
                    return Err(Refused { aside, holder });
                }
                Admit::Wait => {}
            }
            waits.get_or_insert_with(|| Waits::new(self));
            // Places become free when attempts end; without an end, the target is found slow at the next look.
            let _ = tokio::time::timeout(LOOK_AGAIN, ended).await;
        }
    }

    fn ask(&self, target: &str, (asks, is_known): (Asks, bool), now_ms: i64) -> Admit {
        let mut all = self.lock();
        if all.by_name.len() >= MAX_TARGETS && !all.by_name.contains_key(target) {
            all.forget_idle(&self.rule, now_ms);
        }
        let running = self.running.load(Ordering::Acquire);
        let free = self.places.saturating_sub(running);
        let in_hand = running.saturating_add(self.waiting.load(Ordering::Acquire));
        let room = Room { places: self.places, free, hand: self.hand, in_hand };
        let left = MAX_SHELVED.saturating_sub(all.shelved);
        let known = all.by_name.entry(target.to_owned()).or_default();
        let aside = known.shelf.len();
        let asking = Asking { may_wait: asks.never_begun && aside < left, aside, is_known };
        let admit = known.target.admit(&self.rule, room, asking, now_ms);
        if admit == Admit::Begin {
            self.running.fetch_add(1, Ordering::AcqRel);
        }
        admit
    }

    /// A copy waits on the lane until `due_ms`, unless its target calls it back.
    pub(super) fn shelve(&self, target: &str, unique: String, due_ms: i64) {
        let now_ms = self.clock.now_ms();
        if due_ms <= now_ms.saturating_add(FALLS_DUE_MS) {
            return;
        }
        let mut all = self.lock();
        all.forget_returned(target, now_ms);
        let shelf = &mut all.by_name.entry(target.to_owned()).or_default().shelf;
        // Nearly always the last: only what nobody else knows of comes back sooner.
        let place = shelf.partition_point(|before| before.due_ms <= due_ms);
        shelf.insert(place, Shelved { unique, due_ms });
        all.shelved += 1;
    }

    /// What is to be called back now; waits until there is something. Cancel-safe.
    pub(super) async fn called(&self) -> Vec<Called> {
        loop {
            let called = std::mem::take(&mut self.lock().calls);
            if !called.is_empty() {
                return called;
            }
            self.called.notified().await;
        }
    }

    /// To be called each second: calls some where no answer does.
    pub(super) fn remind(&self) {
        let now_ms = self.clock.now_ms();
        let mut all = self.lock();
        if all.shelved == 0 {
            return;
        }
        let waiting = all.by_name.iter().filter(|(_, known)| !known.shelf.is_empty());
        for name in waiting.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            all.forget_returned(&name, now_ms);
            let Some(known) = all.by_name.get_mut(&name) else { continue };
            let calls = known.target.remind(&self.rule, known.shelf.len(), now_ms);
            all.call(&name, (calls, now_ms));
        }
        drop(all);
        self.called.notify_one();
    }

    /// Another one in the place of one that came back by itself.
    pub(super) fn instead(&self, gone: Called) -> Option<Called> {
        let mut all = self.lock();
        let next = all.take(&gone.target, self.clock.now_ms())?;
        (gone.at_ms < next.due_ms).then_some(Called { unique: next.unique, due_ms: next.due_ms, ..gone })
    }

    /// Whether it may be called still: it has waited for its turn.
    pub(super) fn may_call(&self, called: &Called) -> bool {
        self.clock.now_ms().saturating_add(FALLS_DUE_MS) < called.due_ms
    }

    /// It could not be called back: the next answer calls it again.
    pub(super) fn not_called(&self, called: Called) {
        let mut all = self.lock();
        let shelf = &mut all.by_name.entry(called.target).or_default().shelf;
        shelf.push_front(Shelved { unique: called.unique, due_ms: called.due_ms });
        all.shelved += 1;
    }

    /// This process goes: at most so many are to come back now, to whoever is at work then, first those of targets that answer. The
    /// others are called by another process when this one is gone.
    pub(super) fn leave(&self, most: usize) -> Vec<Called> {
        let now_ms = self.clock.now_ms();
        let mut all = self.lock();
        let mut called = std::mem::take(&mut all.calls);
        let mut names: Vec<String> = all.by_name.keys().cloned().collect();
        names.sort_by_cached_key(|name| all.by_name.get(name).is_some_and(|known| known.target.is_down(&self.rule)));
        let mut at_ms = now_ms;
        for target in names {
            while called.len() < most
                && let Some(Shelved { unique, due_ms }) = all.take(&target, now_ms)
            {
                called.push(Called { target: target.clone(), unique, at_ms, due_ms });
                at_ms += 2;
            }
        }
        called
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the deadline comes after now, and before it is back.
fn ends_between(deadline_ms: Option<i64>, now_ms: i64, aside: &Aside) -> bool {
    deadline_ms.is_some_and(|deadline_ms| now_ms < deadline_ms && deadline_ms <= aside.earliest_ms)
}

impl All {
    /// The oldest that still waits on the shelf.
    fn take(&mut self, target: &str, now_ms: i64) -> Option<Shelved> {
        self.forget_returned(target, now_ms);
        let next = self.by_name.get_mut(target)?.shelf.pop_front()?;
        self.shelved = self.shelved.saturating_sub(1);
        Some(next)
    }

    /// What came back by itself, or is about to, is no longer there to be called. They lie about in the order in which they do.
    fn forget_returned(&mut self, target: &str, now_ms: i64) {
        let Some(known) = self.by_name.get_mut(target) else { return };
        while known.shelf.front().is_some_and(|first| first.due_ms <= now_ms.saturating_add(FALLS_DUE_MS)) {
            known.shelf.pop_front();
            self.shelved = self.shelved.saturating_sub(1);
        }
    }

    fn forget_idle(&mut self, rule: &IsolationRule, now_ms: i64) {
        self.by_name.retain(|_, known| !known.target.is_idle(rule, known.shelf.len(), now_ms));
        self.shelved = self.by_name.values().map(|known| known.shelf.len()).sum();
    }

    /// An attempt of the target has ended: what is to be called back joins the calls.
    fn ended(&mut self, targets: &Targets, of: &Admitted<'_>) {
        let now_ms = targets.clock.now_ms();
        self.forget_returned(&of.target, now_ms);
        let Some(known) = self.by_name.get_mut(&of.target) else { return };
        let end = End { began_ms: of.began_ms, came: of.came, aside: known.shelf.len() };
        let calls = known.target.ended(&targets.rule, end, (now_ms, fastrand::f64()));
        self.call(&of.target, (calls, now_ms));
    }

    /// The oldest of the target are to be called, one for each moment. What is due before that moment comes by itself.
    fn call(&mut self, target: &str, (moments, now_ms): (Vec<i64>, i64)) {
        for at_ms in moments {
            while let Some(Shelved { unique, due_ms }) = self.take(target, now_ms) {
                if at_ms < due_ms {
                    self.calls.push(Called { target: target.to_owned(), unique, at_ms, due_ms });
                    break;
                }
            }
        }
    }
}

/// A delivery that waits for a place, until it is dropped.
struct Waits<'a>(&'a Targets);

impl<'a> Waits<'a> {
    fn new(targets: &'a Targets) -> Waits<'a> {
        targets.waiting.fetch_add(1, Ordering::AcqRel);
        Waits(targets)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Admitted<'_> {
    pub(super) fn came(&mut self, came: Came) {
        self.came = came;
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        let mut all = self.targets.lock();
        all.ended(self.targets, self);
        let has_called = !all.calls.is_empty();
        drop(all);
        self.targets.running.fetch_sub(1, Ordering::AcqRel);
        self.targets.ended.notify_waiters();
        if has_called {
            self.targets.called.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
        time::UNIX_EPOCH,
    };

    use super::*;

    const FIRST: Asks = Asks { never_begun: true, deadline_ms: None };

    /// Targets of a consumer with 16 places, at a time that is moved by hand.
    fn targets() -> (Targets, Arc<AtomicU64>) {
        let now_ms = Arc::new(AtomicU64::new(1000));
        let of = Arc::clone(&now_ms);
        let clock = Clock::from_fn(move || UNIX_EPOCH + Duration::from_millis(of.load(Ordering::Relaxed)));
        (Targets::new(IsolationRule::default(), (16, 32), clock), now_ms)
    }

    async fn fails(targets: &Targets) {
        fails_of(targets, "a").await;
    }

    async fn fails_of(targets: &Targets, target: &str) {
        for _ in 0..IsolationRule::default().failures {
            targets.admit(target, FIRST).await.ok().unwrap().came(Came::Failed);
        }
    }

    #[tokio::test]
    async fn what_is_shelved_is_called_back_by_answers_the_oldest_first_unless_it_came_back() {
        let (targets, now_ms) = targets();
        fails(&targets).await;
        assert!(targets.admit("a", FIRST).await.err().unwrap().aside.is_down);
        for n in 1..=6 {
            targets.shelve("a", n.to_string(), 30_000 + n * 1000);
        }
        now_ms.store(21_500, Ordering::Relaxed);
        targets.admit("a", FIRST).await.ok().unwrap().came(Came::Answered);
        let called = targets.called().await;
        let uniques: Vec<_> = called.iter().map(|called| called.unique.as_str()).collect();
        assert_eq!(uniques, ["2", "3"], "the first is about to come back by itself");
        let mut called = called.into_iter();
        let (second, third) = (called.next().unwrap(), called.next().unwrap());
        assert_eq!(targets.instead(second).unwrap().unique, "4");
        targets.not_called(third);
        targets.admit("a", FIRST).await.ok().unwrap().came(Came::Answered);
        let uniques: Vec<_> = targets.called().await.into_iter().map(|called| called.unique).collect();
        assert_eq!(uniques, ["3", "5"]);
    }

    #[tokio::test]
    async fn where_the_answers_go_to_another_process_one_is_called_all_the_same() {
        let (targets, now_ms) = targets();
        fails(&targets).await;
        targets.shelve("a", "1".into(), 100_000);
        now_ms.store(60_000, Ordering::Relaxed);
        targets.remind();
        assert_eq!(targets.called().await[0].unique, "1");
    }

    #[tokio::test]
    async fn who_leaves_calls_back_what_it_can() {
        let (targets, _) = targets();
        fails(&targets).await;
        for n in 0..5 {
            targets.shelve("a", n.to_string(), 100_000);
        }
        assert_eq!(targets.leave(3).len(), 3);
        assert_eq!(targets.leave(3).len(), 2);
    }

    #[tokio::test]
    async fn one_target_leaves_room_on_the_shelves_for_others_and_what_finds_none_comes_back_soon() {
        let (targets, _) = targets();
        fails(&targets).await;
        let mut aside = 0;
        loop {
            let put = targets.admit("a", FIRST).await.err().unwrap().aside;
            if !put.waits_for_call && aside > 0 {
                break;
            }
            targets.shelve("a", aside.to_string(), i64::MAX);
            aside += 1;
        }
        assert_eq!(aside, MAX_SHELVED / 2);
        fails_of(&targets, "b").await;
        targets.admit("b", FIRST).await.err().unwrap(); // For the probe.
        assert!(targets.admit("b", FIRST).await.err().unwrap().aside.waits_for_call);
    }

    #[tokio::test]
    async fn none_is_called_for_a_moment_at_which_it_is_back_by_itself() {
        let (targets, _) = targets();
        fails(&targets).await;
        targets.shelve("a", "1".into(), 12_000);
        targets.shelve("a", "2".into(), 90_000);
        targets.lock().call("a", (vec![20_000], 1000));
        assert_eq!(targets.called().await[0].unique, "2");
    }

    #[tokio::test(start_paused = true)]
    async fn what_would_be_too_late_on_the_lane_of_a_slow_target_waits_here() {
        let (targets, now_ms) = targets();
        let mut running = Vec::new();
        while let Ok(Ok(one)) = tokio::time::timeout(Duration::from_millis(1), targets.admit("a", FIRST)).await {
            running.push(one);
        }
        now_ms.store(2000, Ordering::Relaxed);
        assert!(!targets.admit("a", FIRST).await.err().unwrap().aside.is_down, "it is slow");
        let urgent = targets.admit("a", Asks { deadline_ms: Some(2200), ..FIRST });
        tokio::pin!(urgent);
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut urgent).await.is_err(), "it waits");
        running.pop();
        assert!(urgent.await.is_ok());
    }
}
