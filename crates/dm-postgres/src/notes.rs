//! What the adapter remembers from the preview of a restore to its beginning.

use std::collections::BTreeMap;

use dm_core::{Error, RestorePreview, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Writes a note into the preview's attributes.
pub(crate) fn store(
    attributes: &mut BTreeMap<String, serde_json::Value>,
    name: &str,
    note: &impl Serialize,
) -> Result<()> {
    let value = serde_json::to_value(note)
        .map_err(|e| Error::internal("the plan of a restore cannot be written").with_source(e))?;
    attributes.insert(name.to_owned(), value);
    Ok(())
}

/// Reads a note back.
pub(crate) fn load<T: DeserializeOwned>(preview: &RestorePreview, name: &str) -> Result<T> {
    preview.attributes.get(name).and_then(|v| T::deserialize(v).ok()).ok_or_else(|| {
        Error::invalid("the preview was not made by this engine").with_hint("make the plan again")
    })
}
