//! Which regions a broker has: those in which a consumer works, and those of letters that lie there.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::{
    bus::Bus,
    fault::Fault,
    subject::{DEAD_LETTER_STREAM, Name, WIRE, lane_stream},
};

/// Streams whose consumers are asked for at once.
const AT_ONCE: usize = 16;

/// The regions that there are, where `region` is none of them. `None`: it is one, or the broker has none yet.
///
/// It costs a question or two where a letter lies in the region, else one for each service.
///
/// # Errors
/// The bus can't be reached, or this identity may not ask.
pub async fn instead_of(bus: &Bus, region: &Name) -> Result<Option<BTreeSet<String>>, Fault> {
    let letters = format!("{WIRE}.dead.{region}.>");
    if bus.last_sequence_on(DEAD_LETTER_STREAM, &letters).await?.is_some() {
        return Ok(None);
    }
    let mut known = BTreeSet::new();
    // Every consumer reads a lane too, whose subject begins with its region.
    let lanes = bus.stream_names(&lane_stream("")).await?;
    let read = |lane: String| async move { bus.consumers_of(&lane).await };
    let mut consumers = stream::iter(lanes).map(read).buffered(AT_ONCE);
    while let Some(consumers) = consumers.try_next().await? {
        known.extend(consumers.iter().flat_map(|consumer| &consumer.filters).filter_map(|filter| of(filter)));
        if known.contains(region.as_str()) {
            return Ok(None);
        }
    }
    Ok(Some(known).filter(|known| !known.is_empty()))
}

/// The region that a lane's subject says.
fn of(lane: &str) -> Option<String> {
    let (region, _) = lane.strip_prefix(WIRE)?.strip_prefix(".lane.")?.split_once('.')?;
    (region != "*").then(|| region.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_stands_in_a_lanes_subject() {
        assert_eq!(of("mesh1.lane.eu.payments.charge.due.*.*").as_deref(), Some("eu"));
        assert_eq!((of("mesh1.event.eu.x"), of("mesh1.lane.*.x.y"), of("x")), (None, None, None));
    }
}
