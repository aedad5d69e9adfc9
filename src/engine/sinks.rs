//! What sinks are told of a view.

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::DataType;
use dataflows::Updates;
use dataflows::group_index::GroupIndex;

/// Adds changes up: equal rows become one, and what came and went is none. None, where nothing is left.
pub(super) fn net(changes: &[Updates]) -> Option<(RecordBatch, Vec<i64>)> {
    let schema = changes.first()?.rows().schema();
    let rows = concat_batches(&schema, changes.iter().map(Updates::rows)).expect("rows of one view have one schema");
    let types: Vec<DataType> = schema.fields().iter().map(|field| field.data_type().clone()).collect();
    let mut index = GroupIndex::new(&types);
    let mut groups = Vec::new();
    index.intern(rows.columns(), rows.num_rows(), &mut groups);
    let mut sums = vec![0; index.groups()];
    let mut first = vec![0; index.groups()];
    let diffs = changes.iter().flat_map(|updates| updates.diffs().iter());
    for (row, (&group, diff)) in groups.iter().zip(diffs).enumerate() {
        sums[group as usize] += diff;
        // Any of equal rows will do.
        first[group as usize] = row as u32;
    }
    let mut left: Vec<(u32, i64)> = first.into_iter().zip(sums).filter(|(_, diff)| *diff != 0).collect();
    left.sort_unstable();
    if left.is_empty() {
        return None;
    }
    let (places, diffs): (Vec<u32>, Vec<i64>) = left.into_iter().unzip();
    let rows = take_record_batch(&rows, &UInt32Array::from(places)).expect("rows of the batch");
    Some((rows, diffs))
}
