//! The keeper's index, where one answers and can say what is asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mesh_core::{
    bus::Bus,
    dead_letter::{Facts, Fingerprint, Letter, LetterState},
    fault::{Code, Effect, Fault, Reason},
    operate::{
        keeper::ask,
        letters::{self, Group, Groups, Selection, Spot},
    },
    proto::v1::{LetterGroup, LetterQuery},
};

use super::{Output, mention, which::tell_doubtful};

/// Groups of one answer, at most: a person reads no more.
const GROUPS: u32 = 1000;
/// Beginnings of ids that the index is asked for, at most: each is a question.
const ASKED: usize = 32;
/// How long an index may take for one answer. It takes milliseconds; one that hangs must not keep a person waiting.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Where at most `limit` letters lie, the oldest capture first, and how many there are. `None`: only reading every letter says.
pub(super) async fn oldest(
    bus: &Bus,
    selection: &Selection,
    limit: usize,
    output: &Output,
) -> Result<Option<(Vec<Spot>, usize)>, Fault> {
    let query = if limit == 0 { None } else { ask::query(selection) };
    let Some(query) = query else { return Ok(None) };
    heard(pages(bus, &query, limit).await, output)
}

/// The letters whose ids begin so, each once, in the order of the ids.
pub(super) async fn find_each(bus: &Bus, ids: &[String]) -> Result<Vec<Letter>, Fault> {
    letters::find_each(bus, &whole(bus, ids).await).await
}

/// The whole ids, where a keeper knows the one letter that each means. What it does not know is left as it is: without the index,
/// the heads of all letters are read, and say what is wrong with it.
async fn whole(bus: &Bus, ids: &[String]) -> Vec<String> {
    let mut all = ids.to_vec();
    if ids.len() <= ASKED {
        for id in all.iter_mut().filter(|id| id.len() < letters::ID_LENGTH) {
            // One that is wrong is not asked for, and where one is not known the rest would be in vain.
            let is_beginning = !id.is_empty() && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            let query = LetterQuery { id_prefix: id.clone(), ..LetterQuery::default() };
            let known = if is_beginning { patient(Box::pin(ask::entries(bus, query, 2, ""))).await.ok() } else { None };
            match known.as_ref().map(|reply| reply.letters.as_slice()) {
                // An older keeper does not heed how an id begins.
                Some([one]) if one.id.starts_with(id.as_str()) => id.clone_from(&one.id),
                _ => break,
            }
        }
    }
    all
}

/// Whether more letters than `limit` are meant. `None`: only reading them says.
pub(super) async fn are_more_than(bus: &Bus, selection: &Selection, limit: usize) -> Option<bool> {
    Some(count(bus, selection).await? > limit as u64)
}

/// How many letters are meant. `None`: no index says.
pub(super) async fn count(bus: &Bus, selection: &Selection) -> Option<u64> {
    patient(Box::pin(ask::count(bus, ask::query(selection)?))).await.ok().map(|counted| counted.total)
}

/// How many letters of those that are meant stand how. `None`: no index says.
pub(super) async fn states(bus: &Bus, selection: &Selection) -> Option<BTreeMap<LetterState, u64>> {
    let reply = patient(Box::pin(ask::count(bus, ask::query(selection)?))).await.ok()?;
    let states = [
        (LetterState::Open, reply.open),
        (LetterState::Held, reply.held),
        (LetterState::Replaying, reply.replaying),
        (LetterState::Resolved, reply.resolved),
        (LetterState::Discarded, reply.discarded),
    ];
    Some(states.into_iter().filter(|(_, count)| *count > 0).collect())
}

/// The consumers of all letters, the newest letters of the `limit` largest groups, and whether there may be more than these say.
/// `None`: no index says.
pub(super) async fn examples(bus: &Bus, limit: u32) -> Option<(BTreeSet<String>, Vec<Letter>, bool)> {
    let reply = patient(Box::pin(ask::group(bus, LetterQuery::default(), GROUPS))).await.ok()?;
    let consumers = reply.groups.iter().flat_map(|group| group.consumers.iter().cloned()).collect();
    let newest = reply.groups.iter().take(limit as usize).filter_map(|group| group.newest.clone()).collect();
    let letters = patient(Box::pin(ask::letters(bus, newest))).await.ok()?;
    Some((consumers, letters, reply.total_groups > u64::from(limit)))
}

/// Groups of like failures, the largest first. `None`: only reading every letter says.
pub(super) async fn groups(bus: &Bus, selection: &Selection, output: &Output) -> Result<Option<Vec<Group>>, Fault> {
    let Some(query) = ask::query(selection) else { return Ok(None) };
    heard(read_groups(bus, query).await, output)
}

