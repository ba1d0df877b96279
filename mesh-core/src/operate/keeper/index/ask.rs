//! What the index is asked.

use std::collections::{BTreeSet, BinaryHeap, HashMap};

use mesh_proto::v1::{self, LetterStanding};

use super::{Entry, Index, any::Any, id_text, parse_id};

/// Standings, with the one that says nothing.
const STANDINGS: usize = 6;
/// Letters of one page, at most.
const PAGE: usize = 1000;
/// Letters of a page, and groups, where nothing is said.
const DEFAULT_PAGE: usize = 100;

/// A query with its names as numbers.
struct Wanted {
    /// By number of the place: whether service and consumer fit. Empty: all do.
    places: Vec<bool>,
    message_type: Option<u32>,
    reason: Option<u32>,
    vendor: Option<u32>,
    vendor_code: Option<u32>,
    code: Option<u8>,
    from_ms: i64,
    before_ms: i64,
    /// A bit for each standing. 0: all.
    standings: u32,
    fingerprint: u64,
    id: Beginning,
    any: Option<Any>,
}

/// How an id begins.
struct Beginning {
    digits: u128,
    /// Which bits of an id are said.
    said: u128,
}

impl Beginning {
    /// `None`: no id begins so.
    fn of(text: &str) -> Option<Beginning> {
        if text.is_empty() {
            return Some(Beginning { digits: 0, said: 0 });
        }
        let unsaid = 128u32.checked_sub(u32::try_from(text.len()).ok()?.checked_mul(4)?)?;
        let are_digits = text.bytes().all(|b| b.is_ascii_hexdigit());
        let digits = u128::from_str_radix(text, 16).ok().filter(|_| are_digits)?;
        Some(Beginning { digits: digits << unsaid, said: u128::MAX << unsaid })
    }

    fn is_of(&self, id: [u8; 16]) -> bool {
        u128::from_be_bytes(id) & self.said == self.digits
    }
}

impl Wanted {
    /// `None`: a name of the query stands in no letter, or no id begins so.
    fn of(index: &Index, query: &v1::LetterQuery) -> Option<Wanted> {
        let named = |text: &str| if text.is_empty() { Some(None) } else { index.names.find(text).map(Some) };
        let standings = query.standings().map(|standing| 1 << standing as u32).fold(0, |all, bit: u32| all | bit);
        Some(Wanted {
            places: places(index, query),
            message_type: named(&query.message_type)?,
            reason: named(&query.reason)?,
            vendor: named(&query.vendor)?,
            vendor_code: named(&query.vendor_code)?,
            code: u8::try_from(query.code).ok().filter(|code| *code > 0),
            from_ms: query.captured_from_ms,
            before_ms: if query.captured_before_ms == 0 { i64::MAX } else { query.captured_before_ms },
            standings,
            fingerprint: query.fingerprint,
            id: Beginning::of(&query.id_prefix)?,
            any: query.any_of.as_ref().map(|any| Any::of(index, any)),
        })
    }

    fn admits(&self, entry: &Entry) -> bool {
        let fits = |wanted: Option<u32>, has: u32| wanted.is_none_or(|wanted| wanted == has);
        (self.standings == 0 || self.standings & (1 << entry.standing as u32) != 0)
            && (self.places.is_empty() || self.places.get(entry.place as usize).copied().unwrap_or(false))
            && (self.from_ms..self.before_ms).contains(&entry.captured_at_ms)
            && (self.fingerprint == 0 || self.fingerprint == entry.fingerprint)
            && self.id.is_of(entry.id)
            && self.code.is_none_or(|code| code == entry.code)
            && fits(self.message_type, entry.message_type)
            && fits(self.reason, entry.reason)
            && fits(self.vendor, entry.vendor)
            && fits(self.vendor_code, entry.vendor_code)
            && self.any.as_ref().is_none_or(|any| any.admits(entry))
    }
}

fn places(index: &Index, query: &v1::LetterQuery) -> Vec<bool> {
    if query.service.is_empty() && query.consumer.is_empty() {
        return Vec::new();
    }
    let fits = |wanted: &str, has: Option<&str>| wanted.is_empty() || has == Some(wanted);
    let place = |text: &str| {
        let mut parts = text.split('/').skip(1);
        fits(&query.service, parts.next()) && fits(&query.consumer, parts.next())
    };
    index.names.all().map(|(_, text)| place(text)).collect()
}

impl Index {
    /// One page of letters, the oldest capture first.
    #[must_use]
    pub fn list(&self, request: &v1::ListLettersRequest) -> v1::ListLettersReply {
        let query = request.query.clone().unwrap_or_default();
        let (heeds_any_of, unread) = (true, self.unread(&query));
        let Some(wanted) = Wanted::of(self, &query) else {
            return v1::ListLettersReply { heeds_any_of, unread, ..v1::ListLettersReply::default() };
        };
        let size = size(request.page_size);
        let after = parse_token(&request.page_token);
        let (mut total, mut page) = (0u64, BinaryHeap::with_capacity(size + 2));
        for (slot, entry) in (0u32..).zip(self.entries()) {
            if !wanted.admits(entry) {
                continue;
            }
            total += 1;
            let key = (entry.captured_at_ms, entry.id, entry.place);
            let fits = after.is_none_or(|after| key > after);
            // One more than the page: it tells whether there is a next one.
            if fits && (page.len() <= size || page.peek().is_some_and(|(last, _)| key < *last)) {
                page.push((key, slot));
                if page.len() > size + 1 {
                    page.pop();
                }
            }
        }
        let mut page = page.into_sorted_vec();
        let is_last = page.len() <= size;
        page.truncate(size);
        let token =
            page.last().filter(|_| !is_last).map(|((at_ms, id, place), _)| format!("{at_ms}.{}.{place}", id_text(id)));
        v1::ListLettersReply {
            letters: page.into_iter().map(|(_, slot)| self.shown(self.entry(slot))).collect(),
            next_page_token: token.unwrap_or_default(),
            total,
            heeds_any_of,
            unread,
        }
    }

