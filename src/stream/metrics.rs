//! What Prometheus sees of jobs.

use prometheus::{CounterVec, GaugeVec, Histogram, HistogramOpts, IntCounterVec, Opts};

use crate::metrics::Metrics;

/// The counters of all jobs; registered once per broker.
#[derive(Clone)]
pub(crate) struct JobMetrics {
    pub(crate) records_in: IntCounterVec,
    pub(crate) records_out: IntCounterVec,
    pub(crate) late_records: IntCounterVec,
    pub(crate) backpressured_seconds: CounterVec,
    pub(crate) watermark_seconds: GaugeVec,
    pub(crate) checkpoint_seconds: Histogram,
}

impl JobMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Result<JobMetrics, prometheus::Error> {
        let per_job = |name: &str, help: &str| Opts::new(name, help);
        let records_in = IntCounterVec::new(
            per_job("ottla_job_records_in_total", "Rows that jobs read from topics."),
            &["job"],
        )?;
        let records_out = IntCounterVec::new(
            per_job("ottla_job_records_out_total", "Rows that jobs wrote to topics."),
            &["job"],
        )?;
        let late_records = IntCounterVec::new(
            per_job(
                "ottla_job_late_records_total",
                "Rows that windows dropped because the watermark had passed their end.",
            ),
            &["job"],
        )?;
        let backpressured_seconds = CounterVec::new(
            per_job(
                "ottla_job_backpressured_seconds_total",
                "Time that a job's subtasks waited for room in the queue of the next one.",
            ),
            &["job"],
        )?;
        let watermark_seconds = GaugeVec::new(
            per_job(
                "ottla_job_watermark_seconds",
                "Smallest watermark of a job's sources, in seconds since 1970.",
            ),
            &["job"],
        )?;
        let checkpoint_seconds = Histogram::with_opts(
            HistogramOpts::new(
                "ottla_job_checkpoint_seconds",
                "Time of a checkpoint, from its barrier to its commit record.",
            )
            .buckets(vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0]),
        )?;
        let registry = metrics.registry();
        registry.register(Box::new(records_in.clone()))?;
        registry.register(Box::new(records_out.clone()))?;
        registry.register(Box::new(late_records.clone()))?;
        registry.register(Box::new(backpressured_seconds.clone()))?;
        registry.register(Box::new(watermark_seconds.clone()))?;
        registry.register(Box::new(checkpoint_seconds.clone()))?;
        Ok(JobMetrics {
            records_in,
            records_out,
            late_records,
            backpressured_seconds,
            watermark_seconds,
            checkpoint_seconds,
        })
    }

    /// Forgets an ended job's series, so that they do not pile up.
    pub(crate) fn forget(&self, job: &str) {
        // A series that was never touched is not there to remove.
        let _ = self.records_in.remove_label_values(&[job]);
        let _ = self.records_out.remove_label_values(&[job]);
        let _ = self.late_records.remove_label_values(&[job]);
        let _ = self.backpressured_seconds.remove_label_values(&[job]);
        let _ = self.watermark_seconds.remove_label_values(&[job]);
    }
}
