//! The schema, made by who owns it for the role that servers have.

use super::running::StartError;
use crate::{
    metrics::Metrics,
    store::{self, Store, address::Address},
};

/// Brings the schema of a database up to date as the role of its address, which owns it, and gives another role the rights that a server
/// needs.
///
/// # Errors
/// If the database cannot be used, or there is no such role.
pub async fn migrate(database: &Address, role: &str) -> Result<(), StartError> {
    let candidates = database.candidates().map_err(StartError::Store)?;
    let store = Store::new(candidates, Metrics::new());
    let result = async {
        store.locate().await?;
        store.migrate_for(role).await
    };
    // What only a person can mend is said as that.
    let result = result.await.map_err(|error| match error.fault() {
        Some(why) => StartError::Store(store::Error::Setting { why }),
        None => StartError::Store(error),
    });
    store.close().await;
    result
}
