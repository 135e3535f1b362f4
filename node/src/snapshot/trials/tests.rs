use sockpilot_policy::parameter::slot_by_name;

use super::*;
use crate::testing::facts;

fn buffer(bytes: u32) -> Trial {
    (slot_by_name("send_buffer_bytes").unwrap(), Encoded::Number(bytes))
}

fn read(number: u32) -> Option<Reading> {
    Some(Reading::Read(Encoded::Number(number)))
}

#[test]
fn what_was_tried_is_not_tried_again_until_the_facts_change() {
    let mut memory = Memory::default();
    let (wanted, facts) = (BTreeSet::from([buffer(10_000), buffer(20_000)]), facts());
    let (missing, left_out) = memory.missing(&wanted, &facts);
    assert_eq!((missing[&buffer(0).0].len(), left_out), (2, 0));
    memory.note(buffer(10_000), read(20_000));
    memory.note(buffer(20_000), None);
    assert!(memory.missing(&wanted, &facts).0.is_empty());
    let readings = memory.readings(&wanted);
    assert_eq!(readings.get(buffer(0).0, &Encoded::Number(10_000)), read(20_000).as_ref());
    assert_eq!(readings.get(buffer(0).0, &Encoded::Number(20_000)), None);

    let smaller = KernelFacts { wmem_max: 15_000, ..facts };
    assert_eq!(memory.missing(&wanted, &smaller).0[&buffer(0).0].len(), 2);
    assert_eq!(memory.readings(&wanted), Readings::default());
}

#[test]
fn memory_is_bounded() {
    let mut memory = Memory::default();
    let many = |from: usize| (from..from + TRIED_MAX + 7).map(|bytes| buffer(bytes as u32)).collect::<BTreeSet<_>>();
    for from in [5_000, 500_000] {
        let (missing, left_out) = memory.missing(&many(from), &facts());
        let values = &missing[&buffer(0).0];
        assert_eq!((values.len(), left_out), (TRIED_MAX, 7));
        for value in values {
            memory.note((buffer(0).0, value.clone()), read(1));
        }
        assert_eq!(memory.tried.len(), TRIED_MAX);
    }
}

#[test]
fn surprises_are_told_once() {
    let mut memory = Memory::default();
    memory.missing(&BTreeSet::from([buffer(10_000)]), &facts());
    assert_eq!(memory.note(buffer(10_000), read(20_000)), None);
    let surprise = memory.note(buffer(20_000), read(20_000)).unwrap();
    assert_eq!((surprise.computed, surprise.read), (Encoded::Number(40_000), Encoded::Number(20_000)));
    assert_eq!(memory.note(buffer(30_000), read(1)), None);
}

#[test]
fn what_passes_is_tried_again() {
    let mut memory = Memory::default();
    let wanted = BTreeSet::from([buffer(10_000)]);
    memory.missing(&wanted, &facts());
    memory.note(buffer(10_000), Some(Reading::Refused(Errno(12))));
    assert_eq!(memory.missing(&wanted, &facts()).0.len(), 1);
    memory.note(buffer(10_000), Some(Reading::Refused(Errno(22))));
    assert!(memory.missing(&wanted, &facts()).0.is_empty());
}

#[test]
fn of_two_families_the_worse_counts() {
    let asked = Encoded::Number(8);
    let refused = Some(Reading::Refused(Errno(22)));
    let case = |ipv4, ipv6| of_both(&asked, ipv4, ipv6);
    assert_eq!(case(read(8), read(8)), read(8));
    assert_eq!(case(read(8), read(4)), read(4));
    assert_eq!(case(read(4), read(8)), read(4));
    assert_eq!(case(read(8), None), read(8));
    assert_eq!(case(read(8), refused.clone()), refused);
    assert_eq!(case(refused.clone(), None), refused);
}