    /// Letters that failed alike, the largest group first.
    #[must_use]
    pub fn group(&self, request: &v1::GroupLettersRequest) -> v1::GroupLettersReply {
        struct Group<'a> {
            count: u64,
            first_ms: i64,
            newest: &'a Entry,
            by_standing: [u64; STANDINGS],
            places: BTreeSet<u32>,
        }
        let query = request.query.clone().unwrap_or_default();
        let (heeds_any_of, unread) = (true, self.unread(&query));
        let Some(wanted) = Wanted::of(self, &query) else {
            return v1::GroupLettersReply { heeds_any_of, unread, ..v1::GroupLettersReply::default() };
        };
        let mut groups: HashMap<u64, Group<'_>> = HashMap::new();
        for entry in self.entries().filter(|entry| wanted.admits(entry)) {
            let group = groups.entry(entry.fingerprint);
            let group = group.or_insert_with(|| Group {
                count: 0,
                first_ms: entry.captured_at_ms,
                newest: entry,
                by_standing: [0; STANDINGS],
                places: BTreeSet::new(),
            });
            group.count += 1;
            group.places.insert(entry.place);
            if let Some(count) = group.by_standing.get_mut(entry.standing as usize) {
                *count += 1;
            }
            group.first_ms = group.first_ms.min(entry.captured_at_ms);
            if entry.captured_at_ms > group.newest.captured_at_ms {
                group.newest = entry;
            }
        }
        let total = groups.values().map(|group| group.count).sum();
        let total_groups = groups.len() as u64;
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by_key(|(fingerprint, group)| (std::cmp::Reverse(group.count), *fingerprint));
        groups.truncate(size(request.limit));
        let shown = groups.into_iter().map(|(fingerprint, group)| v1::LetterGroup {
            fingerprint,
            count: group.count,
            first_ms: group.first_ms,
            last_ms: group.newest.captured_at_ms,
            newest: Some(self.shown(group.newest)),
            tallies: tallies(&group.by_standing),
            consumers: group.places.iter().filter_map(|place| self.consumer(*place)).collect(),
        });
        v1::GroupLettersReply { groups: shown.collect(), total, total_groups, heeds_any_of, unread }
    }

    /// How many letters a query means, by standing.
    #[must_use]
    pub fn count(&self, request: &v1::CountLettersRequest) -> v1::CountLettersReply {
        let query = request.query.clone().unwrap_or_default();
        let mut reply = v1::CountLettersReply { heeds_any_of: true, ..v1::CountLettersReply::default() };
        let Some(wanted) = Wanted::of(self, &query) else { return reply };
        for entry in self.entries().filter(|entry| wanted.admits(entry)) {
            reply.total += 1;
            match entry.standing {
                LetterStanding::Held => reply.held += 1,
                LetterStanding::Replaying => reply.replaying += 1,
                LetterStanding::Resolved => reply.resolved += 1,
                LetterStanding::Discarded => reply.discarded += 1,
                LetterStanding::Open | LetterStanding::Unspecified => reply.open += 1,
            }
        }
        reply
    }

    /// Those whose newest record can't be read, of the service and the consumer of a query.
    fn unread(&self, query: &v1::LetterQuery) -> Option<v1::UnreadLetters> {
        let places = places(self, query);
        let is_there = |place: u32| places.is_empty() || places.get(place as usize).copied().unwrap_or(false);
        let mut ids = self.unread.iter().filter(|(_, place)| is_there(*place)).map(|(id, _)| id);
        let example = id_text(ids.next()?);
        Some(v1::UnreadLetters { count: 1 + ids.count() as u64, example })
    }

    /// `service/consumer`
    fn consumer(&self, place: u32) -> Option<String> {
        self.names.text(place).split_once('/').map(|(_region, consumer)| consumer.to_owned())
    }

    fn shown(&self, entry: &Entry) -> v1::IndexedLetter {
        let text = |number: u32| self.names.text(number).to_owned();
        let mut place = self.names.text(entry.place).split('/').map(str::to_owned);
        let mut part = || place.next().unwrap_or_default();
        v1::IndexedLetter {
            id: id_text(&entry.id),
            region: part(),
            service: part(),
            consumer: part(),
            message_type: text(entry.message_type),
            standing: entry.standing.into(),
            generation: entry.generation,
            captured_at_ms: entry.captured_at_ms,
            reason: text(entry.reason),
            code: i32::from(entry.code),
            effect: i32::from(entry.effect),
            vendor: text(entry.vendor),
            vendor_code: text(entry.vendor_code),
            fingerprint: entry.fingerprint,
            captured_sequence: entry.captured_sequence,
            last_sequence: entry.last_sequence,
        }
    }
}

fn tallies(by_standing: &[u64; STANDINGS]) -> Vec<v1::LetterTally> {
    let counted = (0i32..).zip(by_standing).filter(|(_, count)| **count > 0);
    counted.map(|(standing, count)| v1::LetterTally { standing, count: *count }).collect()
}

fn size(asked: u32) -> usize {
    if asked == 0 { DEFAULT_PAGE } else { (asked as usize).min(PAGE) }
}

/// `None`: from the beginning, also where the token is none of ours.
fn parse_token(token: &str) -> Option<(i64, [u8; 16], u32)> {
    let (at_ms, key) = token.split_once('.')?;
    let (id, place) = key.split_once('.')?;
    Some((at_ms.parse().ok()?, parse_id(id)?, place.parse().ok()?))
}
