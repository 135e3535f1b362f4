use super::*;
use crate::disk::StateError;

fn stored(generation: u64, install: u64) -> Stored {
    let content_hash = Sha256::digest(b"layers").into();
    let version = Version { database_epoch: "e".into(), generation, content_hash };
    let layers = Bytes::from_static(b"layers");
    Stored { version, offered: layers.clone(), layers, install, held_back: vec![] }
}

/// A snapshot of which a layer is held back.
fn held(generation: u64, install: u64) -> Stored {
    let held_back = v1::HeldBack { layer: "policies/web".to_owned(), revision: 3, ..v1::HeldBack::default() };
    let layers = Bytes::from_static(b"all the others");
    Stored { layers, held_back: vec![held_back], ..stored(generation, install) }
}

#[test]
fn resumes_after_an_end_at_any_step_of_an_install() {
    let (old, new) = (stored(5, 1), stored(6, 2));
    let (old, new) = (Some(&old), Some(&new));
    // Before anything; the coming one is written; the tables flipped; it was promoted.
    assert_eq!(resume(Some((5, 1)), old, None), Resume::Keep);
    assert_eq!(resume(Some((5, 1)), old, new), Resume::Keep);
    assert_eq!(resume(Some((6, 2)), old, new), Resume::Promote);
    assert_eq!(resume(Some((6, 2)), new, None), Resume::Keep);
}

#[test]
fn resumes_after_the_machine_started() {
    let (old, new) = (stored(5, 1), stored(6, 2));
    assert_eq!(resume(None, Some(&old), Some(&new)), Resume::Reinstall);
    assert_eq!(resume(None, None, Some(&new)), Resume::AwaitServer);
    assert_eq!(resume(None, None, None), Resume::AwaitServer);
}

#[test]
fn awaits_the_server_if_the_kernel_has_what_nobody_knows() {
    let old = stored(5, 1);
    assert_eq!(resume(Some((9, 9)), Some(&old), None), Resume::AwaitServer);
    assert_eq!(resume(Some((9, 9)), None, None), Resume::AwaitServer);
}

#[test]
fn snapshots_survive() {
    let home = tempfile::tempdir().expect("a directory");
    let state = StateDir::open(&home.path().join("state"), &home.path().join("pins")).expect("free");
    let mut snapshots = Snapshots::of(&state);
    let on_disk = |snapshots: &Snapshots| (snapshots.in_force(), snapshots.coming());
    assert_eq!(on_disk(&snapshots), (None, None));
    snapshots.settle().expect("nothing to write");
    snapshots.write_coming(&stored(5, 1)).expect("written");
    assert_eq!(on_disk(&snapshots), (None, Some(stored(5, 1))));
    snapshots.came_into_force(stored(5, 1), true);
    snapshots.settle().expect("renamed");
    assert_eq!(on_disk(&snapshots), (Some(stored(5, 1)), None));
    snapshots.write_coming(&held(6, 2)).expect("written");
    assert_eq!(on_disk(&snapshots), (Some(stored(5, 1)), Some(held(6, 2))));
}

#[test]
fn a_snapshot_of_a_daemon_that_held_nothing_back_is_read() {
    #[derive(Clone, PartialEq, Message)]
    struct Older {
        #[prost(message, optional, tag = "1")]
        version: Option<v1::SnapshotVersion>,
        #[prost(bytes = "bytes", tag = "2")]
        layers: Bytes,
        #[prost(uint64, tag = "3")]
        install: u64,
    }
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("snapshot");
    let Stored { version, layers, install, .. } = stored(5, 1);
    let older = Older { version: Some(version.to_proto()), layers, install };
    fs::write(&path, older.encode_to_vec()).expect("written");
    assert_eq!(read(&path), Some(stored(5, 1)));
}

#[test]
fn a_snapshot_that_is_not_on_disk_is_written_whatever_became_of_the_directory() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("state");
    let state = StateDir::open(&path, &home.path().join("pins")).expect("free");
    let mut snapshots = Snapshots::of(&state);
    snapshots.came_into_force(stored(5, 1), false);
    snapshots.settle().expect("written");
    // A newer one that does not come into force takes the place of the coming one only.
    snapshots.came_into_force(stored(6, 2), true);
    snapshots.write_coming(&stored(7, 3)).expect("written");
    snapshots.settle().expect("written again");
    assert_eq!(snapshots.in_force(), Some(stored(6, 2)));
    for lose in [|path: &Path| fs::remove_file(path.join("snapshot")), |path: &Path| fs::remove_dir_all(path)] {
        lose(&path).expect("there");
        snapshots.settle().expect("written");
        assert_eq!(snapshots.in_force(), Some(stored(6, 2)));
    }
    // In the way of the file beside it: nothing can be written, and nothing is lost.
    fs::create_dir(path.join("snapshot-coming.new")).expect("made");
    snapshots.came_into_force(stored(8, 4), false);
    for _ in 0..2 {
        snapshots.settle().expect_err("cannot be written");
        assert_eq!(snapshots.in_force(), Some(stored(6, 2)));
    }
    fs::remove_dir(path.join("snapshot-coming.new")).expect("there");
    snapshots.settle().expect("written");
    assert_eq!(snapshots.in_force(), Some(stored(8, 4)));
}

#[test]
fn half_a_snapshot_is_none() {
    let home = tempfile::tempdir().expect("a directory");
    let state = StateDir::open(&home.path().join("state"), &home.path().join("pins")).expect("free");
    let mut snapshots = Snapshots::of(&state);
    let path = snapshots.path("snapshot-coming");
    for stored in [stored(5, 1), held(5, 1)] {
        snapshots.write_coming(&stored).expect("written");
        let whole = fs::read(&path).expect("readable");
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).expect("written");
            // Without the number of the install, which comes last, it is whole as far as it is needed.
            let kept = |coming: Stored| (coming.offered, coming.layers, coming.held_back);
            let expected = kept(stored.clone());
            assert!(snapshots.coming().is_none_or(|coming| kept(coming) == expected), "{length} bytes");
        }
    }
}

#[test]
fn a_second_daemon_is_told_so() {
    let home = tempfile::tempdir().expect("a directory");
    let [state, other, pins] = ["state", "other", "pins"].map(|name| home.path().join(name));
    let first = StateDir::open(&state, &pins).expect("free");
    let second = StateDir::open(&state, &other).expect_err("in use").to_string();
    assert!(second.contains("another sockpilot-node uses"), "{second}");
    assert!(matches!(StateDir::open(&other, &pins), Err(StateError::InUse(path)) if path == pins));
    drop(first);
    StateDir::open(&state, &pins).expect("free again");
}
