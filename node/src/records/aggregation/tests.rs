use super::*;
use sockpilot_outcomes::testing::record;

use sockpilot_proto::v1;

use crate::testing::choice;

mod crash;

fn head() -> Head {
    Head { boot_id: "boot".into(), tables: "tables".into(), ..Head::default() }
}

fn fold(aggregation: &mut Aggregation, choices: &[Arc<Choice>], ended_s: u64) {
    aggregation.fold(&Flow::of(&record()), choices, ended_s, 60);
}

fn report(aggregation: &mut Aggregation) -> v1::FlowReport {
    aggregation.next_report("node", vec![]).expect("something is new")
}

fn flows(report: &v1::FlowReport) -> Vec<(u64, &str, u64)> {
    let flows = |cell: &v1::FlowCell| cell.counts.unwrap_or_default().flows;
    report.cells.iter().map(|cell| (cell.interval_start_s, cell.choice.as_str(), flows(cell))).collect()
}

#[test]
fn a_record_is_in_one_cell_for_each_choice() {
    let mut aggregation = Aggregation::new(head());
    let (near, far) = (choice("near", 1), choice("far", 1));
    fold(&mut aggregation, &[near, far.clone()], 119);
    fold(&mut aggregation, &[far], 120);
    let report = report(&mut aggregation);
    assert_eq!(flows(&report), [(60, "near", 1), (60, "far", 1), (120, "far", 1)]);
    assert_eq!((report.records_total, report.sequence), (2, 1));
}

#[test]
fn reports_are_cumulative_until_confirmed() {
    let mut aggregation = Aggregation::new(head());
    let far = [choice("far", 1)];
    fold(&mut aggregation, &far, 0);
    let first = report(&mut aggregation);
    fold(&mut aggregation, &far, 1);
    fold(&mut aggregation, &far, 60);
    // The first report is confirmed: what came after it is still new, with the totals of its whole interval.
    aggregation.settle(first.sequence);
    let second = report(&mut aggregation);
    assert_eq!(flows(&second), [(0, "far", 2), (60, "far", 1)]);
    assert!(second.sequence > first.sequence);
    aggregation.settle(second.sequence);
    assert!(aggregation.is_settled());
    assert_eq!(aggregation.next_report("node", vec![]), None);
    // Totals alone are worth a report.
    aggregation.note_dropped(3);
    assert_eq!(report(&mut aggregation).records_dropped, 3);
}

#[test]
fn only_cells_that_no_server_has_are_moved_when_the_time_is_told() {
    let mut aggregation = Aggregation::new(head());
    let (near, far) = (choice("near", 1), choice("far", 1));
    let guess = aggregation.clock(Moment { wall_ns: 0, monotonic_ns: 0 });
    assert!(!guess.from_server);
    fold(&mut aggregation, std::slice::from_ref(&near), 30);
    let sent = report(&mut aggregation);
    fold(&mut aggregation, std::slice::from_ref(&far), 30);
    fold(&mut aggregation, std::slice::from_ref(&far), 90);
    aggregation.set_clock(FleetClock { ahead_ns: 70_000_000_000, from_server: true }, 70_000_000_000);
    fold(&mut aggregation, std::slice::from_ref(&near), 30);
    assert_eq!(flows(&sent), [(0, "near", 1)]);
    // Each of the others is moved once, although the second stands where the first goes.
    assert_eq!(flows(&report(&mut aggregation)), [(0, "near", 2), (60, "far", 1), (120, "far", 1)]);
    aggregation.set_clock(FleetClock { ahead_ns: 500_000_000_000, from_server: true }, 430_000_000_000);
    assert_eq!(flows(&report(&mut aggregation)), [(0, "near", 2), (60, "far", 1), (120, "far", 1)]);
    let again = Aggregation::replay([aggregation.checkpoint()]).expect("sound");
    assert_eq!(again.head().clock, Some(FleetClock { ahead_ns: 500_000_000_000, from_server: true }));
}

#[test]
fn a_late_receipt_of_an_earlier_report_confirms_nothing_newer() {
    let mut aggregation = Aggregation::new(head());
    fold(&mut aggregation, &[choice("far", 1)], 0);
    let first = report(&mut aggregation);
    let second = report(&mut aggregation);
    aggregation.settle(first.sequence);
    assert!(!aggregation.is_settled());
    aggregation.settle(second.sequence);
    assert!(aggregation.is_settled());
}

#[test]
fn closed_and_confirmed_cells_go_and_never_come_back() {
    let mut aggregation = Aggregation::new(head());
    let far = [choice("far", 1)];
    fold(&mut aggregation, &far, 10);
    aggregation.close(1_000);
    assert_eq!(aggregation.cells(), 1, "not confirmed");
    let first = report(&mut aggregation);
    aggregation.settle(first.sequence);
    aggregation.close(60 + GRACE_S - 1);
    assert_eq!(aggregation.cells(), 1, "still open");
    aggregation.close(60 + GRACE_S);
    assert_eq!(aggregation.cells(), 0);
    // A late record must not replace the server's totals of the closed interval.
    fold(&mut aggregation, &far, 10);
    assert_eq!(flows(&report(&mut aggregation)), [(60, "far", 1)]);
}

