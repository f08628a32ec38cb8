//! Keeps the rows for which an expression is true; NULL is not true.

use std::sync::Arc;

use arrow::array::{Array, BooleanArray};
use datafusion_physical_expr::PhysicalExpr;

use crate::stream::operator::{Batch, Failure, Operator, Output};

/// See the module's header.
pub struct Filter {
    predicate: Arc<dyn PhysicalExpr>,
}

impl Filter {
    /// `predicate` is over the input and boolean.
    pub fn new(predicate: Arc<dyn PhysicalExpr>) -> Filter {
        Filter { predicate }
    }
}

impl Operator for Filter {
    fn batch(&mut self, batch: Batch, out: &mut dyn Output) -> Result<(), Failure> {
        let verdict = self.predicate.evaluate(&batch.rows)?.into_array(batch.len())?;
        let Some(verdict) = verdict.as_any().downcast_ref::<BooleanArray>() else {
            return Err(Failure::Rows(format!(
                "the condition {} is {} instead of BOOLEAN",
                self.predicate,
                verdict.data_type()
            )));
        };
        if verdict.null_count() == 0 && verdict.true_count() == verdict.len() {
            return out.batch(batch);
        }
        out.batch(batch.filter(verdict)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::operator::testing::Kept;
    use arrow::array::Int64Array;
    use arrow::record_batch::RecordBatch;
    use datafusion_common::ScalarValue;
    use datafusion_expr::Operator as Op;
    use datafusion_physical_expr::expressions::{BinaryExpr, col, lit};

    #[test]
    fn rows_whose_condition_is_null_or_false_are_dropped_with_their_watermarks() {
        let numbers = Int64Array::from(vec![Some(1), None, Some(3), Some(4)]);
        let rows = RecordBatch::try_from_iter([("n", Arc::new(numbers) as _)]).unwrap();
        let n = col("n", &rows.schema()).unwrap();
        let over_two = Arc::new(BinaryExpr::new(n, Op::Gt, lit(ScalarValue::Int64(Some(2)))));
        let mut batch = Batch::inserts(rows);
        batch.watermarks = Some(Int64Array::from(vec![10, 20, 30, 40]));

        let mut out = Kept::default();
        Filter::new(over_two).batch(batch, &mut out).unwrap();

        assert_eq!(out.lines(), ["3", "4"]);
        let watermarks = out.batches[0].watermarks.as_ref().unwrap();
        assert_eq!(watermarks.values().to_vec(), [30, 40]);
    }
}
