//! Computes the output columns from the input's.

use std::sync::Arc;

use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion_physical_expr::PhysicalExpr;

use crate::stream::operator::{Batch, Failure, Operator, Output};

/// See the module's header.
pub struct Project {
    columns: Vec<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
}

impl Project {
    /// One expression over the input per field of `schema`.
    pub fn new(columns: Vec<Arc<dyn PhysicalExpr>>, schema: SchemaRef) -> Project {
        Project { columns, schema }
    }

    /// The computed columns.
    pub fn evaluate(&self, rows: &RecordBatch) -> Result<RecordBatch, Failure> {
        let mut columns = Vec::with_capacity(self.columns.len());
        for (expr, field) in self.columns.iter().zip(self.schema.fields()) {
            let column = expr.evaluate(rows)?.into_array(rows.num_rows())?;
            // A planner may leave a representation to the expression (Utf8 beside Utf8View); the
            // schema is what the next operator was built for.
            columns.push(if column.data_type() == field.data_type() {
                column
            } else {
                cast(&column, field.data_type())?
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|error| Failure::Rows(error.to_string()))
    }
}

impl Operator for Project {
    fn batch(&mut self, batch: Batch, out: &mut dyn Output) -> Result<(), Failure> {
        let rows = self.evaluate(&batch.rows)?;
        out.batch(Batch { rows, kinds: batch.kinds, watermarks: batch.watermarks })
    }
}
