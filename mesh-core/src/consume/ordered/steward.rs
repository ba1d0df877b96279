//! Which partitions this process owns: it takes those that nobody has, up to its share, and gives up one at a time what is
//! more than that.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use mesh_proto::v1::{self, letter_record::Record};
use prost::Message as _;
use tokio::{sync::mpsc, time::MissedTickBehavior};

use super::{
    Ordered,
    blocks::{Blocks, owner_key},
    members::{self, Member},
    partition,
    turn::Term,
};
use crate::{
    bus::Subscription,
    clock::TaskScope,
    fault::Fault,
    policy::order::{Share, share},
    store::Written,
    subject::{PARTITIONS, Place, WIRE},
};

/// How long to wait before trying to take part again.
const AGAIN: Duration = Duration::from_millis(500);

/// A partition that this process has.
struct Part {
    /// The sequence of the owner record by which it is ours.
    fence: u64,
    give: TaskScope,
    /// Stops when it is not ours any more.
    lost: TaskScope,
    news: mpsc::UnboundedSender<Arc<str>>,
}

impl Part {
    /// Whether the owner's record is the one that was written when it was taken.
    fn is_still_of(&self, me: &str, partition: usize, (owners, revisions): (&[Option<String>], &[u64])) -> bool {
        let owner = owners.get(partition).and_then(Option::as_deref);
        owner == Some(me) && revisions.get(partition) == Some(&self.fence)
    }
}

/// Who stands as the owner of each partition.
struct Owners {
    owners: Vec<Option<String>>,
    /// The sequence of each record; 0: there is none.
    revisions: Vec<u64>,
    /// Whether anything that was under way there may have ended its process.
    in_doubt: Vec<bool>,
}

/// Takes part until the scope stops.
pub(super) async fn run(ordered: Arc<Ordered>) {
    let scope = ordered.worker.scope.clone();
    let mut letters = None;
    while !scope.is_stopping() {
        if letters.is_none() {
            letters = ordered.subscribe().await.ok();
        }
        match Member::join(&ordered.store, ordered.consumer(), ordered.settings.lease).await {
            Ok(member) => ordered.take_part(Arc::new(member), &mut letters).await,
            Err(error) => {
                tracing::warn!(%error, consumer = ordered.consumer(), "the order of keys waits for the broker");
                tokio::select! {
                    () = tokio::time::sleep(AGAIN) => {}
                    () = scope.stopped() => {}
                }
            }
        }
    }
}

async fn next(letters: &mut Option<Subscription>) -> Option<Arc<str>> {
    let Some(subscription) = letters else { return std::future::pending().await };
    let Some(message) = subscription.next().await else {
        // The connection is closed.
        *letters = None;
        return None;
    };
    let envelope = message.open().envelope;
    let record = v1::LetterRecord::decode(envelope.payload).ok().and_then(|record| record.record);
    match (Place::parse(&envelope.subject), record) {
        (Some(Place::DeadLetter { letter, .. }), Some(Record::Discarded(_) | Record::Resolved(_))) => {
            Some(letter.into())
        }
        _ => None,
    }
}

impl Ordered {
    /// News of this consumer's letters.
    async fn subscribe(&self) -> Result<Subscription, Fault> {
        let lane = &self.worker.lane;
        let subject = format!("{WIRE}.dead.{}.{}.{}.*", lane.region, lane.service, lane.consumer);
        self.worker.bus.subscribe(&subject, None).await
    }

