//! An operator who sends every letter again that waits or whose replay was not carried out.

use std::io::Write as _;

use mesh_core::{
    dead_letter::LetterState,
    fault::Reason,
    operate::letters::{Order, Selector, list, replay},
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
    let order = Order { by: "campaign".into(), why: "mended".into(), again: false, job: String::new() };
    let letters = list(mesh.bus(), &Selector::default()).await?.letters;
    let mut sent = 0;
    for letter in letters.iter().filter(|l| matches!(l.state, LetterState::Open | LetterState::Replaying)) {
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
