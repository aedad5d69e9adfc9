//! Rows that are posted: nothing is read here, the server takes them.
use serde::Deserialize;

use crate::error::ConfigError;
use crate::format::{Decoder, FormatKind};
use crate::sources::Setting;

/// Takes rows that are posted to `/ingest/{source}`: JSON lines, a JSON array, or
/// CSV. It has no options.
///
/// ```toml
/// [connector]
/// type = "http"
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {}

impl HttpConfig {
    pub(crate) fn check(&self, setting: &Setting<'_>) -> Vec<ConfigError> {
        posted(setting).err().into_iter().collect()
    }
}

/// Whether rows in the declared format can be posted.
pub(crate) fn posted(setting: &Setting<'_>) -> Result<(), ConfigError> {
    let mut format = setting.format.clone();
    format.kind.get_or_insert(FormatKind::Json);
    Decoder::new(&format, setting.columns, setting.time_zone).map(|_| ())
}
