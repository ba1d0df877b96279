//! The command line, for this program and for any that takes it in as a subcommand.

use std::net::SocketAddr;

use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, Command, FromArgMatches};
use serde_json::{Map, Value};

use crate::clock::Clock;
use crate::config::{COURIER_KEY, Config, Key, STRIPE_KEY, VendorConfig};
use crate::knobs::{KNOBS, Knobs};

/// Flags of the stand-in vendors.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Seed of everything that is drawn: the same seed and calls give the same luck
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// API key that the Stripe-like vendor accepts
    #[arg(long, env = "VENDOR_SIM_STRIPE_KEY", default_value = STRIPE_KEY, hide_env_values = true)]
    pub stripe_key: Key,
    /// API key that the Courier-like vendor accepts
    #[arg(long, env = "VENDOR_SIM_COURIER_KEY", default_value = COURIER_KEY, hide_env_values = true)]
    pub courier_key: Key,
    /// The knobs of both.
    #[command(flatten)]
    pub knobs: BothKnobs,
}

/// The knobs of both vendors: `--stripe-<knob>` and `--courier-<knob>`, made from the one table of knobs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BothKnobs {
    /// Of the Stripe-like vendor.
    pub stripe: Knobs,
    /// Of the Courier-like vendor.
    pub courier: Knobs,
}

impl From<Args> for Config {
    fn from(args: Args) -> Self {
        Self {
            listen: args.listen,
            seed: args.seed,
            stripe: VendorConfig { key: args.stripe_key, knobs: args.knobs.stripe },
            courier: VendorConfig { key: args.courier_key, knobs: args.knobs.courier },
            clock: Clock::real(),
        }
    }
}

impl clap::Args for BothKnobs {
    fn augment_args(command: Command) -> Command {
        ["stripe", "courier"].into_iter().fold(command, |command, vendor| {
            KNOBS.iter().fold(command, |command, (knob, help)| command.arg(flag(vendor, knob, help)))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for BothKnobs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut knobs = Self::default();
        knobs.update_from_arg_matches(matches)?;
        Ok(knobs)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.stripe = changed(&self.stripe, "stripe", matches)?;
        self.courier = changed(&self.courier, "courier", matches)?;
        Ok(())
    }
}

fn name(vendor: &str, knob: &str) -> String {
    format!("{vendor}-{}", knob.replace('_', "-"))
}

fn flag(vendor: &str, knob: &str, help: &'static str) -> Arg {
    let name = name(vendor, knob);
    let arg = Arg::new(name.clone()).long(name).help(help).value_parser(json).value_name("VALUE");
    match serde_json::to_value(Knobs::default()).ok().as_ref().and_then(|all| all.get(knob)) {
        // A switch may stand alone.
        Some(Value::Bool(_)) => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        _ => arg,
    }
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|_| "expected a number, true or false".to_owned())
}

fn changed(knobs: &Knobs, vendor: &str, matches: &ArgMatches) -> Result<Knobs, clap::Error> {
    let given = |knob: &str| matches.get_one::<Value>(&name(vendor, knob)).cloned();
    let changes: Map<String, Value> =
        KNOBS.iter().filter_map(|(knob, _)| Some(((*knob).to_owned(), given(knob)?))).collect();
    knobs
        .with(changes)
        .map_err(|error| clap::Error::raw(ErrorKind::ValueValidation, format!("--{vendor}-…: {error}\n")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &[&str]) -> Result<Args, clap::Error> {
        Program::try_parse_from([&["vendor-sim"], words].concat()).map(|program| program.args)
    }

    #[test]
    fn the_command_is_sound() {
        <Program as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn flags_reach_their_own_vendor() {
        let args = parse(&["--stripe-rate-per-s", "50", "--courier-down", "--stripe-honour-keys=false"]).unwrap();
        let stripe = Knobs { rate_per_s: 50.0, honour_keys: false, ..Knobs::default() };
        assert_eq!(args.knobs, BothKnobs { stripe, courier: Knobs { down: true, ..Knobs::default() } });
    }

    #[test]
    fn a_bad_value_is_named() {
        let error = parse(&["--stripe-slow-share", "2"]).unwrap_err().to_string();
        assert!(error.contains("--stripe-") && error.contains("slow_share must be between 0 and 1"), "{error}");
        assert!(parse(&["--courier-burst", "many"]).unwrap_err().to_string().contains("--courier-burst"));
    }

    #[test]
    fn keys_are_never_shown() {
        let shown = format!("{:?}", parse(&["--stripe-key", "sk_live_secret"]).unwrap());
        assert!(!shown.contains("sk_live_secret"), "{shown}");
    }
}
