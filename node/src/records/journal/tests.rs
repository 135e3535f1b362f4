use proptest::prelude::*;

use super::*;

fn entry(position: u64) -> JournalEntry {
    let cell = v1::FlowCell { layer: "policies/web".into(), ..Default::default() };
    let cells = vec![KeptCell { id: position, sent: false, cell: Some(cell) }];
    JournalEntry { head: Some(Head { position, ..Head::default() }), cells, removed: vec![1, 2] }
}

#[test]
fn what_was_appended_is_there() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("aggregation");
    let mut journal = Journal::create(&path, &entry(0)).expect("written");
    (1..5).for_each(|n| journal.append(&entry(n)).expect("written"));
    let (mut again, entries) = Journal::open(&path).expect("readable");
    assert_eq!(entries, (0..5).map(entry).collect::<Vec<_>>());
    again.rewrite(&entry(9)).expect("written");
    again.append(&entry(10)).expect("written");
    assert_eq!(Journal::open(&path).expect("readable").1, [entry(9), entry(10)]);
    assert!(again.is_there());
    std::fs::rename(&path, home.path().join("elsewhere")).expect("moved");
    assert!(!again.is_there());
    Journal::create(&path, &entry(0)).expect("written");
    assert!(!again.is_there(), "another file");
}

#[test]
fn grows_until_it_is_written_anew() {
    let home = tempfile::tempdir().expect("a directory");
    let mut journal = Journal::create(&home.path().join("aggregation"), &entry(0)).expect("written");
    let big = JournalEntry { removed: vec![u64::MAX; 30_000], ..entry(1) };
    while !journal.has_grown() {
        journal.append(&big).expect("written");
    }
    assert!(journal.length() < 2 * REWRITE_MIN_BYTES);
    journal.rewrite(&entry(2)).expect("written");
    assert!(!journal.has_grown());
}

proptest! {
    #[test]
    fn a_torn_end_is_cut_off(keep in 0.0..1.0f64) {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("aggregation");
        let mut journal = Journal::create(&path, &entry(0)).expect("written");
        journal.append(&entry(1)).expect("written");
        let whole = journal.length();
        journal.append(&entry(2)).expect("written");
        let torn = whole + ((journal.length() - whole) as f64 * keep) as u64;
        File::options().write(true).open(&path).expect("there").set_len(torn).expect("cut");
        let (mut again, entries) = Journal::open(&path).expect("readable");
        prop_assert_eq!(entries, [entry(0), entry(1)]);
        again.append(&entry(3)).expect("written");
        prop_assert_eq!(Journal::open(&path).expect("readable").1, [entry(0), entry(1), entry(3)]);
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200), at: prop::sample::Index, byte: u8) {
        let (_, end) = unframe(&bytes);
        prop_assert!(end <= bytes.len());
        let mut damaged = frame(&entry(1));
        let at = at.index(damaged.len());
        damaged[at] ^= byte;
        prop_assert_eq!(unframe(&damaged).0.len(), usize::from(byte == 0));
    }
}
