//! Event-time tumbling windows: rows of one key and window are aggregated, and a window's results
//! leave when the watermark passes its end. Late rows are dropped and counted.
//!
//! State is one bucket per window, dropped whole when it fires. At a barrier only the chunks of
//! keys that changed are handed over. The operator's watermark is part of the state: after a
//! restore the same rows are late as without the crash.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, TimestampMillisecondArray, UInt32Array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit, TimestampMillisecondType};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use datafusion_expr::{EmitTo, GroupsAccumulator};
use datafusion_physical_expr::GroupsAccumulatorAdapter;
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;
use prometheus::IntCounter;

use crate::stream::graph::TumbleAggregate as Plan;
use crate::stream::operator::{
    Barrier, Batch, Failure, Operator, Output, Snapshot, StateEntry, Watermark,
};
use crate::stream::state::{self, EncodedKeys, KeyEncoder, KeyGroups, KeyIndex, StateBudget};
use crate::types::Timestamp;

/// Keys per piece of state: what is handed over when one of them changed.
const CHUNK_KEYS: usize = 1024;
/// Rows per emitted batch.
const EMIT_ROWS: usize = 8192;

/// State keys, by their first byte. Persisted: never reuse a number.
const KEY_WATERMARK: u8 = 0;
const KEY_CHUNK: u8 = 1;

/// See the module's header.
pub struct TumbleAggregate {
    plan: Plan,
    size_ms: i64,
    schema: SchemaRef,
    keys: KeyEncoder,
    key_groups: KeyGroups,
    /// By window start.
    windows: BTreeMap<i64, Window>,
    /// The last watermark; `i64::MIN` before the first.
    watermark_ms: i64,
    watermark_dirty: bool,
    /// Chunks of windows that fired since the last barrier and were handed over before.
    removed: Vec<Vec<u8>>,
    /// Rows dropped because their window had already fired.
    late_rows: u64,
    late_records: Option<IntCounter>,
    budget: StateBudget,
}

/// One window's keys and their accumulators.
struct Window {
    keys: KeyIndex,
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
    /// Per chunk of keys: changed since the last barrier, handed over before.
    chunks: Vec<Chunk>,
    /// What it takes of the budget.
    bytes: usize,
}

#[derive(Clone, Copy, Default)]
struct Chunk {
    dirty: bool,
    stored: bool,
}

impl TumbleAggregate {
    /// `input` are the rows it takes, `schema` those it puts out.
    pub fn new(
        plan: Plan,
        input: &SchemaRef,
        schema: SchemaRef,
        key_groups: KeyGroups,
    ) -> Result<TumbleAggregate, Failure> {
        let size_ms = i64::try_from(plan.size.as_millis()).unwrap_or(0);
        if size_ms <= 0 {
            return Err(Failure::Rows("a window must be at least one millisecond long".to_owned()));
        }
        let types = plan.keys.iter().map(|&key| input.field(key).data_type().clone()).collect();
        let keys = KeyEncoder::new(types)?;
        // Built once to learn early what cannot be built.
        for aggregate in &plan.aggregates {
            accumulator(aggregate)?;
        }
        Ok(TumbleAggregate {
            plan,
            size_ms,
            schema,
            keys,
            key_groups,
            windows: BTreeMap::new(),
            watermark_ms: i64::MIN,
            watermark_dirty: false,
            removed: Vec::new(),
            late_rows: 0,
            late_records: None,
            budget: StateBudget::new(usize::MAX),
        })
    }

    /// Counts late rows into `late_records` and takes its state from `budget`.
    #[must_use]
    pub fn accounted(self, late_records: IntCounter, budget: StateBudget) -> TumbleAggregate {
        TumbleAggregate { late_records: Some(late_records), budget, ..self }
    }

    /// Start of the window of `time_ms`; also right before 1970.
    fn window_start(&self, time_ms: i64) -> i64 {
        let shifted = time_ms.saturating_sub(self.plan.offset_ms);
        time_ms.saturating_sub(shifted.rem_euclid(self.size_ms))
    }

