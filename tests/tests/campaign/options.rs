//! What is asked for: by arguments, or by the environment where cargo runs all tests at once.

use mesh_core::config::Environment;
use mesh_tests::campaign::Size;

/// What is to be played.
pub(crate) struct Options {
    pub(crate) seed: u64,
    pub(crate) size: Size,
    /// Words that a scenario's name must hold, any of them; none: all scenarios.
    only: Vec<String>,
}

impl Options {
    /// Understands `--long`, `--seed N` and words of names; what else cargo says to tests is passed over.
    pub(crate) fn read() -> Options {
        let environment = Environment::from_process();
        let long = environment.get("MESH_CHAOS_SIZE") == Some("long");
        let mut options = Options {
            seed: environment.get("MESH_CHAOS_SEED").and_then(|seed| seed.parse().ok()).unwrap_or_else(new_seed),
            size: if long { Size::Long } else { Size::Quick },
            only: Vec::new(),
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--long" => options.size = Size::Long,
                "--seed" => options.seed = words.next().and_then(|seed| seed.parse().ok()).unwrap_or(options.seed),
                "--test-threads" | "--format" | "--skip" => drop(words.next()),
                other if other.starts_with('-') => {}
                name => options.only.push(name.to_owned()),
            }
        }
        options
    }

    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.names(name)
    }

    /// Whether it was asked for by name.
    pub(crate) fn names(&self, name: &str) -> bool {
        self.only.iter().any(|word| name.contains(word))
    }
}

/// Another one each time, and short enough to be typed.
fn new_seed() -> u64 {
    fastrand::u64(1..1_000_000)
}
