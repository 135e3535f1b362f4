//! Whatever is done to a chain, it is found, and at the right entry.

use proptest::prelude::*;
use prost_types::Timestamp;
use sockpilot_audit::{Broken, Chain, Head, hash};
use sockpilot_proto::v1::AuditEntry;

/// One entry of many, in the place of which another is put; fields that are hashed, and the hash.
const FIELDS: usize = 15;

fn entry(number: u64, salt: u8) -> AuditEntry {
    AuditEntry {
        sequence: number,
        time: Some(Timestamp { seconds: 1_772_366_400 + number.cast_signed(), nanos: 120_003_000 }),
        actor: format!("ann-{salt}"),
        method: "UpdatePolicy".to_owned(),
        name: "policies/web".to_owned(),
        revision: number,
        reason: "why".to_owned(),
        request_json: format!("{{\"a\":{salt}}}"),
        generation: number + 3,
        proof: "certificate".to_owned(),
        role: "operator".to_owned(),
        request_id: String::new(),
        difference_json: "[]".to_owned(),
        previous_hash: String::new(),
        hash: String::new(),
    }
}

/// Numbers and hashes anew from an index on, as somebody would who can write everything.
fn rehash(entries: &mut [AuditEntry], from: usize) {
    let mut before = from.checked_sub(1).map_or_else(|| "0".repeat(64), |index| entries[index].hash.clone());
    for (index, entry) in entries.iter_mut().enumerate().skip(from) {
        entry.sequence = index as u64 + 1;
        entry.previous_hash = before;
        entry.hash = hash(entry).expect("a time");
        before = entry.hash.clone();
    }
}

fn chain(salts: &[u8]) -> Vec<AuditEntry> {
    let mut entries: Vec<_> = (1..).zip(salts).map(|(number, salt)| entry(number, *salt)).collect();
    rehash(&mut entries, 0);
    entries
}

fn verify(entries: &[AuditEntry], noted: &[Head]) -> Result<Head, Broken> {
    let mut chain = Chain::through(noted.to_vec());
    entries.iter().try_for_each(|entry| chain.take(entry))?;
    chain.end()
}

fn head(entries: &[AuditEntry]) -> Head {
    verify(entries, &[]).expect("whole")
}

/// Changes one field; which one it is, is a number below [`FIELDS`].
fn change(entry: &mut AuditEntry, field: usize) {
    let AuditEntry {
        sequence,
        time,
        actor,
        method,
        name,
        revision,
        reason,
        request_json,
        generation,
        proof,
        role,
        request_id,
        difference_json,
        previous_hash,
        hash,
    } = entry;
    let digit = |text: &mut String| {
        let other = if text.starts_with('0') { "1" } else { "0" };
        text.replace_range(..1, other);
    };
    match field {
        0 => *sequence += 1,
        1 => time.as_mut().expect("a time").nanos += 1_000,
        2 => actor.push('x'),
        3 => method.push('x'),
        4 => name.push('x'),
        5 => *revision += 1,
        6 => reason.push('x'),
        7 => request_json.push(' '),
        8 => *generation += 1,
        9 => proof.clear(),
        10 => role.push('x'),
        11 => request_id.push('x'),
        12 => difference_json.push(' '),
        13 => digit(previous_hash),
        _ => digit(hash),
    }
}

#[test]
fn the_form_is_the_documented_one() {
    // Made with another program by what stands at AuditEntry.
    let entry = AuditEntry {
        sequence: 1,
        time: Some(Timestamp { seconds: 1_772_366_400, nanos: 120_003_000 }),
        actor: "ann@desk".to_owned(),
        name: "policies/wéb".to_owned(),
        revision: 3,
        generation: 7,
        request_json: "{}".to_owned(),
        previous_hash: "0".repeat(64),
        ..entry(1, 0)
    };
    assert_eq!(hash(&entry).as_deref(), Some("974e681aa49e9b70d5a7dab450ca77d237f73e5d41d79032ec25d0ea8b906c07"));
}

#[test]
fn every_field_of_every_entry_counts() {
    let whole = chain(&[0; 12]);
    for index in 0..whole.len() {
        for field in 0..FIELDS {
            let mut entries = whole.clone();
            change(&mut entries[index], field);
            let sequence = index as u64 + 1;
            let expected = match field {
                0 => Broken::Missing { sequence, next: sequence + 1 },
                _ => Broken::Changed { sequence },
            };
            assert_eq!(verify(&entries, &[]), Err(expected), "field {field} of entry {sequence}");
        }
    }
}

#[test]
fn what_was_done_is_said() {
    let whole = chain(&[1, 2, 3, 4, 5]);
    let noted = head(&whole);
    let with = |change: &dyn Fn(&mut Vec<AuditEntry>)| {
        let mut entries = whole.clone();
        change(&mut entries);
        verify(&entries, std::slice::from_ref(&noted)).expect_err("found")
    };
    assert_eq!(with(&|entries| drop(entries.remove(2))), Broken::Missing { sequence: 3, next: 4 });
    assert_eq!(with(&|entries| drop(entries.pop())), Broken::Shortened { sequence: 5, last: 4, head: 5 });
    assert_eq!(with(&|entries| entries.clear()), Broken::Shortened { sequence: 1, last: 0, head: 5 });
    assert_eq!(with(&|entries| entries.insert(2, entry(2, 9))), Broken::Inserted { sequence: 2, before: 2 });
    let strange = chain(&[9; 5]);
    assert_eq!(with(&|entries| entries[3] = strange[3].clone()), Broken::Replaced { sequence: 4 });
    assert_eq!(with(&|entries| entries.clone_from(&strange)), Broken::Rewritten { sequence: 5 });
    let mut longer = whole.clone();
    longer.push(entry(6, 6));
    rehash(&mut longer, 5);
    assert_eq!(verify(&longer, &[Head::of_nothing(), noted]), Ok(head(&longer)), "what came later is no change");
}

