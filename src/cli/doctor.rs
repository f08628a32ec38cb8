//! `ottla doctor DATA_DIR`: verifies all that a stopped broker's directory holds and names each bad
//! offset. With `--repair` it makes damaged logs writable again and tells what was given up.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use crate::log::data_dir::DataDir;
use crate::log::repair::Mended;
use crate::log::verify::{AtRest, Finding, Report};
use crate::metadata::at_rest::{Belongs, TopicsAtRest};
use crate::types::{LogId, Progress, TopicId};

use super::{progress, serve, table};

/// The most topics that the table shows if nothing is bad about them.
const WHOLE_TOPICS_MAX: usize = 50;

/// Prints what it finds and does; the code is 1 when something is bad at its end.
pub(super) fn run(path: &Path, repair: bool) -> anyhow::Result<ExitCode> {
    // A second start of the log, as in tests, changes nothing.
    let _ = serve::start_logging();
    let claim = DataDir::inspect(path)?;
    let mut out = std::io::stdout().lock();
    for stranger in claim.strangers()? {
        writeln!(out, "note: {stranger} in {} is not Ottla's", path.display())?;
    }
    if !claim.logs().try_exists()? {
        writeln!(out, "{} holds no logs yet: nothing to verify", path.display())?;
        return Ok(ExitCode::SUCCESS);
    }
    let logs = AtRest::open(&claim)?;
    if let Some(fault) = logs.view_fault() {
        writeln!(out, "note: whether a log has lost its end cannot be told: {fault}")?;
    }
    for stranger in logs.strangers()? {
        writeln!(out, "note: {stranger} in {} is no log", claim.logs().display())?;
    }
    let failed = wal(&mut out, &logs, repair)?;
    let topics = TopicsAtRest::read(&logs)?;
    let mut examination = Examination { out, logs, topics, tally: BTreeMap::new(), failed };
    let ids = examination.logs.logs()?;
    let watched = Progress::default();
    watched.begin(if repair { "repairing logs" } else { "verifying logs" }, ids.len() as u64);
    let shown = progress::show(&watched);
    for id in ids {
        let outcome = examination.log(id, repair, &watched);
        if let Err(error) = outcome {
            // One log that cannot be read must not hide what is wrong with the others.
            examination.failed += 1;
            let label = examination.topics.label(id);
            progress::above(|| writeln!(examination.out, "bad: {label}: {error}"))?;
        }
        watched.advance();
    }
    drop(shown);
    examination.end(path, repair)
}

/// Looks at the write-ahead log, or replays it; how much is wrong with it then.
fn wal(out: &mut impl Write, logs: &AtRest, repair: bool) -> anyhow::Result<u64> {
    if repair {
        // First, as a start does: what a power loss took from the end of a log is not lost.
        for given_up in logs.repair_wal()? {
            writeln!(out, "given up: {given_up}")?;
        }
        return Ok(0);
    }
    let (pending, faults) = logs.pending()?;
    for fault in &faults {
        writeln!(
            out,
            "bad: {fault}; a start refuses it, --repair gives up what cannot be replayed"
        )?;
    }
    if pending > 0 {
        writeln!(
            out,
            "note: {pending} appends wait in the write-ahead log: a start, or --repair, replays them into their \
             logs, which may mend what is told here of the ends of logs"
        )?;
    }
    Ok(faults.len() as u64)
}

/// What is known so far.
struct Examination<'a> {
    out: std::io::StdoutLock<'a>,
    logs: AtRest,
    topics: TopicsAtRest,
    tally: BTreeMap<TopicId, Tally>,
    /// Logs that could not be examined or repaired, and faults of the write-ahead log.
    failed: u64,
}

/// One topic's share of the table.
#[derive(Default)]
struct Tally {
    logs: u64,
    bytes: u64,
    bad: u64,
    given_up: u64,
    notes: u64,
}

