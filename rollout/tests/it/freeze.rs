use chrono::{DateTime, Utc};
use sockpilot_policy::fault::Collector;
use sockpilot_proto::v1;
use sockpilot_rollout::freeze::{Window, window_from_proto};

fn weekly(time_zone: &str) -> v1::FreezeWindow {
    v1::FreezeWindow {
        weekdays: vec![5],
        start_time_of_day: "18:00".to_owned(),
        duration: Some(prost_types::Duration { seconds: 62 * 3_600, nanos: 0 }),
        time_zone: time_zone.to_owned(),
        ..v1::FreezeWindow::default()
    }
}

fn read(message: &v1::FreezeWindow) -> Result<Window, String> {
    let mut faults = Collector::at("window");
    let window = window_from_proto(&mut faults, message);
    faults.finish(window).map_err(|faults| faults.to_string())?.ok_or_else(|| "nothing".to_owned())
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("a time")
}

#[test]
fn a_weekend_is_that_of_the_time_zone() {
    let berlin = read(&weekly("Europe/Berlin")).expect("sound");
    let utc = read(&weekly("")).expect("sound");
    // A Friday in winter, when Berlin is an hour ahead.
    for (time, in_berlin, in_utc) in [
        ("2026-01-16T16:59:59Z", false, false),
        ("2026-01-16T17:00:00Z", true, false),
        ("2026-01-16T18:00:00Z", true, true),
        ("2026-01-19T06:59:59Z", true, true),
        ("2026-01-19T07:00:00Z", false, true),
        ("2026-01-19T08:00:00Z", false, false),
        // And in summer, two.
        ("2026-07-17T15:59:59Z", false, false),
        ("2026-07-17T16:00:00Z", true, false),
    ] {
        assert_eq!((berlin.holds(at(time)), utc.holds(at(time))), (in_berlin, in_utc), "{time}");
    }
}

#[test]
fn a_time_that_the_clocks_skip_begins_after_them() {
    let skipped = v1::FreezeWindow {
        weekdays: vec![7],
        start_time_of_day: "02:30".to_owned(),
        duration: Some(prost_types::Duration { seconds: 3_600, nanos: 0 }),
        time_zone: "Europe/Berlin".to_owned(),
        ..v1::FreezeWindow::default()
    };
    let window = read(&skipped).expect("sound");
    assert!(window.holds(at("2026-03-29T01:30:00Z")), "half past three, summer time");
    assert!(!window.holds(at("2026-03-29T00:45:00Z")));
}

#[test]
fn what_is_wrong_is_named() {
    for (message, named) in [
        (v1::FreezeWindow::default(), "window.start_time"),
        (v1::FreezeWindow { weekdays: vec![8], ..weekly("") }, "window.weekdays"),
        (v1::FreezeWindow { start_time_of_day: "25:00".to_owned(), ..weekly("") }, "window.start_time_of_day"),
        (weekly("Mars/Olympus"), "window.time_zone"),
        (v1::FreezeWindow { duration: None, ..weekly("") }, "window.duration"),
    ] {
        let refused = read(&message).expect_err(named);
        assert!(refused.contains(named), "{refused}");
    }
}
