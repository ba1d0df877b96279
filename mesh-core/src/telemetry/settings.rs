//! What logging and tracing are told, and why they may not begin.

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Text where stderr is a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One short line for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What the caller read from its configuration and environment.
#[derive(Clone)]
pub struct Settings {
    /// The name of this service, as traces show it.
    pub service_name: String,
    /// Which lines are wanted, in the words of `RUST_LOG`: `info`, `mesh_core=debug,warn`.
    pub log_filter: String,
    /// How they look.
    pub format: Format,
    /// Whether text may be coloured where stderr is a terminal.
    pub colour: bool,
    /// Where traces go by OTLP over HTTP (`http://127.0.0.1:4318`; `/v1/traces` is added where it has no path).
    /// `None`: no traces.
    pub otlp_endpoint: Option<String>,
    /// How many of the traces that begin here are recorded, from 0 to 1. One that came with a message keeps its sender's choice.
    pub sample_ratio: f64,
    /// What else traces say about this process, such as `service.instance.id`.
    pub attributes: Vec<(String, String)>,
}

impl Settings {
    /// The defaults: `info`, text or JSON by what stderr is, no traces.
    #[must_use]
    pub fn new(service_name: impl Into<String>) -> Settings {
        Settings {
            service_name: service_name.into(),
            log_filter: "info".into(),
            format: Format::Auto,
            colour: true,
            otlp_endpoint: None,
            sample_ratio: 1.0,
            attributes: Vec::new(),
        }
    }
}

/// Why logging could not begin. Each says what to do; nothing was installed.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter can't be read.
    #[error(
        "the log filter {filter:?} can't be read: {why}; write a level (\"info\") or pairs (\"mesh_core=debug,warn\")"
    )]
    Filter {
        /// The filter as given.
        filter: String,
        /// What is wrong with it.
        why: String,
    },
    /// The OTLP endpoint can't be used. It is not shown, as it may hold a credential.
    #[error("the OTLP endpoint can't be used: {why}; write one like \"http://127.0.0.1:4318\", or none for no traces")]
    Endpoint {
        /// What is wrong with it.
        why: String,
    },
    /// Traces are sent by a task, which needs a runtime.
    #[error("traces need a running tokio runtime: call init inside of one")]
    NoRuntime,
    /// Somebody else takes the lines.
    #[error("logging was begun before in this process: call init once, in main")]
    AlreadyBegun,
}
