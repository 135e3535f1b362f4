//! When the kernel sends again and gives up, in numbers. `tests/tests/kernel_handshakes.rs` sees the same on the wire.

use proptest::prelude::*;
use sockpilot_policy::schedule::{Schedule, Syn, SynAck, idle_s, unacknowledged_ticks};

fn syn(rto_ticks: u64, retries: u64, linear_timeouts: u64) -> Syn {
    Syn { rto_ticks, retries, linear_timeouts, rto_max_ticks: 120_000, user_timeout_ticks: None }
}

fn times(syn: Syn) -> (Vec<u64>, u64) {
    let Schedule { again_ticks, given_up_ticks } = syn.schedule();
    (again_ticks, given_up_ticks)
}

#[test]
fn linear_timeouts_come_before_the_doublings() {
    let four = vec![100, 200, 300, 400, 500, 700, 1_100, 1_900, 3_500, 6_700];
    assert_eq!(times(syn(100, 6, 4)), (four, 13_100));
    assert_eq!(times(syn(100, 6, 0)), (vec![100, 300, 700, 1_500, 3_100, 6_300], 12_700));
    assert_eq!(times(syn(100, 2, 1)), (vec![100, 200, 400], 800));
}

/// What `retries` doublings take bounds the time, so few retries cut the linear timeouts short.
#[test]
fn the_time_is_bounded_too() {
    assert_eq!(times(syn(1_000, 1, 4)), (vec![1_000, 2_000], 3_000));
    assert_eq!(times(syn(1_000, 2, 4)), (vec![1_000, 2_000, 3_000, 4_000, 5_000], 7_000));
}

#[test]
fn a_user_timeout_ends_it_after_the_first_retransmission() {
    let with = |user_timeout, linear| times(Syn { user_timeout_ticks: Some(user_timeout), ..syn(1_000, 6, linear) });
    assert_eq!(with(1_500, 4), (vec![1_000], 1_500));
    assert_eq!(with(3_500, 4), (vec![1_000, 2_000, 3_000], 3_500));
    assert_eq!(with(300, 4), (vec![1_000], 1_001));
    assert_eq!(with(600_000, 0).0.len(), 6, "retries are counted all the same");
}

#[test]
fn the_greatest_timeout_bounds_every_interval() {
    let bounded = Syn { rto_max_ticks: 1_000, ..syn(400, 4, 0) };
    assert_eq!(times(bounded), (vec![400, 1_200, 2_200, 3_200], 4_200));
    assert_eq!(times(Syn { rto_max_ticks: 1_000, ..syn(5_000, 1, 0) }), (vec![1_000], 2_000));
    let syn_ack = SynAck { rto_ticks: 100, retries: 5, rto_max_ticks: 120_000 };
    let expected = Schedule { again_ticks: vec![100, 300, 700, 1_500, 3_100], given_up_ticks: 6_300 };
    assert_eq!(syn_ack.schedule(), expected);
}

#[test]
fn established_connections() {
    assert_eq!(unacknowledged_ticks(15, 120_000, 1_000), 924_600, "as net.ipv4.tcp_retries2 is documented");
    assert_eq!(unacknowledged_ticks(15, 1_000, 1_000), 14_400);
    assert_eq!(unacknowledged_ticks(3, 120_000, 1_000), 3_000);
    assert_eq!(idle_s(7_200, 75, 9, None), 7_875);
    assert_eq!(idle_s(60, 10, 3, Some(1_000)), 70, "after one probe at least");
    assert_eq!(idle_s(60, 10, 3, Some(75_000)), 80);
}

fn any_syn() -> impl Strategy<Value = Syn> {
    (1..200_000_u64, 1..=127_u64, 0..=127_u64, 100..=120_000_u64, proptest::option::of(1..10_000_000_u64)).prop_map(
        |(rto_ticks, retries, linear_timeouts, rto_max_ticks, user_timeout_ticks)| Syn {
            rto_ticks,
            retries,
            linear_timeouts,
            rto_max_ticks,
            user_timeout_ticks,
        },
    )
}

proptest! {
    #[test]
    fn a_schedule_is_sound(syn in any_syn()) {
        let (again, end) = times(syn);
        prop_assert!(!again.is_empty() && again.len() as u64 <= syn.retries + syn.linear_timeouts);
        prop_assert_eq!(again[0], syn.rto_ticks.min(syn.rto_max_ticks));
        let all: Vec<u64> = [0].into_iter().chain(again.iter().copied()).chain([end]).collect();
        let waits: Vec<u64> = all.windows(2).map(|pair| pair[1] - pair[0]).collect();
        prop_assert!(waits.iter().all(|wait| (1..=syn.rto_max_ticks).contains(wait)));
        // Only the user timeout cuts a wait short, and only the last one.
        prop_assert!(waits[..again.len()].windows(2).all(|pair| pair[0] <= pair[1]));
        let linear = (syn.linear_timeouts as usize).min(again.len() - 1);
        prop_assert!(waits[..=linear].iter().all(|wait| *wait == waits[0]));
        // A user timeout that is over by then ends it, and not before the first retransmission.
        if let Some(timeout) = syn.user_timeout_ticks {
            prop_assert!(end <= timeout.max(again[0] + 1));
        }
    }

    #[test]
    fn more_retries_never_end_earlier(syn in any_syn(), more in 1..20_u64) {
        let longer = Syn { retries: syn.retries + more, ..syn };
        prop_assert!(times(longer).1 >= times(syn).1);
    }
}
