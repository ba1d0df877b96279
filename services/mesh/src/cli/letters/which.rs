//! Which letters a command means: ids, or filters that become one selection.

use clap::{Args, ValueEnum};
use mesh_core::{
    clock::Clock,
    dead_letter::{Fingerprint, LetterState},
    fault::{Code, Reason},
    operate::letters::{Listing, Selection, Selector},
    subject::Name,
};

use super::{
    super::{Failure, contracts, text},
    GlobalArgs, counted, mention,
};

/// The filters. Each narrows; a value that may be given several times means any of them.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Which letters")]
pub(super) struct FilterArgs {
    /// Only of this consumer: NAME, or SERVICE/NAME
    #[arg(long, value_name = "CONSUMER")]
    consumer: Option<Consumer>,
    /// Only in this state. Left out: for replay open, for export and watch all, else all that have not ended
    #[arg(long)]
    state: Option<Wanted>,
    /// Only this event or operation: its full name or the end of it, such as OrderPlaced or Payments/Charge
    #[arg(long = "type", value_name = "NAME", value_delimiter = ',')]
    types: Vec<String>,
    /// Only with this reason: MESH-0103 or 103
    #[arg(long, value_name = "REASON", value_delimiter = ',', value_parser = reason)]
    reason: Vec<String>,
    /// Only with this code, such as UNAVAILABLE
    #[arg(long, value_name = "CODE", value_delimiter = ',', value_parser = code)]
    code: Vec<String>,
    /// Only of this third party
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    vendor: Vec<String>,
    /// Only with this code of the third party's own, such as amount_too_small
    #[arg(long, value_name = "CODE", value_delimiter = ',')]
    vendor_code: Vec<String>,
    /// Only failures alike, as mesh dead-letter group names them
    #[arg(long, value_name = "FINGERPRINT", value_delimiter = ',')]
    fingerprint: Vec<Fingerprint>,
    /// Only captured since then: 2026-01-02T03:04:05Z, 2026-01-02, or 2h or 3d ago
    #[arg(long, visible_alias = "newer-than", value_name = "TIME", value_parser = text::when, allow_hyphen_values = true)]
    since: Option<text::When>,
    /// Only captured before then: the same forms
    #[arg(long, visible_alias = "older-than", value_name = "TIME", value_parser = text::when, allow_hyphen_values = true)]
    until: Option<text::When>,
    /// Only with this header; repeatable, then all of them
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// Only where this CEL expression holds, over letter, header and payload:
    /// 'payload.total_cents > 100000 && letter.vendor == "stripe"'
    #[arg(long = "where", visible_alias = "filter", value_name = "CEL")]
    condition: Option<String>,
}

/// Ids, filters, or all.
#[derive(Debug, Clone, Args)]
pub(super) struct WhichArgs {
    /// Their ids, or beginnings that no other has
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// All that it can be done to
    #[arg(long, help_heading = "Which letters")]
    all: bool,
    #[command(flatten)]
    filters: FilterArgs,
}

/// `NAME` or `SERVICE/NAME`.
#[derive(Debug, Clone)]
pub(super) struct Consumer {
    pub(super) service: Option<Name>,
    pub(super) name: Name,
}

impl std::str::FromStr for Consumer {
    type Err = String;

    fn from_str(text: &str) -> Result<Consumer, String> {
        let name = |text: &str| text.parse::<Name>().map_err(|error| error.to_string());
        match text.split_once('/') {
            Some((service, consumer)) => Ok(Consumer { service: Some(name(service)?), name: name(consumer)? }),
            None => Ok(Consumer { service: None, name: name(text)? }),
        }
    }
}

/// Which states are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Wanted {
    /// Not ended: open, held or replaying
    Waiting,
    /// Waiting for a person
    Open,
    /// Open, and whether it happened is unknown
    Parked,
    /// Kept back by a person
    Held,
    /// Sent again
    Replaying,
    /// Handled
    Resolved,
    /// Given up
    Discarded,
    /// Any
    All,
}

impl Wanted {
    pub(super) fn states(self) -> Vec<LetterState> {
        match self {
            Wanted::Waiting => vec![LetterState::Open, LetterState::Held, LetterState::Replaying],
            Wanted::Open | Wanted::Parked => vec![LetterState::Open],
            Wanted::Held => vec![LetterState::Held],
            Wanted::Replaying => vec![LetterState::Replaying],
            Wanted::Resolved => vec![LetterState::Resolved],
            Wanted::Discarded => vec![LetterState::Discarded],
            Wanted::All => Vec::new(),
        }
    }
}

impl FilterArgs {
    /// What they mean now; `state` where none is said.
    pub(super) fn selection(&self, state: Wanted) -> Selection {
        let now_ms = Clock::system().now_ms();
        let (service, consumer) = self.consumer.clone().map_or((None, None), |c| (c.service, Some(c.name)));
        let state = self.state.unwrap_or(state);
        Selection {
            service,
            consumer,
            states: state.states(),
            parked: state == Wanted::Parked,
            ids: Vec::new(),
            message_types: self.types.clone(),
            reasons: self.reason.clone(),
            codes: self.code.clone(),
            vendors: self.vendor.clone(),
            vendor_codes: self.vendor_code.clone(),
            fingerprints: self.fingerprint.clone(),
            since_ms: self.since.map(|when| when.unix_ms(now_ms)),
            until_ms: self.until.map(|when| when.unix_ms(now_ms)),
            headers: self.header.clone(),
            condition: self.condition.clone(),
        }
    }

