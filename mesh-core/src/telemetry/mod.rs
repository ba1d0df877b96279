//! What is said about the mesh: log lines, traces and metrics, and the small HTTP server that shows the metrics.
//!
//! Nothing here may block or break work. Traces that can't be sent are counted and dropped, a metric is an atomic
//! addition, and where nobody exports traces, carrying one costs a load and a comparison.

mod export;
pub mod logging;
pub mod metrics;
mod serve;
mod settings;
pub mod trace;

pub use logging::{Guard, init};
pub use metrics::{ConsumerMetrics, How, InFlight, Metrics, OperationMetrics, PublisherMetrics, VendorMetrics};
pub use serve::serve_metrics;
pub use settings::{Format, LoggingError, Settings};
