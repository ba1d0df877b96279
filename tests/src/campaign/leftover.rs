//! What a broker that was killed or had no room leaves in a queue although its consumer acknowledged it, and the keeper that takes
//! it away.
//!
//! The broker writes down what a consumer has acknowledged and then deletes the message. Killed in between, it does not do so
//! later on a work queue of one server (on streams of interest, and on three servers, it looks for such messages). They are
//! delivered to nobody; the keeper finds them below their consumer's floor.

use std::time::Duration;

use tokio::time::Instant;

use super::{Account, Run, Stage, process::Sent, stage::Broker};

/// The keeper looks twice, 20 seconds apart, before it takes something away.
const TAKEN_AWAY_WITHIN: Duration = Duration::from_secs(90);

impl<B: Broker> Stage<B> {
    /// The account of a run in which the broker was killed or had no room, after a keeper took away what was left. How many
    /// those were is printed (`residue`).
    ///
    /// # Errors
    /// A side does not answer, or the keeper does not start.
    pub async fn account_kept(&self, run: &mut Run, sent: &Sent) -> anyhow::Result<Account> {
        let mut books = self.books(sent).await?;
        run.note("residue", books.residue);
        if books.residue > 0 {
            let (mut keeper, _) = self.keeper(&self.broker.url()).await?;
            let limit = Instant::now() + TAKEN_AWAY_WITHIN;
            while books.residue > 0 && Instant::now() < limit {
                tokio::time::sleep(Duration::from_secs(1)).await;
                books = self.books(sent).await?;
            }
            keeper.stop().await?;
        }
        Ok(Account::of(&books))
    }
}