    /// The same, ready to be asked.
    pub(super) fn selector(&self, state: Wanted, global: &GlobalArgs) -> anyhow::Result<Selector> {
        let selector = self.selection(state).compile(&contracts::catalog(global)?);
        Ok(selector.map_err(|fault| Failure::new(fault, "docs/dead-letters.md has the names that --where may use"))?)
    }

    /// What of them never fits a letter that is just captured.
    pub(super) fn check_news(&self) -> Result<(), Failure> {
        let what = match self.state {
            Some(state @ (Wanted::Held | Wanted::Replaying | Wanted::Resolved | Wanted::Discarded)) => {
                let word = state.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
                format!("--state {word}: watch tells of letters as they are captured, and those are open")
            }
            _ if self.since.is_some() || self.until.is_some() => {
                "--since and --until: watch tells of letters that are captured from now on".to_owned()
            }
            _ => return Ok(()),
        };
        let help =
            "leave it out; what stands already and what became of it: mesh dead-letter list, with the same filters";
        Err(Failure::input(what, help))
    }

    /// Whether no filter is given.
    pub(super) fn is_empty(&self) -> bool {
        self.selection(Wanted::All).is_everything() && self.state.is_none()
    }
}

impl WhichArgs {
    /// What is wrong with them before anything is asked.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let filtered = self.all || !self.filters.is_empty();
        match (self.ids.is_empty(), filtered) {
            (true, false) => Err(Failure::input(
                "which letters is not said",
                "name their ids, filter (--fingerprint, --consumer, --where and more), or say --all",
            )),
            (false, true) => Err(Failure::input("both ids and filters are given", "leave out the one or the other")),
            _ => Ok(()),
        }
    }

    /// The ids that are named; none: filters say which letters.
    pub(super) fn ids(&self) -> &[String] {
        &self.ids
    }

    /// What the filters mean, ready to be asked; `state` where none is said.
    pub(super) fn selector(&self, state: Wanted, global: &GlobalArgs) -> anyhow::Result<Selector> {
        self.filters.selector(state, global)
    }
}

/// Says how many letters were left out because the condition did not fit them, or nobody here knows how they stand.
pub(super) fn tell_unclear(listing: &Listing) {
    tell_unasked(listing);
    if let Some(id) = &listing.first_unread {
        let count = counted(listing.unread as u64, "letter");
        let why = "what was done last can't be read by this version of mesh";
        mention(&format!("note: {count} left out and left alone: {why}; the first: {id}"));
    }
}

/// The same of a list, which has the letters that nobody here knows as they were before.
pub(super) fn tell_listed(listing: &Listing) {
    tell_unasked(listing);
    listing.first_unread.iter().for_each(|id| tell_doubtful(listing.unread as u64, id));
}

/// Says of how many letters nobody here knows how they stand, and names one of them.
pub(super) fn tell_doubtful(count: u64, example: &str) {
    let count = counted(count, "letter");
    let why = "what was done last can't be read by this version of mesh";
    let shown = "shown, if at all, as before, and left alone by orders and replays";
    mention(&format!("note: {count} may stand otherwise: {why}; {shown}; the first: {example}"));
}

/// The same of letters that are told as they come: what could not be judged.
pub(super) fn tell_unasked(listing: &Listing) {
    // For programs too: it is not among the data.
    if let Some(why) = &listing.why {
        let count = counted(listing.unclear as u64, "letter");
        mention(&format!("note: --where could not be judged for {count}, left out; the first: {why}"));
    }
}

fn reason(text: &str) -> Result<String, String> {
    let digits = text.trim_start_matches("MESH-").trim_start_matches("mesh-");
    let code = format!("MESH-{digits:0>4}");
    let known = Reason::ALL.iter().any(|reason| reason.code() == code);
    if known { Ok(code) } else { Err(format!("{text:?} is no reason: docs/errors/README.md lists them")) }
}

fn code(text: &str) -> Result<String, String> {
    let name = text.to_uppercase().replace('-', "_");
    let name = name.trim_start_matches("CODE_");
    match Code::from_str_name(&format!("CODE_{name}")) {
        Some(_) => Ok(name.to_owned()),
        None => Err(format!("{text:?} is no code, such as UNAVAILABLE or INVALID_ARGUMENT; a vendor's: --vendor-code")),
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is no NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_for_what_no_new_letter_is_is_refused() {
        let since = Some(text::when("2h").unwrap());
        for (filters, said) in [
            (FilterArgs { state: Some(Wanted::Held), ..FilterArgs::default() }, "--state held"),
            (FilterArgs { state: Some(Wanted::Resolved), ..FilterArgs::default() }, "--state resolved"),
            (FilterArgs { since, ..FilterArgs::default() }, "from now on"),
            (FilterArgs { until: since, ..FilterArgs::default() }, "from now on"),
        ] {
            let refused = filters.check_news().unwrap_err().to_string();
            assert!(refused.contains(said), "{refused}");
        }
        for state in [None, Some(Wanted::All), Some(Wanted::Waiting), Some(Wanted::Open), Some(Wanted::Parked)] {
            assert!(FilterArgs { state, ..FilterArgs::default() }.check_news().is_ok(), "{state:?}");
        }
    }

    #[test]
    fn reasons_and_codes_are_read_as_people_write_them() {
        for text in ["MESH-0103", "mesh-0103", "103", "0103"] {
            assert_eq!(reason(text).as_deref(), Ok("MESH-0103"), "{text}");
        }
        assert!(reason("9999").is_err() && reason("x").is_err());
        assert_eq!(code("invalid-argument").as_deref(), Ok("INVALID_ARGUMENT"));
        assert!(code("amount_too_small").unwrap_err().contains("--vendor-code"));
    }
}
