//! `mesh internal role <name>`: the services of the shop.

use mesh_core::config::Environment;
use mesh_core::fault::Fault;
use serde_json::json;
use shop::{catalogue, notifications, orders, payments, till};

use super::frame::{Frame, say};
use crate::stop::Stop;

/// Which service this process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RoleName {
    /// Publishes the orders of the file.
    Orders,
    /// Has every order charged.
    Payments,
    /// Has every customer told.
    Notifications,
    /// Answers what an article costs.
    Catalogue,
    /// Asks for every price once.
    Till,
}

impl RoleName {
    /// The service's name in the mesh file.
    #[must_use]
    pub const fn service(self) -> &'static str {
        match self {
            RoleName::Orders => "orders",
            RoleName::Payments => "payments",
            RoleName::Notifications => "notifications",
            RoleName::Catalogue => "catalogue",
            RoleName::Till => "till",
        }
    }
}

/// Options of a role.
#[derive(Debug, Clone, clap::Args)]
pub struct RoleArgs {
    /// The service
    pub name: RoleName,
    /// How many orders are published; all where nothing is said (orders only)
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

/// Is the service until the process is told to stop.
///
/// # Errors
/// The bus can't be reached, or lacks what the service needs.
pub async fn run(args: RoleArgs) -> Result<(), Fault> {
    let stop = Stop::listen()?;
    let frame = Frame::begin(args.name.service(), &Environment::from_process()).await?;
    match args.name {
        RoleName::Orders => return publish(frame, &stop, args.limit.unwrap_or(usize::MAX)).await,
        RoleName::Till => return ask(frame).await,
        RoleName::Payments => payments::start(&frame.mesh).await?,
        RoleName::Notifications => notifications::start(&frame.mesh).await?,
        RoleName::Catalogue => catalogue::start(&frame.mesh).await?,
    }
    frame.ready()?;
    frame.run_until_stopped().await;
    Ok(())
}

/// Publishes, says how it went, and stays until it is told to stop: a service does not go away when it has nothing to do.
async fn publish(frame: Frame, stop: &Stop, limit: usize) -> Result<(), Fault> {
    frame.ready()?;
    let published = orders::publish(&frame.mesh, limit, || stop.is_told()).await?;
    let fault = published.fault.as_ref().map(ToString::to_string);
    say(&json!({ "published": published.acknowledged, "failed": published.failed, "fault": fault }))?;
    stop.told().await;
    frame.drain().await;
    Ok(())
}

async fn ask(frame: Frame) -> Result<(), Fault> {
    let asked = till::ask(&frame.mesh).await?;
    say(&json!({ "answers": asked.answers, "slowest_us": asked.slowest_us }))?;
    frame.drain().await;
    Ok(())
}