#[test]
fn another_interval_length_does_not_reopen_what_is_closed() {
    let mut aggregation = Aggregation::new(head());
    aggregation.fold(&Flow::of(&record()), &[choice("far", 1)], 100, 10);
    let first = report(&mut aggregation);
    aggregation.settle(first.sequence);
    aggregation.close(1_000);
    aggregation.fold(&Flow::of(&record()), &[choice("far", 1)], 115, 60);
    assert_eq!(flows(&report(&mut aggregation)), [(120, "far", 1)]);
}

#[test]
fn reports_are_bounded_and_oldest_come_first() {
    let mut aggregation = Aggregation::new(head());
    let cells = REPORT_CELLS_MAX as u64 + 5;
    (0..cells).for_each(|n| fold(&mut aggregation, &[choice("far", n)], n));
    let first = report(&mut aggregation);
    assert_eq!((first.cells.len(), first.cells[0].revision), (REPORT_CELLS_MAX, 0));
    aggregation.settle(first.sequence);
    assert_eq!(report(&mut aggregation).cells.len(), 5);
}

#[test]
fn without_room_old_intervals_are_joined_and_nothing_is_lost() {
    let mut aggregation = Aggregation { cells_max: 8, ..Aggregation::new(head()) };
    let choices = [choice("near", 1), choice("far", 1)];
    (0..100).for_each(|minute| fold(&mut aggregation, &choices, minute * 60));
    assert!(aggregation.cells() <= 8 && aggregation.coalesced() > 0);
    let report = report(&mut aggregation);
    assert_eq!(flows(&report).iter().map(|(_, _, flows)| flows).sum::<u64>(), 200);
    assert_eq!(aggregation.head().flows_evicted, 0);
}

#[test]
fn memory_is_bounded_whatever_the_cells_hold() {
    use sockpilot_policy::layout::FlowRecord;
    let mut aggregation = Aggregation { bins_max: 100, ..Aggregation::new(head()) };
    for n in 0..1_000_u64 {
        let record = FlowRecord { srtt_us: 1 << (n % 20), ..record() };
        aggregation.fold(&Flow::of(&record), &[choice("far", 1)], n, 60);
        assert_eq!(aggregation.bins, aggregation.cells.values().map(|cell| cell.content.pairs()).sum::<usize>());
        assert!(aggregation.bins <= 104);
    }
    let again = Aggregation::replay([aggregation.checkpoint()]).expect("sound");
    assert_eq!(again.bins, aggregation.bins);
    // Joined cells hold all flows in fewer bins.
    assert_eq!(
        (
            flows(&report(&mut aggregation)).iter().map(|(_, _, flows)| flows).sum::<u64>(),
            aggregation.head().flows_evicted
        ),
        (1_000, 0)
    );
}

#[test]
fn what_the_server_may_have_is_not_joined() {
    let mut aggregation = Aggregation { cells_max: 4, ..Aggregation::new(head()) };
    let far = [choice("far", 1)];
    (0..2).for_each(|minute| fold(&mut aggregation, &far, minute * 60));
    let sent = report(&mut aggregation);
    (2..20).for_each(|minute| fold(&mut aggregation, &far, minute * 60));
    aggregation.settle(sent.sequence);
    let rest = report(&mut aggregation);
    let all: u64 = flows(&sent).iter().chain(&flows(&rest)).map(|(_, _, flows)| flows).sum();
    assert_eq!((all, aggregation.head().flows_evicted), (20, 0));
}

#[test]
fn what_cannot_be_joined_is_given_up_and_counted() {
    let mut aggregation = Aggregation { cells_max: 4, ..Aggregation::new(head()) };
    (0..10).for_each(|n| fold(&mut aggregation, &[choice("far", n)], 0));
    assert_eq!(aggregation.cells() as u64 + aggregation.head().flows_evicted, 10);
    assert!(aggregation.cells() <= 4);
}

#[test]
fn a_book_is_what_its_entries_say() {
    let mut aggregation = Aggregation::new(head());
    let mut entries = vec![aggregation.checkpoint()];
    for minute in 0..10 {
        fold(&mut aggregation, &[choice("far", 1), choice("near", 1 + minute / 4)], minute * 60);
        aggregation.advance(minute);
        if minute == 5 {
            let sent = report(&mut aggregation);
            aggregation.settle(sent.sequence);
            aggregation.close(300);
        }
        entries.push(aggregation.entry());
        aggregation.written();
    }
    let again = Aggregation::replay(entries).expect("sound");
    assert_eq!(again.checkpoint(), aggregation.checkpoint());
    assert_eq!(Aggregation::replay([aggregation.checkpoint()]).expect("sound").checkpoint(), aggregation.checkpoint());
}