/// An answer of the index, if it comes soon. A question changes nothing: what came of it is not in doubt where none comes.
async fn patient<T>(answer: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    within(PATIENCE, answer).await
}

async fn within<T>(limit: Duration, answer: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    match tokio::time::timeout(limit, answer).await {
        Ok(Err(fault)) if fault.reason() == Reason::CallTimedOut => {
            Err(Fault::unavailable("the connection ended before the keeper answered"))
        }
        Ok(answer) => answer,
        Err(_) => Err(Fault::unavailable(format!("the keeper did not answer within {} s", limit.as_secs()))),
    }
}

fn heard<T>(answer: Result<T, Fault>, output: &Output) -> Result<Option<T>, Fault> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        // Who may not look at the letters may not read them either.
        Err(fault) if fault.reason() == Reason::AccessDenied => Err(fault),
        Err(fault) => {
            output.remark(&format!("without a keeper's index, by reading every letter: {}", fault.message()));
            Ok(None)
        }
    }
}

async fn pages(bus: &Bus, query: &LetterQuery, limit: usize) -> Result<(Vec<Spot>, usize), Fault> {
    let (mut spots, mut next) = (Vec::new(), String::new());
    loop {
        let size = u32::try_from(limit - spots.len()).unwrap_or(u32::MAX);
        let page = patient(Box::pin(ask::entries(bus, query.clone(), size, &next))).await?;
        spots.extend(page.letters.iter().map(ask::spot));
        next = page.next_page_token;
        if next.is_empty() || spots.len() >= limit {
            page.unread.iter().for_each(|unread| tell_doubtful(unread.count, &unread.example));
            return Ok((spots, usize::try_from(page.total).unwrap_or(usize::MAX)));
        }
    }
}

async fn read_groups(bus: &Bus, query: LetterQuery) -> Result<Vec<Group>, Fault> {
    let reply = patient(Box::pin(ask::group(bus, query, GROUPS))).await?;
    let newest = reply.groups.iter().filter_map(|group| group.newest.clone()).collect();
    let letters = ask::letters(bus, newest).await?;
    let by_id: BTreeMap<&str, &Letter> = letters.iter().map(|letter| (letter.letter.id.as_str(), letter)).collect();
    let groups = reply.groups.iter().map(|group| shown(group, &by_id)).collect::<Result<Vec<_>, _>>()?;
    // Not before nothing can fail any more: whoever reads every letter instead says such things as well.
    let known = groups.len() as u64;
    if known < reply.total_groups {
        // For programs too: it is not among the data.
        mention(&format!("note: the largest {known} of {} groups; filters show the others", reply.total_groups));
    }
    reply.unread.iter().for_each(|unread| tell_doubtful(unread.count, &unread.example));
    Ok(groups)
}

/// What the letters of a group have in common is read from its newest.
fn shown(group: &LetterGroup, letters: &BTreeMap<&str, &Letter>) -> Result<Group, Fault> {
    let id = group.newest.as_ref().map_or("", |newest| newest.id.as_str());
    let letter = letters.get(id).ok_or_else(|| {
        Fault::new(Code::DataLoss, Effect::None, Reason::LetterMissing, format!("the index names letter {id:?}"))
    })?;
    let mut of_one = Groups::default();
    of_one.add(&Facts::of(letter));
    let common = of_one.into_sorted().into_iter().next();
    let common = common.ok_or_else(|| Fault::unavailable("a group without a letter"))?;
    Ok(Group {
        fingerprint: Fingerprint::from_number(group.fingerprint),
        count: group.count,
        states: group.tallies.iter().map(|tally| (ask::state(tally.standing()), tally.count)).collect(),
        consumers: group.consumers.iter().cloned().collect(),
        first_ms: group.first_ms,
        last_ms: group.last_ms,
        ..common
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_index_that_hangs_is_not_waited_for_long_and_is_said_to_have_done_nothing() {
        let silent = within(Duration::ZERO, std::future::pending::<Result<(), Fault>>()).await.unwrap_err();
        assert_eq!((silent.message(), silent.effect()), ("the keeper did not answer within 0 s", Effect::None));
        let message = "ListLetters did not answer before the deadline; it may have acted";
        let lost = Fault::new(Code::Unavailable, Effect::Unknown, Reason::CallTimedOut, message);
        let lost = patient(async { Err::<(), _>(lost) }).await.unwrap_err();
        assert!(!lost.message().contains("acted") && lost.effect() == Effect::None, "{lost}");
    }
}
