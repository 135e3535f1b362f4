//! What tells snapshots apart, and which of them a node admits: rules 1 and 2 of `node.proto`. Pure.

use std::{cmp::Ordering, fmt};

use sockpilot_proto::v1;

/// Bytes of a content hash.
pub const HASH_BYTES: usize = 32;
/// A database epoch is a UUID; this leaves room for any way to write one.
const EPOCH_BYTES_MAX: usize = 64;

/// What tells snapshots apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Another one is another history.
    pub database_epoch: String,
    /// Grows within an epoch.
    pub generation: u64,
    /// SHA-256 of the content.
    pub content_hash: [u8; HASH_BYTES],
}

/// Why a message is no [`Version`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// There is none.
    #[error("the snapshot has no version")]
    Missing,
    /// The epoch is empty or too long.
    #[error("the snapshot's database epoch is no UUID")]
    Epoch,
    /// The hash has another length.
    #[error("the snapshot's content hash has {0} bytes instead of {HASH_BYTES}")]
    Hash(usize),
}

/// What to do with a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Put it in force.
    Apply,
    /// It is in force: say so again.
    AcknowledgeAgain,
    /// Refuse it: what is in force is newer.
    RefuseOlder,
    /// Refuse it loudly: one generation must have one content.
    RefuseChanged,
}

/// Whether a snapshot may take the place of what is in force.
#[must_use]
pub fn admit(in_force: Option<&Version>, offered: &Version) -> Admission {
    let Some(in_force) = in_force.filter(|in_force| in_force.database_epoch == offered.database_epoch) else {
        return Admission::Apply;
    };
    match offered.generation.cmp(&in_force.generation) {
        Ordering::Greater => Admission::Apply,
        Ordering::Less => Admission::RefuseOlder,
        Ordering::Equal if offered.content_hash == in_force.content_hash => Admission::AcknowledgeAgain,
        Ordering::Equal => Admission::RefuseChanged,
    }
}

impl Version {
    /// Reads what a server or the state directory says.
    ///
    /// # Errors
    /// If it is no version.
    pub fn from_proto(message: Option<&v1::SnapshotVersion>) -> Result<Self, VersionError> {
        let v1::SnapshotVersion { database_epoch, generation, content_hash } = message.ok_or(VersionError::Missing)?;
        if database_epoch.is_empty() || database_epoch.len() > EPOCH_BYTES_MAX {
            return Err(VersionError::Epoch);
        }
        let content_hash = content_hash.as_ref().try_into().map_err(|_| VersionError::Hash(content_hash.len()))?;
        Ok(Self { database_epoch: database_epoch.clone(), generation: *generation, content_hash })
    }

    /// As it stands on the wire.
    #[must_use]
    pub fn to_proto(&self) -> v1::SnapshotVersion {
        let Self { database_epoch, generation, content_hash } = self;
        v1::SnapshotVersion {
            database_epoch: database_epoch.clone(),
            generation: *generation,
            content_hash: content_hash.to_vec().into(),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {} of database {}", self.generation, self.database_epoch)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn versions() -> impl Strategy<Value = Version> {
        (0..2_u8, 0..5_u64, 0..2_u8).prop_map(|(epoch, generation, hash)| Version {
            database_epoch: format!("epoch-{epoch}"),
            generation,
            content_hash: [hash; HASH_BYTES],
        })
    }

    proptest! {
        #[test]
        fn within_an_epoch_generations_never_go_back_nor_change(offers in prop::collection::vec(versions(), 0..50)) {
            let mut in_force: Option<Version> = None;
            for offered in offers {
                let admission = admit(in_force.as_ref(), &offered);
                if let Some(before) = in_force.as_ref().filter(|before| before.database_epoch == offered.database_epoch) {
                    match admission {
                        Admission::Apply => prop_assert!(offered.generation > before.generation),
                        Admission::AcknowledgeAgain => prop_assert_eq!(before, &offered),
                        Admission::RefuseOlder => prop_assert!(offered.generation < before.generation),
                        Admission::RefuseChanged => {
                            prop_assert_eq!(offered.generation, before.generation);
                            prop_assert_ne!(offered.content_hash, before.content_hash);
                        }
                    }
                } else {
                    prop_assert_eq!(admission, Admission::Apply);
                }
                if admission == Admission::Apply {
                    in_force = Some(offered);
                }
            }
        }

        #[test]
        fn the_newest_of_an_epoch_wins_in_any_order(mut generations in prop::collection::vec(0..9_u64, 1..20)) {
            let mut in_force: Option<Version> = None;
            for generation in &generations {
                let offered = Version { database_epoch: "e".into(), generation: *generation, content_hash: [1; HASH_BYTES] };
                if admit(in_force.as_ref(), &offered) == Admission::Apply {
                    in_force = Some(offered);
                }
            }
            generations.sort_unstable();
            prop_assert_eq!(in_force.map(|version| version.generation), generations.pop());
        }

        #[test]
        fn a_version_survives_the_wire(version in versions()) {
            prop_assert_eq!(Version::from_proto(Some(&version.to_proto())), Ok(version));
        }
    }

    #[test]
    fn refuses_what_is_no_version() {
        let sound = Version { database_epoch: "e".into(), generation: 1, content_hash: [0; HASH_BYTES] }.to_proto();
        let short = v1::SnapshotVersion { content_hash: vec![1, 2].into(), ..sound.clone() };
        let nameless = v1::SnapshotVersion { database_epoch: String::new(), ..sound };
        assert_eq!(Version::from_proto(None), Err(VersionError::Missing));
        assert_eq!(Version::from_proto(Some(&short)), Err(VersionError::Hash(2)));
        assert_eq!(Version::from_proto(Some(&nameless)), Err(VersionError::Epoch));
    }
}