    /// One membership, from joining to leaving or losing it.
    async fn take_part(self: &Arc<Self>, member: Arc<Member>, letters: &mut Option<Subscription>) {
        let (scope, lost, over) = (self.worker.scope.clone(), TaskScope::new(), TaskScope::new());
        self.worker.abort.spawn(stay(Arc::clone(&member), lost.clone(), over.clone()));
        let (ended, mut endings) = mpsc::unbounded_channel::<u32>();
        let mut parts: HashMap<u32, Part> = HashMap::new();
        let mut tick = tokio::time::interval(self.settings.look_every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = lost.stopped() => break,
                () = scope.stopped() => break,
                Some(partition) = endings.recv() => drop(parts.remove(&partition)),
                letter = next(letters) => {
                    if let Some(letter) = letter {
                        parts.values().for_each(|part| drop(part.news.send(Arc::clone(&letter))));
                    }
                }
                _ = tick.tick() => {
                    if let Err(error) = self.balance((&member, &lost), &mut parts, &ended).await {
                        tracing::debug!(%error, consumer = self.consumer(), "who owns what is not known now");
                    }
                }
            }
        }
        // Each gives up in its own time; the membership stays until all have.
        while !parts.is_empty() {
            if let Some(partition) = endings.recv().await {
                parts.remove(&partition);
            }
        }
        over.stop();
        member.leave().await;
    }

    /// Takes and gives up what the share says.
    async fn balance(
        self: &Arc<Self>,
        (member, lost): (&Arc<Member>, &TaskScope),
        parts: &mut HashMap<u32, Part>,
        ended: &mpsc::UnboundedSender<u32>,
    ) -> Result<(), Fault> {
        // Owners before members: who stands as an owner was a member before, so one whose record is not there now is gone. The
        // other way round an owner that has just joined would pass for one that is silent.
        let Owners { mut owners, revisions, in_doubt } = self.owners().await?;
        let mut alive = members::alive(&self.store, self.consumer()).await?;
        alive.insert(member.id.clone());
        for (partition, part) in parts.iter() {
            if !part.is_still_of(&member.id, *partition as usize, (&owners, &revisions)) && !part.lost.is_stopping() {
                tracing::debug!(partition, consumer = self.consumer(), "the partition stands as ours no more");
                part.lost.stop();
            }
        }
        // What stands as ours and is not (any more), since it could not be taken over, is taken anew or given up.
        let mut left = Vec::new();
        for (partition, owner) in (0..).zip(&mut owners) {
            if owner.as_deref() == Some(member.id.as_str()) && !parts.contains_key(&partition) {
                *owner = None;
                left.push(partition);
            }
        }
        let Share { take, give } = share(&member.id, &alive, &owners);
        if let Some(part) = give.and_then(|partition| parts.get(&u32::try_from(partition).ok()?)) {
            part.give.stop();
        }
        for partition in left.into_iter().filter(|left| !take.contains(&(*left as usize))) {
            // It is more than our share by now. As long as it stands as ours, nobody else takes it.
            let record = v1::PartitionRecord { owner: String::new(), at_ms: self.store.now_ms(), in_doubt: true };
            let revision = revisions.get(partition as usize).copied().unwrap_or_default();
            let key = owner_key(self.consumer(), partition);
            let written = self.store.put(&key, record.encode_to_vec().into(), revision, None).await;
            written.map_err(|error| error.into_fault("the end of the ownership of a partition"))?;
        }
        for partition in take {
            let (Some(revision), Some(in_doubt)) = (revisions.get(partition), in_doubt.get(partition)) else {
                continue;
            };
            let Ok(number) = u32::try_from(partition) else { continue };
            if lost.is_stopping() || parts.contains_key(&number) || !member.is_live() {
                continue;
            }
            let record = v1::PartitionRecord { owner: member.id.clone(), at_ms: self.store.now_ms(), in_doubt: false };
            let key = owner_key(self.consumer(), number);
            let written = self.store.put(&key, record.encode_to_vec().into(), *revision, None).await;
            match written.map_err(|error| error.into_fault("the ownership of a partition"))? {
                Written::At(fence) => {
                    let part = self.own((number, *in_doubt), fence, (member, lost), ended);
                    parts.insert(number, part);
                }
                Written::Conflict => {}
            }
        }
        Ok(())
    }

    /// What the owner records say, read at their stream's leader.
    async fn owners(&self) -> Result<Owners, Fault> {
        let (mut owners, mut revisions) = (vec![None; PARTITIONS as usize], vec![0; PARTITIONS as usize]);
        let mut in_doubt = vec![false; PARTITIONS as usize];
        for (key, entry) in self.store.list(&format!("owner.{}.*", self.consumer())).await? {
            let Some(partition) = key.rsplit('.').next().and_then(|token| token.parse::<usize>().ok()) else {
                continue;
            };
            let record = v1::PartitionRecord::decode(entry.value).unwrap_or_default();
            if let Some(in_doubt) = in_doubt.get_mut(partition) {
                // Who stands there and has it no more did not say what became of what it had begun.
                *in_doubt = record.in_doubt || !record.owner.is_empty();
            }
            if let (Some(owner), Some(revision)) = (owners.get_mut(partition), revisions.get_mut(partition)) {
                *owner = Some(record.owner).filter(|owner| !owner.is_empty());
                *revision = entry.revision;
            }
        }
        Ok(Owners { owners, revisions, in_doubt })
    }

    fn own(
        self: &Arc<Self>,
        (number, in_doubt): (u32, bool),
        fence: u64,
        (member, lost): (&Arc<Member>, &TaskScope),
        ended: &mpsc::UnboundedSender<u32>,
    ) -> Part {
        let (reports, heard) = mpsc::unbounded_channel();
        let (news, letters) = mpsc::unbounded_channel();
        let give = TaskScope::new();
        let blocks = Blocks::new(self, number, fence);
        let own_lost = TaskScope::new();
        let term = Term {
            ordered: Arc::clone(self),
            blocks,
            in_doubt,
            member: Arc::clone(member),
            lost: own_lost.clone(),
            give: give.clone(),
            reports,
            waiting: AtomicUsize::new(0),
            unheard: AtomicUsize::new(0),
        };
        let part = Part { fence, give: give.clone(), lost: own_lost.clone(), news };
        let (ended, all_lost, giving) = (ended.clone(), lost.clone(), give);
        self.worker.scope.spawn(async move {
            let owning = partition::own(Arc::new(term), heard, number, giving, letters);
            tokio::pin!(owning);
            tokio::select! {
                () = &mut owning => {}
                () = all_lost.stopped() => {
                    own_lost.stop();
                    owning.await;
                }
            }
            // Nobody waits for it only when the process is gone.
            let _ = ended.send(number);
        });
        part
    }
}

/// Keeps the membership alive; when it is lost, says so.
async fn stay(member: Arc<Member>, lost: TaskScope, over: TaskScope) {
    tokio::select! {
        () = over.stopped() => {}
        () = member.stay() => {
            tracing::warn!("this process was silent for too long: others may have its partitions now");
            lost.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_ours_as_long_as_the_owner_record_is_the_one_that_we_wrote() {
        let (news, _heard) = mpsc::unbounded_channel();
        let part = Part { fence: 7, give: TaskScope::new(), lost: TaskScope::new(), news };
        let (owner, nobody) = (|name: &str| vec![None, Some(name.to_owned())], vec![None, None]);
        assert!(part.is_still_of("me", 1, (&owner("me"), &[0, 7])));
        assert!(!part.is_still_of("me", 1, (&owner("other"), &[0, 8])));
        assert!(!part.is_still_of("me", 1, (&owner("me"), &[0, 9])), "taken by us in another turn");
        assert!(!part.is_still_of("me", 1, (&nobody, &[0, 0])));
    }
}
