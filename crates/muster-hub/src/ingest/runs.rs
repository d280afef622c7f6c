//! What devices tell of runs: each report once, by its number.

use muster_proto::id::{DeviceUid, RunId};
use muster_proto::run::{RunReport, RunReportKind};

use super::{Ingest, Refused};
use crate::clock;
use crate::store::runs::{self, Reported, RunRow};
use crate::store::telemetry;

/// Told of every change of a run, after its commit, and whether the device took it just now. Must not block.
pub type RunSink = Box<dyn Fn(&RunRow, bool) + Send + Sync>;

impl Ingest {
    /// Sets who is told of runs. Once, at start.
    pub fn on_run(&self, sink: RunSink) {
        if self.0.run_sink.set(sink).is_err() {
            tracing::warn!("a second listener for runs was ignored");
        }
    }

    pub(super) async fn run_report(&self, uid: &DeviceUid, run: &RunId, payload: &[u8]) -> Result<(), Refused> {
        let report = RunReport::decode(payload)?;
        let patient = matches!(report.kind, RunReportKind::Output(_));
        let first = matches!(report.kind, RunReportKind::Accepted | RunReportKind::Started);
        let (owner, id) = (uid.clone(), run.clone());
        let work = move |tx: &rusqlite::Transaction<'_>| {
            if !telemetry::is_admitted(tx, &owner)? {
                return Ok(None);
            }
            runs::report(tx, &owner, &id, &report, clock::now()).map(Some)
        };
        let written = if patient { self.0.store.write_patiently(work).await } else { self.0.store.write(work).await };
        match written?.ok_or(Refused::NotAdmitted)? {
            // Deleted with its organization, or of another hub's life: nothing that the device could do better.
            Reported::Unknown => tracing::debug!(%uid, %run, "a report of a run that is not known"),
            Reported::Nothing => {}
            Reported::Changed(row) | Reported::Ended(row) => {
                if let Some(sink) = self.0.run_sink.get() {
                    sink(&row, first);
                }
            }
        }
        self.heard(uid, None).await?;
        Ok(())
    }
}
