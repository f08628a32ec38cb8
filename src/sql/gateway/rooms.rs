//! What a session needs of the rooms below, as a door that tests can stand in for.

use futures_util::future::BoxFuture;

use crate::metadata::Metadata;
use crate::stream::job::{JobError, JobId, JobStatus, Jobs, NewJob};

/// Topics and jobs.
pub(in crate::sql) trait Rooms: Send + Sync + 'static {
    /// The names of all topics that are not internal.
    fn topics(&self) -> Vec<String>;
    /// Persists and starts a job.
    fn submit(&self, job: NewJob) -> BoxFuture<'_, Result<JobId, JobError>>;
    /// All jobs, newest first.
    fn jobs(&self) -> Vec<JobStatus>;
    /// Ends a job, after a last checkpoint or at once.
    fn end<'a>(&'a self, id: &'a str, checkpoint: bool) -> BoxFuture<'a, Result<(), JobError>>;
}

/// The broker's own.
pub(in crate::sql) struct BrokerRooms {
    pub(super) metadata: Metadata,
    pub(super) jobs: Jobs,
}

impl Rooms for BrokerRooms {
    fn topics(&self) -> Vec<String> {
        let image = self.metadata.image();
        let visible = image.topics().filter(|topic| !topic.internal);
        visible.map(|topic| topic.name.to_string()).collect()
    }

    fn submit(&self, job: NewJob) -> BoxFuture<'_, Result<JobId, JobError>> {
        Box::pin(self.jobs.submit(job))
    }

    fn jobs(&self) -> Vec<JobStatus> {
        self.jobs.list()
    }

    fn end<'a>(&'a self, id: &'a str, checkpoint: bool) -> BoxFuture<'a, Result<(), JobError>> {
        Box::pin(async move {
            match checkpoint {
                true => self.jobs.stop(id).await,
                false => self.jobs.cancel(id).await,
            }
        })
    }
}
