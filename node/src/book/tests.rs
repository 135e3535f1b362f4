use super::*;
use sockpilot_outcomes::testing::record;

use crate::testing::choice;

mod crash;

fn head() -> Head {
    Head { boot_id: "boot".into(), tables: "tables".into(), ..Head::default() }
}

fn fold(book: &mut Book, choices: &[Arc<Choice>], ended_s: u64) {
    book.fold(&Flow::of(&record()), choices, ended_s, 60);
}

fn report(book: &mut Book) -> v1::FlowReport {
    book.next_report("node", vec![]).expect("something is new")
}

fn flows(report: &v1::FlowReport) -> Vec<(u64, &str, u64)> {
    let flows = |cell: &v1::FlowCell| cell.counts.unwrap_or_default().flows;
    report.cells.iter().map(|cell| (cell.interval_start_s, cell.choice.as_str(), flows(cell))).collect()
}

#[test]
fn a_record_is_in_one_cell_for_each_choice() {
    let mut book = Book::new(head());
    let (near, far) = (choice("near", 1), choice("far", 1));
    fold(&mut book, &[near, far.clone()], 119);
    fold(&mut book, &[far], 120);
    let report = report(&mut book);
    assert_eq!(flows(&report), [(60, "near", 1), (60, "far", 1), (120, "far", 1)]);
    assert_eq!((report.records_total, report.sequence), (2, 1));
}

#[test]
fn reports_are_cumulative_until_confirmed() {
    let mut book = Book::new(head());
    let far = [choice("far", 1)];
    fold(&mut book, &far, 0);
    let first = report(&mut book);
    fold(&mut book, &far, 1);
    fold(&mut book, &far, 60);
    // The first report is confirmed: what came after it is still new, with the totals of its whole interval.
    book.settle(first.sequence);
    let second = report(&mut book);
    assert_eq!(flows(&second), [(0, "far", 2), (60, "far", 1)]);
    assert!(second.sequence > first.sequence);
    book.settle(second.sequence);
    assert!(book.is_settled());
    assert_eq!(book.next_report("node", vec![]), None);
    // Totals alone are worth a report.
    book.note_dropped(3);
    assert_eq!(report(&mut book).records_dropped, 3);
}

#[test]
fn only_cells_that_no_server_has_are_moved_when_the_time_is_told() {
    let mut book = Book::new(head());
    let (near, far) = (choice("near", 1), choice("far", 1));
    let guess = book.clock(Moment { wall_ns: 0, monotonic_ns: 0 });
    assert!(!guess.heard);
    fold(&mut book, std::slice::from_ref(&near), 30);
    let sent = report(&mut book);
    fold(&mut book, std::slice::from_ref(&far), 30);
    fold(&mut book, std::slice::from_ref(&far), 90);
    book.set_clock(FleetClock { ahead_ns: 70_000_000_000, heard: true }, 70_000_000_000);
    fold(&mut book, std::slice::from_ref(&near), 30);
    assert_eq!(flows(&sent), [(0, "near", 1)]);
    // Each of the others is moved once, although the second stands where the first goes.
    assert_eq!(flows(&report(&mut book)), [(0, "near", 2), (60, "far", 1), (120, "far", 1)]);
    book.set_clock(FleetClock { ahead_ns: 500_000_000_000, heard: true }, 430_000_000_000);
    assert_eq!(flows(&report(&mut book)), [(0, "near", 2), (60, "far", 1), (120, "far", 1)]);
    let again = Book::replay([book.checkpoint()]).expect("sound");
    assert_eq!(again.head().clock, Some(FleetClock { ahead_ns: 500_000_000_000, heard: true }));
}

#[test]
fn a_late_receipt_of_an_earlier_report_confirms_nothing_newer() {
    let mut book = Book::new(head());
    fold(&mut book, &[choice("far", 1)], 0);
    let first = report(&mut book);
    let second = report(&mut book);
    book.settle(first.sequence);
    assert!(!book.is_settled());
    book.settle(second.sequence);
    assert!(book.is_settled());
}

#[test]
fn closed_and_confirmed_cells_go_and_never_come_back() {
    let mut book = Book::new(head());
    let far = [choice("far", 1)];
    fold(&mut book, &far, 10);
    book.close(1_000);
    assert_eq!(book.cells(), 1, "not confirmed");
    let first = report(&mut book);
    book.settle(first.sequence);
    book.close(60 + GRACE_S - 1);
    assert_eq!(book.cells(), 1, "still open");
    book.close(60 + GRACE_S);
    assert_eq!(book.cells(), 0);
    // A late record must not replace the server's totals of the closed interval.
    fold(&mut book, &far, 10);
    assert_eq!(flows(&report(&mut book)), [(60, "far", 1)]);
}