impl Examination<'_> {
    fn log(&mut self, log: LogId, repair: bool, watched: &Progress) -> anyhow::Result<()> {
        let mut report = self.logs.verify(log, watched)?;
        self.tell(&report)?;
        if repair && !report.findings.is_empty() {
            let given_up = self.repair(log, watched)?;
            self.tally.entry(log.topic).or_default().given_up += given_up;
            // Not what should be there counts, but what is.
            let notes = std::mem::take(&mut report.notes);
            report = self.logs.verify(log, watched)?;
            report.notes = notes;
            for finding in &report.findings {
                self.tell_finding(log, finding)?;
            }
        }
        let tally = self.tally.entry(log.topic).or_default();
        tally.logs += 1;
        tally.bytes += report.bytes;
        tally.bad += report.findings.len() as u64;
        tally.notes += report.notes.len() as u64;
        Ok(())
    }

    fn tell(&mut self, report: &Report) -> anyhow::Result<()> {
        let log = report.log;
        for finding in &report.findings {
            self.tell_finding(log, finding)?;
        }
        let orphan = match self.topics.belongs(log) {
            Belongs::Journal | Belongs::Topic { .. } => None,
            Belongs::Deleted => Some("it is left of a deleted topic, the next start removes it"),
            Belongs::Nothing => Some("it belongs to no topic in the metadata, brokers let it lie"),
        };
        let label = self.topics.label(log);
        for note in report.notes.iter().map(String::as_str).chain(orphan) {
            progress::above(|| writeln!(self.out, "note: {label}: {note}"))?;
        }
        Ok(())
    }

    fn tell_finding(&mut self, log: LogId, finding: &Finding) -> anyhow::Result<()> {
        let label = self.topics.label(log);
        let Finding { segment, offset, next, position, reason } = finding;
        let rest = match next {
            Some(next) => format!("readable again from offset {next}"),
            None => "the log's end, which the next start cuts off if the rest is whole".to_owned(),
        };
        progress::above(|| {
            writeln!(
                self.out,
                "bad: {label}: offset {offset} in segment {segment} at byte {position}: \
                 {reason}; {rest}"
            )
        })?;
        Ok(())
    }

    /// Repairs a log; how many offsets were given up.
    fn repair(&mut self, log: LogId, watched: &Progress) -> anyhow::Result<u64> {
        // A decision that is passed over is forgotten: topics would vanish, or ids be given twice.
        let lossless = self.topics.belongs(log) == Belongs::Journal;
        let label = self.topics.label(log);
        let done = self.logs.repair(log, lossless, watched).map_err(|error| {
            let advice = match lossless {
                true => {
                    "; the journal holds decisions and cannot be passed over: restore this log \
                         from a copy of the directory"
                }
                false => "",
            };
            anyhow::anyhow!("{error}{advice}")
        })?;
        let mut given_up = 0;
        for mended in done {
            let line = match mended {
                Mended::GivenUp { from, to, saved } => {
                    given_up += to.get() - from.get();
                    let saved = match saved {
                        Some(path) => format!("the damaged bytes are in {}", path.display()),
                        None => "nothing of them was left".to_owned(),
                    };
                    let (last, count) = (to.get() - 1, to.get() - from.get());
                    format!("gave up offsets {from} to {last} ({count}): {saved}")
                }
                Mended::Restored { from, to, saved } => format!(
                    "restored offsets {from} to {}: only header fields were wrong; the damaged \
                     bytes are in {}",
                    to.get() - 1,
                    saved.display()
                ),
                Mended::Cut { end, saved } => format!(
                    "cut the torn end, the log goes on at offset {end}; what was cut is in {}",
                    saved.display()
                ),
            };
            progress::above(|| writeln!(self.out, "repaired: {label}: {line}"))?;
        }
        if given_up > 0 && self.topics.belongs(log) == (Belongs::Topic { internal: true }) {
            let means = match self.topics.name(log.topic).as_str() {
                "__consumer_offsets" => "groups whose commits lay there go on at older offsets",
                _ => {
                    "jobs whose state lay there would go on without it: cancel them and start them anew"
                }
            };
            progress::above(|| writeln!(self.out, "note: {label}: {means}"))?;
        }
        Ok(given_up)
    }

    /// Tells of what the metadata's journal holds whole but no broker starts on; how many records.
    fn tell_metadata(&mut self, repair: bool) -> anyhow::Result<u64> {
        if repair {
            // A batch that is whole again may be what the records behind it need.
            self.topics = TopicsAtRest::read(&self.logs)?;
        }
        if let Some((offset, reason)) = &self.topics.first_unreadable {
            let count = self.topics.unreadable;
            writeln!(
                self.out,
                "bad: {count} records of the metadata's journal cannot be understood, the first at \
                 offset {offset}: {reason}; no repair helps: start the version that wrote it, or restore \
                 the journal from a copy of the directory"
            )?;
        }
        Ok(self.topics.unreadable)
    }

    fn end(mut self, path: &Path, repair: bool) -> anyhow::Result<ExitCode> {
        let metadata = self.tell_metadata(repair)?;
        let whole = |tally: &Tally| tally.bad + tally.given_up + tally.notes == 0;
        let hide = self.tally.len() > WHOLE_TOPICS_MAX;
        let shown = self.tally.iter().filter(|(_, tally)| !hide || !whole(tally));
        let rows: Vec<Vec<String>> = shown
            .map(|(topic, tally)| {
                let Tally { logs, bytes, bad, given_up, notes } = tally;
                let mut row = vec![self.topics.name(*topic)];
                row.extend([logs, bytes, bad, notes].map(u64::to_string));
                if repair {
                    row.push(given_up.to_string());
                }
                row
            })
            .collect();
        let hidden = self.tally.len() - rows.len();
        let headers = ["topic", "logs", "bytes", "bad places", "notes", "offsets given up"];
        let headers = &headers[..if repair { 6 } else { 5 }];
        if !rows.is_empty() {
            write!(self.out, "{}", table::render(headers.iter().copied(), rows))?;
        }
        if hidden > 0 {
            writeln!(self.out, "{hidden} more topics are whole")?;
        }
        let sum = |part: fn(&Tally) -> u64| self.tally.values().map(part).sum::<u64>();
        let (logs, bytes, bad) = (sum(|t| t.logs), sum(|t| t.bytes), sum(|t| t.bad));
        let bad = bad + self.failed;
        let places = bad + metadata;
        writeln!(self.out, "verified {logs} logs, {bytes} bytes: {places} bad places")?;
        if places == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        if !repair && bad > 0 {
            writeln!(
                self.out,
                "copy the directory, then run `ottla doctor --repair {}`: it keeps every whole \
                 batch and gives up the offsets above",
                path.display()
            )?;
        }
        Ok(ExitCode::FAILURE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::batch::{self, NewRecord};
    use crate::metadata::local_journal::journal_topic;

    #[test]
    fn a_missing_foreign_or_served_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(run(&dir.path().join("absent"), false).is_err());
        let path = dir.path().join("ours");
        let served = DataDir::open(&path).unwrap();
        assert!(run(&path, true).unwrap_err().to_string().contains("in use"));
        drop(served);
        run(&path, false).unwrap();
        std::fs::write(dir.path().join("thesis.txt"), "").unwrap();
        assert!(run(dir.path(), true).unwrap_err().to_string().contains("not made by Ottla"));
    }

    #[test]
    fn a_damaged_log_ends_with_code_1_until_it_is_repaired() {
        let dir = tempfile::tempdir().unwrap();
        let logs = DataDir::open(dir.path()).unwrap().logs();
        let segment = logs.join(format!("{}-0", uuid::Uuid::from_u128(1)));
        std::fs::create_dir_all(&segment).unwrap();
        let record = NewRecord { value: Some("paid".into()), ..NewRecord::default() };
        let mut bytes = batch::encode(&[record], None).to_vec();
        let path = segment.join(format!("{:020}.log", 0));
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(run(dir.path(), false).unwrap(), ExitCode::SUCCESS);
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(run(dir.path(), false).unwrap(), ExitCode::FAILURE);
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        assert_eq!(run(dir.path(), true).unwrap(), ExitCode::SUCCESS);
        assert_eq!(run(dir.path(), false).unwrap(), ExitCode::SUCCESS);
        let saved = segment.join(format!("{:020}.damaged-at-0", 0));
        assert_eq!(std::fs::read(saved).unwrap(), bytes);
    }

    #[test]
    fn metadata_that_no_broker_starts_on_ends_with_code_1() {
        let id = uuid::Uuid::from_u128(1);
        let created = format!(
            r#"{{"version":1,"change":"topic_created","id":"{id}","name":"clicks","partitions":1,"configs":{{}},"internal":false}}"#
        );
        let deleted = format!(r#"{{"version":1,"change":"topic_deleted","id":"{id}"}}"#);
        for (changes, expected) in [
            (vec![created.as_str(), &deleted], ExitCode::SUCCESS),
            // Of a later version; not of any; and twice the same.
            (vec![r#"{"version":99}"#], ExitCode::FAILURE),
            (vec![created.as_str(), "{}"], ExitCode::FAILURE),
            (vec![created.as_str(), &deleted, &deleted], ExitCode::FAILURE),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let logs = DataDir::open(dir.path()).unwrap().logs();
            let journal = logs.join(format!("{}-0", journal_topic().0));
            std::fs::create_dir_all(&journal).unwrap();
            let record = |change: &&str| NewRecord {
                value: Some(change.as_bytes().to_vec().into()),
                ..NewRecord::default()
            };
            let records: Vec<NewRecord> = changes.iter().map(record).collect();
            let path = journal.join(format!("{:020}.log", 0));
            std::fs::write(&path, batch::encode(&records, None)).unwrap();
            for repair in [false, true] {
                assert_eq!(run(dir.path(), repair).unwrap(), expected, "{changes:?}");
            }
        }
    }
}
