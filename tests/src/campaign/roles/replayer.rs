//! An operator who sends every letter again that waits or whose replay was not carried out.

use std::io::Write as _;

use mesh_core::{
    dead_letter::LetterState,
    fault::Reason,
    operate::letters::{Filter, Order, list, replay},
};

use super::Place;
use crate::campaign::stage::OPERATOR;

/// Replays what is open now, and says how many.
///
/// # Errors
/// The bus can't be reached, or refuses an order.
pub async fn run(place: &Place) -> anyhow::Result<()> {
    let mesh = place.connect(OPERATOR).await?;
    writeln!(std::io::stdout(), "ready")?;
    let order = Order { by: "campaign".into(), why: "mended".into(), again: false };
    let states = vec![LetterState::Open, LetterState::Replaying];
    let letters = list(mesh.bus(), &Filter { states, ..Filter::default() }).await?;
    let mut sent = 0;
    for letter in &letters {
        match replay(mesh.bus(), letter, &order).await {
            Ok(_) => sent += 1,
            // Handled since it was read, or somebody else was first.
            Err(fault) if fault.reason() == Reason::LetterChanged => {}
            Err(fault) => return Err(fault.into()),
        }
    }
    writeln!(std::io::stdout(), "sent {sent}")?;
    mesh.drain().await;
    Ok(())
}