#[test]
fn another_interval_length_does_not_reopen_what_is_closed() {
    let mut book = Book::new(head());
    book.fold(&Flow::of(&record()), &[choice("far", 1)], 100, 10);
    let first = report(&mut book);
    book.settle(first.sequence);
    book.close(1_000);
    book.fold(&Flow::of(&record()), &[choice("far", 1)], 115, 60);
    assert_eq!(flows(&report(&mut book)), [(120, "far", 1)]);
}

#[test]
fn reports_are_bounded_and_oldest_come_first() {
    let mut book = Book::new(head());
    let cells = REPORT_CELLS_MAX as u64 + 5;
    (0..cells).for_each(|n| fold(&mut book, &[choice("far", n)], n));
    let first = report(&mut book);
    assert_eq!((first.cells.len(), first.cells[0].revision), (REPORT_CELLS_MAX, 0));
    book.settle(first.sequence);
    assert_eq!(report(&mut book).cells.len(), 5);
}

#[test]
fn without_room_old_intervals_are_joined_and_nothing_is_lost() {
    let mut book = Book { cells_max: 8, ..Book::new(head()) };
    let choices = [choice("near", 1), choice("far", 1)];
    (0..100).for_each(|minute| fold(&mut book, &choices, minute * 60));
    assert!(book.cells() <= 8 && book.joined() > 0);
    let report = report(&mut book);
    assert_eq!(flows(&report).iter().map(|(_, _, flows)| flows).sum::<u64>(), 200);
    assert_eq!(book.head().flows_lost, 0);
}

#[test]
fn memory_is_bounded_whatever_the_cells_hold() {
    use sockpilot_policy::layout::FlowRecord;
    let mut book = Book { bins_max: 100, ..Book::new(head()) };
    for n in 0..1_000_u64 {
        let record = FlowRecord { srtt_us: 1 << (n % 20), ..record() };
        book.fold(&Flow::of(&record), &[choice("far", 1)], n, 60);
        assert_eq!(book.bins, book.cells.values().map(|cell| cell.content.pairs()).sum::<usize>());
        assert!(book.bins <= 104);
    }
    let again = Book::replay([book.checkpoint()]).expect("sound");
    assert_eq!(again.bins, book.bins);
    // Joined cells hold all flows in fewer bins.
    assert_eq!(
        (flows(&report(&mut book)).iter().map(|(_, _, flows)| flows).sum::<u64>(), book.head().flows_lost),
        (1_000, 0)
    );
}

#[test]
fn what_the_server_may_have_is_not_joined() {
    let mut book = Book { cells_max: 4, ..Book::new(head()) };
    let far = [choice("far", 1)];
    (0..2).for_each(|minute| fold(&mut book, &far, minute * 60));
    let sent = report(&mut book);
    (2..20).for_each(|minute| fold(&mut book, &far, minute * 60));
    book.settle(sent.sequence);
    let rest = report(&mut book);
    let all: u64 = flows(&sent).iter().chain(&flows(&rest)).map(|(_, _, flows)| flows).sum();
    assert_eq!((all, book.head().flows_lost), (20, 0));
}

#[test]
fn what_cannot_be_joined_is_given_up_and_counted() {
    let mut book = Book { cells_max: 4, ..Book::new(head()) };
    (0..10).for_each(|n| fold(&mut book, &[choice("far", n)], 0));
    assert_eq!(book.cells() as u64 + book.head().flows_lost, 10);
    assert!(book.cells() <= 4);
}

#[test]
fn a_book_is_what_its_entries_say() {
    let mut book = Book::new(head());
    let mut entries = vec![book.checkpoint()];
    for minute in 0..10 {
        fold(&mut book, &[choice("far", 1), choice("near", 1 + minute / 4)], minute * 60);
        book.advance(minute);
        if minute == 5 {
            let sent = report(&mut book);
            book.settle(sent.sequence);
            book.close(300);
        }
        entries.push(book.entry());
        book.written();
    }
    let again = Book::replay(entries).expect("sound");
    assert_eq!(again.checkpoint(), book.checkpoint());
    assert_eq!(Book::replay([book.checkpoint()]).expect("sound").checkpoint(), book.checkpoint());
}
