//! The till: asks the catalogue for prices, and shows that a call is answered.

use std::time::{Duration, Instant};

use mesh_core::{Mesh, fault::Fault};
use shop_proto::shop::catalogue::v1::{GetPriceRequest, catalogue::GetPrice};

use crate::catalogue::PRICES;

/// How long a price may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What the calls brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Answers.
    pub answers: u64,
    /// The longest time that one took, in microseconds.
    pub slowest_us: u64,
}

/// Asks for every price once, one after the other.
///
/// # Errors
/// The first call that was not answered.
pub async fn ask(mesh: &Mesh) -> Result<Asked, Fault> {
    let prices = mesh.operation::<GetPrice>();
    let mut asked = Asked { answers: 0, slowest_us: 0 };
    for (sku, cents) in PRICES {
        let begun = Instant::now();
        let reply = prices.call(&GetPriceRequest { sku: sku.to_owned() }).timeout(TIMEOUT).await?;
        if reply.price_cents != cents {
            return Err(Fault::invalid(format!("{sku} costs {cents}, and the answer says {}", reply.price_cents)));
        }
        asked.answers += 1;
        asked.slowest_us = asked.slowest_us.max(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    Ok(asked)
}