    fn times(&self, rows: &RecordBatch) -> Result<TimestampMillisecondArray, Failure> {
        let column = rows.column(self.plan.time);
        let name = rows.schema().field(self.plan.time).name().clone();
        if column.null_count() > 0 {
            return Err(Failure::Rows(format!(
                "rowtime must not be null: column '{name}' is the window's time and has a NULL; \
                 filter such rows out before the window (WHERE {name} IS NOT NULL)"
            )));
        }
        Ok(match column.data_type() {
            DataType::Timestamp(TimeUnit::Millisecond, _) => {
                column.as_primitive::<TimestampMillisecondType>().clone()
            }
            _ => cast(column, &DataType::Timestamp(TimeUnit::Millisecond, None))?
                .as_primitive::<TimestampMillisecondType>()
                .clone(),
        })
    }

    fn emit(
        &mut self,
        start: i64,
        mut window: Window,
        out: &mut dyn Output,
    ) -> Result<(), Failure> {
        self.budget.resize(window.bytes, 0)?;
        let rows = window.keys.len();
        let end = start.saturating_add(self.size_ms);
        let mut columns = self.keys.decode(window.keys.keys())?;
        for time in [start, end, end.saturating_sub(1)] {
            columns.push(Arc::new(TimestampMillisecondArray::from_value(time, rows)));
        }
        for accumulator in &mut window.accumulators {
            columns.push(accumulator.evaluate(EmitTo::All)?);
        }
        for (column, field) in columns.iter_mut().zip(self.schema.fields()) {
            if column.data_type() != field.data_type() {
                *column = cast(column, field.data_type())?;
            }
        }
        let all = RecordBatch::try_new(self.schema.clone(), columns)?;
        for from in (0..rows).step_by(EMIT_ROWS) {
            out.batch(Batch::inserts(all.slice(from, EMIT_ROWS.min(rows - from))))?;
        }
        for (index, chunk) in window.chunks.iter().enumerate() {
            if chunk.stored {
                self.removed.push(chunk_key(start, index));
            }
        }
        Ok(())
    }
}

fn accumulator(
    aggregate: &Arc<AggregateFunctionExpr>,
) -> Result<Box<dyn GroupsAccumulator>, Failure> {
    if aggregate.groups_accumulator_supported() {
        return Ok(aggregate.create_groups_accumulator()?);
    }
    let aggregate = aggregate.clone();
    Ok(Box::new(GroupsAccumulatorAdapter::new(move || aggregate.create_accumulator())))
}

impl Window {
    fn new(aggregates: &[Arc<AggregateFunctionExpr>]) -> Result<Window, Failure> {
        let accumulators = aggregates.iter().map(accumulator).collect::<Result<_, _>>()?;
        Ok(Window { keys: KeyIndex::default(), accumulators, chunks: Vec::new(), bytes: 0 })
    }

    /// Tells the budget how large it has become.
    fn account(&mut self, budget: &StateBudget) -> Result<(), Failure> {
        let accumulators: usize = self.accumulators.iter().map(|a| a.size()).sum();
        let before = std::mem::replace(&mut self.bytes, self.keys.size_bytes() + accumulators);
        budget.resize(before, self.bytes)
    }

    /// Finds each row's group and marks its chunk.
    fn groups(&mut self, keys: &EncodedKeys, rows: impl Iterator<Item = usize>) -> Vec<usize> {
        rows.map(|row| {
            let group = self.keys.position(keys.key(row));
            let chunk = group / CHUNK_KEYS;
            if self.chunks.len() <= chunk {
                self.chunks.push(Chunk::default());
            }
            self.chunks[chunk].dirty = true;
            group
        })
        .collect()
    }

