//! Medians, spread, ratio.

use std::time::Duration;

use mesh_tests::callers::Round;
use serde_json::json;

/// One line of the report: the rounds of both sides.
pub(crate) struct Row {
    name: String,
    raw: Vec<Round>,
    ours: Vec<Round>,
}

struct Side {
    median: f64,
    least: f64,
    most: f64,
    p50: Option<Duration>,
    p99: Option<Duration>,
}

impl Row {
    pub(crate) fn new(name: String) -> Row {
        Row { name, raw: Vec::new(), ours: Vec::new() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn add(&mut self, own: bool, round: Round) {
        if own { &mut self.ours } else { &mut self.raw }.push(round);
    }

    /// The median of the rounds' own ratios: what drifts between rounds does not count.
    fn ratio(&self) -> f64 {
        median(self.ours.iter().zip(&self.raw).map(|(ours, raw)| ours.rate / raw.rate).collect())
    }

    /// Inside the spread there is no difference.
    fn verdict(&self) -> &'static str {
        let (raw, ours) = (side(&self.raw), side(&self.ours));
        if ours.least <= raw.most && raw.least <= ours.most {
            "no difference"
        } else if self.ratio() > 1.0 {
            "faster"
        } else {
            "slower"
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn side(rounds: &[Round]) -> Side {
    let rates: Vec<f64> = rounds.iter().map(|round| round.rate).collect();
    let at = |percent: usize| {
        let all: Vec<f64> = rounds
            .iter()
            .filter(|round| !round.latencies.is_empty())
            .map(|round| round.latencies[(round.latencies.len() - 1) * percent / 100].as_secs_f64())
            .collect();
        (!all.is_empty()).then(|| Duration::from_secs_f64(median(all)))
    };
    Side {
        median: median(rates.clone()),
        least: rates.iter().copied().fold(f64::INFINITY, f64::min),
        most: rates.iter().copied().fold(0.0, f64::max),
        p50: at(50),
        p99: at(99),
    }
}

pub(crate) fn print(rows: &[Row], as_json: bool) {
    if as_json {
        println!("{}", serde_json::Value::Array(rows.iter().map(document).collect()));
        return;
    }
    println!(
        "{:<34} {:>26} {:>26} {:>7}  {:>19} {:>19}  verdict",
        "a second",
        "raw median [least..most]",
        "ours median [least..most]",
        "ratio",
        "raw p50 / p99 ms",
        "ours p50 / p99 ms"
    );
    for row in rows {
        let (raw, ours) = (side(&row.raw), side(&row.ours));
        println!(
            "{:<34} {:>26} {:>26} {:>7.2}  {:>19} {:>19}  {}",
            row.name,
            rates(&raw),
            rates(&ours),
            row.ratio(),
            times(&raw),
            times(&ours),
            row.verdict()
        );
    }
}

fn rates(side: &Side) -> String {
    format!("{:.0} [{:.0}..{:.0}]", side.median, side.least, side.most)
}

fn times(side: &Side) -> String {
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    side.p50.zip(side.p99).map_or("–".into(), |(p50, p99)| format!("{:.2} / {:.2}", ms(p50), ms(p99)))
}

fn document(row: &Row) -> serde_json::Value {
    let one = |rounds: &[Round]| {
        let side = side(rounds);
        json!({ "median": side.median, "least": side.least, "most": side.most,
                "p50_s": side.p50.map(|t| t.as_secs_f64()), "p99_s": side.p99.map(|t| t.as_secs_f64()) })
    };
    json!({ "name": row.name, "raw": one(&row.raw), "ours": one(&row.ours), "ratio": row.ratio(), "verdict": row.verdict() })
}