#[test]
fn heads_are_read_as_they_are_written() {
    let head = head(&chain(&[1, 2]));
    assert_eq!(head.to_string().parse(), Ok(head.clone()));
    assert_eq!(head.to_string().to_uppercase().parse(), Ok(head));
    for bad in ["", "1", "1:", "x:00", &format!("1:{}", "g".repeat(64)), &format!("1:{}", "0".repeat(63))] {
        assert!(bad.parse::<Head>().is_err(), "{bad}");
    }
}

#[derive(Debug, Clone)]
enum Manipulation {
    Change { at: usize, field: usize },
    ChangeAndRehashOne { at: usize, field: usize },
    Remove { at: usize },
    Cut { keep: usize },
    Insert { at: usize, salt: u8 },
    InsertAndRehash { at: usize, salt: u8 },
    RemoveAndRehash { at: usize },
    Rewrite { at: usize, field: usize },
    Swap { at: usize, with: usize },
    SwapAndRehash { at: usize, with: usize },
    Replace { at: usize, salt: u8 },
}

fn manipulation() -> impl Strategy<Value = Manipulation> {
    use Manipulation::*;
    // Fields that people would change; numbers and hashes are made anew anyway.
    let content = prop_oneof![1_usize..13];
    prop_oneof![
        (any::<usize>(), 0..FIELDS).prop_map(|(at, field)| Change { at, field }),
        (any::<usize>(), content.clone()).prop_map(|(at, field)| ChangeAndRehashOne { at, field }),
        any::<usize>().prop_map(|at| Remove { at }),
        any::<usize>().prop_map(|keep| Cut { keep }),
        (any::<usize>(), any::<u8>()).prop_map(|(at, salt)| Insert { at, salt }),
        (any::<usize>(), any::<u8>()).prop_map(|(at, salt)| InsertAndRehash { at, salt }),
        any::<usize>().prop_map(|at| RemoveAndRehash { at }),
        (any::<usize>(), content).prop_map(|(at, field)| Rewrite { at, field }),
        (any::<usize>(), any::<usize>()).prop_map(|(at, with)| Swap { at, with }),
        (any::<usize>(), any::<usize>()).prop_map(|(at, with)| SwapAndRehash { at, with }),
        (any::<usize>(), any::<u8>()).prop_map(|(at, salt)| Replace { at, salt }),
    ]
}

fn manipulate(entries: &mut Vec<AuditEntry>, what: &Manipulation) {
    let length = entries.len();
    match *what {
        Manipulation::Change { at, field } => change(&mut entries[at % length], field),
        Manipulation::ChangeAndRehashOne { at, field } => {
            let entry = &mut entries[at % length];
            change(entry, field);
            entry.hash = hash(entry).expect("a time");
        }
        Manipulation::Remove { at } => drop(entries.remove(at % length)),
        Manipulation::Cut { keep } => entries.truncate(keep % length),
        Manipulation::Insert { at, salt } => {
            let at = at % (length + 1);
            entries.insert(at, entry(at as u64 + 1, salt));
        }
        Manipulation::InsertAndRehash { at, salt } => {
            // Among those that were there: what is added behind them is no manipulation.
            let at = at % length;
            entries.insert(at, AuditEntry { actor: "mallory".to_owned(), ..entry(0, salt) });
            rehash(entries, at);
        }
        Manipulation::RemoveAndRehash { at } => {
            let at = at % length;
            entries.remove(at);
            rehash(entries, at);
        }
        Manipulation::Rewrite { at, field } => {
            let at = at % length;
            change(&mut entries[at], field);
            rehash(entries, at);
        }
        Manipulation::Swap { at, with } => entries.swap(at % length, with % length),
        Manipulation::SwapAndRehash { at, with } => {
            let (at, with) = (at % length, with % length);
            entries.swap(at, with);
            rehash(entries, at.min(with));
        }
        Manipulation::Replace { at, salt } => {
            let at = at % length;
            let other = AuditEntry { actor: "mallory".to_owned(), ..entry(at as u64 + 1, salt) };
            let (previous_hash, place) = (entries[at].previous_hash.clone(), &mut entries[at]);
            *place = AuditEntry { previous_hash, ..other };
            place.hash = hash(place).expect("a time");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn a_thousand_manipulations_are_found(salts in prop::collection::vec(any::<u8>(), 2..30), what in manipulation()) {
        let whole = chain(&salts);
        let noted = head(&whole);
        let mut entries = whole.clone();
        manipulate(&mut entries, &what);
        // A swap of one entry with itself is none.
        prop_assume!(entries != whole);
        prop_assert!(verify(&entries, &[noted]).is_err());
    }
}
