//! Series by label, with a cap on how many; and counters that are looked up once.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder},
    metrics::{MetricType, TypedMetric, counter::Counter},
};

/// The value of every label of the series that takes what is over the cap.
pub(super) const OTHER: &str = "other";

type Series<const N: usize, M> = BTreeMap<[String; N], M>;

/// A metric with `N` labels. Cloning gives another handle on the same series.
#[derive(Clone)]
pub(super) struct Family<const N: usize, M> {
    labels: [&'static str; N],
    cap: usize,
    series: Arc<Mutex<Series<N, M>>>,
}

impl<const N: usize, M: Clone + Default> Family<N, M> {
    pub(super) fn new(labels: [&'static str; N], cap: usize) -> Family<N, M> {
        Family { labels, cap, series: Arc::default() }
    }

    /// The series of these label values; the one called [`OTHER`] when it would be one too many.
    pub(super) fn get(&self, values: [&str; N]) -> M {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let key = values.map(str::to_owned);
        if let Some(known) = series.get(&key) {
            return known.clone();
        }
        let key = if series.len() < self.cap { key } else { values.map(|_| OTHER.to_owned()) };
        series.entry(key).or_default().clone()
    }
}

impl<const N: usize, M> fmt::Debug for Family<N, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Family").field("labels", &self.labels).finish_non_exhaustive()
    }
}

impl<const N: usize, M: EncodeMetric + TypedMetric> EncodeMetric for Family<N, M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        for (values, metric) in series.iter() {
            let labels: Vec<(&str, &str)> = self.labels.into_iter().zip(values.iter().map(String::as_str)).collect();
            metric.encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }
}

/// The counters of a closed set of cases, each looked up when it first happens: after that, an addition.
pub(super) struct Cases(Box<[OnceLock<Counter>]>);

impl Cases {
    pub(super) fn new(count: usize) -> Cases {
        Cases((0..count).map(|_| OnceLock::new()).collect())
    }

    pub(super) fn add(&self, case: usize, find: impl FnOnce() -> Counter) {
        match self.0.get(case) {
            Some(counter) => counter.get_or_init(find).inc(),
            None => find().inc(),
        };
    }
}
