//! Silence that is none of the mesh's: a person who looks on is told that the bus is away.

use std::{convert::Infallible, time::Duration};

use mesh_core::bus::Bus;

use super::mention;

/// How often the connection is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Says on stderr when the bus goes away, and what that means, and when it is back; for programs too.
pub(super) async fn tell(bus: &Bus, meanwhile: &str) -> Infallible {
    let mut was_away = false;
    let mut looks = tokio::time::interval(LOOK_EVERY);
    loop {
        looks.tick().await;
        let is_away = !bus.link_state().is_connected;
        match (was_away, is_away) {
            (false, true) => mention(&format!("the bus is away; waiting for it: {meanwhile}")),
            (true, false) => mention("the bus is back"),
            _ => {}
        }
        was_away = is_away;
    }
}
