//! Who sends simulated rows: listed, or read from a file with what it says of them.
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::column::Column;
use crate::error::{ConfigError, ReadError};
use crate::format::{Decoder, FormatConfig, FormatKind};
use crate::sources::Setting;
use crate::sources::file::open_bytes;
use crate::sources::simulate::{Entities, SimulateConfig};

/// Bytes of a file of entities.
const ENTITIES_BYTES_MAX: u64 = 64 << 20;

/// The senders that a simulation declares, and what is known of them.
pub(crate) struct EntityRows {
    pub(crate) keys: Vec<String>,
    pub(crate) column: Option<usize>,
    /// By column: one value an entity.
    pub(crate) fixed: BTreeMap<String, ArrayRef>,
}

/// Reads the senders, from the declaration or from a file; columns with a model
/// are left to it.
pub(crate) fn entity_rows(
    config: &SimulateConfig,
    setting: &Setting<'_>,
    modelled: &dyn Fn(&str) -> bool,
) -> Result<EntityRows, ConfigError> {
    let columns = setting.columns;
    let named = |name: &str| {
        columns
            .iter()
            .position(|column| column.field.name() == name)
            .ok_or_else(|| ConfigError::new(format!("entities: column \"{name}\" is not declared")))
    };
    let (column, body) = match &config.entities {
        None => {
            return Ok(EntityRows {
                keys: vec![String::new()],
                column: None,
                fixed: BTreeMap::new(),
            });
        }
        Some(Entities::Keys(values)) => {
            let text = columns
                .iter()
                .position(|column| *column.field.data_type() == DataType::Utf8);
            let column = text.ok_or_else(|| ConfigError::new("entities: there is no text column for their keys"))?;
            (column, lines(columns[column].field.name(), values))
        }
        Some(Entities::Values { column, values }) => (named(column)?, lines(column, values)),
        Some(Entities::File { column, file }) => (named(column)?, read_entities(&setting.directory.join(file))?),
    };
    // The other columns that a file may fill; what it lacks stays NULL.
    let is_plain = |at: usize, column: &Column| {
        at != column_of_time(setting) && column.field.name() != &config.simulated && !modelled(column.field.name())
    };
    let wanted: Vec<Column> = columns
        .iter()
        .enumerate()
        .filter(|(at, other)| *at == column || is_plain(*at, other))
        .map(|(at, other)| {
            let field = other.field.as_ref().clone().with_nullable(at != column);
            Column {
                field: Arc::new(field),
                from: other.from.clone(),
                key: other.key,
            }
        })
        .collect();
    let format = FormatConfig {
        kind: Some(FormatKind::Csv),
        ..FormatConfig::default()
    };
    let mut decoder = Decoder::new(&format, &wanted, setting.time_zone)?;
    let decoded = decoder.decode(&body);
    if let Some(rejected) = decoded.rejected.first() {
        return Err(ConfigError::new(format!(
            "entities: \"{}\": {}",
            rejected.raw, rejected.reason
        )));
    }
    let name = columns[column].field.name();
    let keys = decoded.rows.column_by_name(name).map(texts).unwrap_or_default();
    if keys.is_empty() {
        return Err(ConfigError::new("entities: there are none"));
    }
    let mut seen = HashSet::new();
    if let Some(twice) = keys.iter().find(|key| !seen.insert(key.as_str())) {
        return Err(ConfigError::new(format!("entities: \"{twice}\" stands there twice")));
    }
    let mut fixed = BTreeMap::new();
    for (field, values) in decoded.rows.schema().fields().iter().zip(decoded.rows.columns()) {
        // A column without any value is none that the file fills.
        let declared = columns.iter().find(|column| column.field.name() == field.name());
        let nullable = declared.is_some_and(|column| column.field.is_nullable());
        if values.null_count() == 0 || (nullable && values.null_count() < values.len()) {
            fixed.insert(field.name().clone(), Arc::clone(values));
        }
    }
    Ok(EntityRows {
        keys,
        column: Some(column),
        fixed,
    })
}

fn column_of_time(setting: &Setting<'_>) -> usize {
    let is_time = |column: &Column| matches!(column.field.data_type(), DataType::Timestamp(..));
    setting
        .time_column
        .or_else(|| setting.columns.iter().position(is_time))
        .unwrap_or(usize::MAX)
}

/// A CSV of one column.
fn lines(name: &str, values: &[String]) -> Vec<u8> {
    let mut body = String::new();
    for value in std::iter::once(name).chain(values.iter().map(String::as_str)) {
        body.push('"');
        body.push_str(&value.replace('"', "\"\""));
        body.push_str("\"\n");
    }
    body.into_bytes()
}

fn read_entities(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let failed = |error: &dyn std::error::Error| {
        ConfigError::new(format!("entities: could not read file \"{}\": {error}", path.display()))
            .with_hint("Paths are relative to the deployment's folder.")
    };
    let mut body = Vec::new();
    let file = open_bytes(path).map_err(|error| match &error {
        ReadError::Open { source, .. } => failed(source),
        other => failed(other),
    })?;
    let read = std::io::Read::read_to_end(&mut std::io::Read::take(file, ENTITIES_BYTES_MAX + 1), &mut body);
    read.map_err(|error| failed(&error))?;
    if body.len() as u64 > ENTITIES_BYTES_MAX {
        return Err(ConfigError::new(format!(
            "entities: file \"{}\" is too large",
            path.display()
        )));
    }
    Ok(body)
}

/// The values of a column as text.
pub(crate) fn texts(array: &ArrayRef) -> Vec<String> {
    let options = FormatOptions::new();
    match ArrayFormatter::try_new(array.as_ref(), &options) {
        Ok(formatter) => (0..array.len()).map(|row| formatter.value(row).to_string()).collect(),
        Err(_) => Vec::new(),
    }
}