    fn snapshot(
        &mut self,
        start: i64,
        full: bool,
        encoder: &KeyEncoder,
        entries: &mut Vec<StateEntry>,
    ) -> Result<(), Failure> {
        if !full && !self.chunks.iter().any(|chunk| chunk.dirty) {
            return Ok(());
        }
        // Reading state takes it out of an accumulator: it is merged back below.
        let groups = self.keys.len();
        let all_groups: Vec<usize> = (0..groups).collect();
        let mut states = Vec::with_capacity(self.accumulators.len());
        for accumulator in &mut self.accumulators {
            let state = accumulator.state(EmitTo::All)?;
            accumulator.merge_batch(&state, &all_groups, groups)?;
            states.extend(state);
        }
        for (index, chunk) in self.chunks.iter_mut().enumerate() {
            if !(full || chunk.dirty) {
                continue;
            }
            *chunk = Chunk { dirty: false, stored: true };
            let from = index * CHUNK_KEYS;
            let rows = CHUNK_KEYS.min(groups - from);
            let keys = (from..from + rows).map(|position| self.keys.key(position));
            let mut columns = encoder.decode(keys)?;
            columns.extend(states.iter().map(|state| state.slice(from, rows)));
            let value = state::encode(columns, rows)?;
            entries.push(StateEntry { key: chunk_key(start, index), value: Some(value) });
        }
        Ok(())
    }
}

/// Window start and chunk number.
fn chunk_key(start: i64, chunk: usize) -> Vec<u8> {
    let mut key = vec![KEY_CHUNK];
    key.extend(start.to_be_bytes());
    key.extend((chunk as u32).to_be_bytes());
    key
}

impl Operator for TumbleAggregate {
    fn batch(&mut self, batch: Batch, _out: &mut dyn Output) -> Result<(), Failure> {
        if !batch.is_inserts() {
            return Err(Failure::Rows(
                "a window aggregate takes inserts only, not updates or deletes".to_owned(),
            ));
        }
        let times = self.times(&batch.rows)?;
        let mut by_window: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        let late_before = self.late_rows;
        // Rows of a window often stand together: remember the last one's list.
        let mut last: Option<(i64, Vec<u32>)> = None;
        for (row, &time) in times.values().iter().enumerate() {
            let start = self.window_start(time);
            let in_force = match &batch.watermarks {
                Some(watermarks) => watermarks.value(row).max(self.watermark_ms),
                None => self.watermark_ms,
            };
            if start.saturating_add(self.size_ms - 1) <= in_force {
                self.late_rows += 1;
                continue;
            }
            match &mut last {
                Some((window, rows)) if *window == start => rows.push(row as u32),
                _ => {
                    if let Some((window, rows)) = last.take() {
                        by_window.insert(window, rows);
                    }
                    let mut rows = by_window.remove(&start).unwrap_or_default();
                    rows.push(row as u32);
                    last = Some((start, rows));
                }
            }
        }
        by_window.extend(last);
        if let Some(late_records) = &self.late_records {
            late_records.inc_by(self.late_rows - late_before);
        }
        if by_window.is_empty() {
            return Ok(());
        }
        let key_columns: Vec<ArrayRef> =
            self.plan.keys.iter().map(|&key| batch.rows.column(key).clone()).collect();
        let keys = self.keys.encode(&key_columns)?;
        let mut arguments = Vec::with_capacity(self.plan.aggregates.len());
        for aggregate in &self.plan.aggregates {
            let values = aggregate
                .expressions()
                .iter()
                .map(|expr| expr.evaluate(&batch.rows)?.into_array(batch.len()))
                .collect::<Result<Vec<_>, _>>()?;
            arguments.push(values);
        }
        for (start, rows) in by_window {
            let window = match self.windows.entry(start) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(Window::new(&self.plan.aggregates)?)
                }
            };
            let groups = window.groups(&keys, rows.iter().map(|row| *row as usize));
            let total = window.keys.len();
            let whole = rows.len() == batch.len();
            let rows = UInt32Array::from(rows);
            for (accumulator, values) in window.accumulators.iter_mut().zip(&arguments) {
                if whole {
                    accumulator.update_batch(values, &groups, None, total)?;
                } else {
                    let picked = values
                        .iter()
                        .map(|value| take(value, &rows, None))
                        .collect::<Result<Vec<_>, _>>()?;
                    accumulator.update_batch(&picked, &groups, None, total)?;
                }
            }
            window.account(&self.budget)?;
        }
        Ok(())
    }

    fn watermark(&mut self, watermark: Watermark, out: &mut dyn Output) -> Result<(), Failure> {
        if watermark.0.0 > self.watermark_ms {
            self.watermark_ms = watermark.0.0;
            self.watermark_dirty = true;
            while let Some(entry) = self.windows.first_entry() {
                let start = *entry.key();
                if start.saturating_add(self.size_ms - 1) > self.watermark_ms {
                    break;
                }
                let window = entry.remove();
                self.emit(start, window, out)?;
            }
        }
        out.watermark(Watermark(Timestamp(self.watermark_ms)))
    }

    fn barrier(&mut self, barrier: Barrier, snapshot: &mut Snapshot) -> Result<(), Failure> {
        for key in self.removed.drain(..) {
            snapshot.state.push(StateEntry { key, value: None });
        }
        if std::mem::take(&mut self.watermark_dirty)
            || (barrier.full && self.watermark_ms != i64::MIN)
        {
            snapshot.state.push(StateEntry {
                key: vec![KEY_WATERMARK],
                value: Some(Bytes::copy_from_slice(&self.watermark_ms.to_be_bytes())),
            });
        }
        for (start, window) in &mut self.windows {
            window.snapshot(*start, barrier.full, &self.keys, &mut snapshot.state)?;
        }
        Ok(())
    }

    fn restore(&mut self, entries: &[StateEntry]) -> Result<(), Failure> {
        for entry in entries {
            let Some(value) = &entry.value else { continue };
            match entry.key.split_first() {
                Some((&KEY_WATERMARK, _)) => {
                    let watermark = <[u8; 8]>::try_from(value.as_ref()).map_err(|_| damaged())?;
                    // Barriers are aligned: all subtasks had the same watermark.
                    self.watermark_ms = self.watermark_ms.max(i64::from_be_bytes(watermark));
                }
                Some((&KEY_CHUNK, rest)) if rest.len() == 12 => {
                    let start = <[u8; 8]>::try_from(&rest[..8]).map_err(|_| damaged())?;
                    self.restore_chunk(i64::from_be_bytes(start), value)?;
                }
                _ => return Err(damaged()),
            }
        }
        Ok(())
    }
}

