//! What a plan makes different, for the audit log.

use serde_json::{Value, json};

use super::{Assignment, Current, Plan};
use crate::change::{difference::Difference, document::Document, target::Target};

impl Plan {
    /// What it makes different: in who has which revision, and, if it stores one, from the newest document to the one that was sent.
    #[must_use]
    pub fn difference(
        &self,
        current: Option<&Current>,
        document: Option<&Document>,
        sent: Option<&Document>,
    ) -> Difference {
        let stores = self.store.is_some() || self.mend;
        let shown = |document: Option<&Document>| document.filter(|_| stores).map(Document::shown);
        let canary = |held: Option<&Assignment>| match held {
            Some(Assignment { revision, target: Target::Canary(canary) }) => json!({
                "revision": revision,
                "nodes": Target::Canary(canary.clone()).to_string(),
                "salt": canary.salt,
                "flowShareBp": canary.flow_share_bp,
            }),
            _ => Value::Null,
        };
        let state = |latest: u64, everyone: Option<u64>, some: Option<&Assignment>, document: Option<Value>| json!({ "newestRevision": latest, "everyone": everyone, "canary": canary(some), "document": document });
        let held = current.filter(|current| !current.deleted);
        let before = held.map_or(Value::Null, |held| {
            state(held.latest_revision, held.everyone, held.canary.as_ref(), shown(document))
        });
        let mut everyone = held.and_then(|held| held.everyone).filter(|_| !self.end_everyone);
        let mut some = held.and_then(|held| held.canary.as_ref()).filter(|_| !self.end_canary);
        match &self.start {
            Some(Assignment { revision, target: Target::Everyone }) => everyone = Some(*revision),
            Some(start) => some = Some(start),
            None => {}
        }
        let latest = self.store.or(current.map(|current| current.latest_revision)).unwrap_or_default();
        let after = if self.delete { Value::Null } else { state(latest, everyone, some, shown(sent)) };
        Difference::between(&before, &after)
    }
}