fn damaged() -> Failure {
    Failure::Storage("a window's state cannot be read: an entry has an unknown shape".to_owned())
}

impl TumbleAggregate {
    fn restore_chunk(&mut self, start: i64, value: &[u8]) -> Result<(), Failure> {
        let batch = state::decode(value)?;
        let key_count = self.plan.keys.len();
        if batch.num_columns() < key_count {
            return Err(damaged());
        }
        let keys = self.keys.encode(&batch.columns()[..key_count])?;
        let own: Vec<u32> = (0..batch.num_rows())
            .filter(|&row| self.key_groups.own(state::hash(keys.key(row))))
            .map(|row| row as u32)
            .collect();
        if own.is_empty() {
            return Ok(());
        }
        let window = match self.windows.entry(start) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(Window::new(&self.plan.aggregates)?)
            }
        };
        let groups = window.groups(&keys, own.iter().map(|row| *row as usize));
        let total = window.keys.len();
        let own = UInt32Array::from(own);
        let mut column = key_count;
        for (accumulator, aggregate) in window.accumulators.iter_mut().zip(&self.plan.aggregates) {
            let width = aggregate.state_fields()?.len();
            let Some(states) = batch.columns().get(column..column + width) else {
                return Err(damaged());
            };
            column += width;
            let states = states
                .iter()
                .map(|state| take(state, &own, None))
                .collect::<Result<Vec<_>, _>>()?;
            accumulator.merge_batch(&states, &groups, total)?;
        }
        window.account(&self.budget)
    }
}

#[cfg(test)]
mod tests;
