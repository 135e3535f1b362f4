//! Every flow is decided as the domain core decides it, and counted once.

use proptest::prelude::*;
use prost::Message;
use sockpilot_policy::{
    address::address_bytes,
    decide::{Flow, decide},
    explain::explain,
    layout::{ACTIVE, FlowKey, IPV4, PASSIVE},
    model::Snapshot,
    unit::on_node,
};
use sockpilot_proto::v1;

use crate::made::{any_flow, any_layers, run, snapshot};

fn key(flow: &v1::FlowSample) -> FlowKey {
    let bytes = |text: &str| address_bytes(text.parse().expect("an address"));
    FlowKey {
        local: bytes(&flow.local_address),
        remote: bytes(&flow.remote_address),
        local_port: u16::try_from(flow.local_port).expect("a port"),
        remote_port: u16::try_from(flow.remote_port).expect("a port"),
        family: IPV4,
        direction: if flow.direction() == v1::Direction::Active { ACTIVE } else { PASSIVE },
        reserved: 0,
    }
}

/// By parameter: what the connection gets of it, as it is explained. What acts on connections of the other direction is not had.
fn values(snapshot: &Snapshot, flow: &v1::FlowSample) -> Vec<(&'static str, String)> {
    let snapshot = on_node(snapshot, flow.node.trim_start_matches("nodes/"));
    let asked = Flow {
        key: key(flow),
        service: Some(flow.service.as_str()).filter(|service| !service.is_empty()),
        handshake_rtt_us: Some(flow.handshake_rtt_us).filter(|rtt| *rtt > 0),
        begin_s: Some(1_699_999_999),
    };
    // Nothing here asks for the handshake's time, so there is one decision.
    let decided = decide(&snapshot, &asked, 0);
    let explained = explain(&snapshot, &asked, 0, None).parameters;
    let had = explained.into_iter().filter(|explained| !explained.note.contains("connections only"));
    had.map(|explained| {
        let value = explained.winner.expect("nothing is known of the kernel").value;
        assert!(decided.values.iter().flatten().any(|(won, _)| *won == value));
        (explained.parameter.name, value.to_string())
    })
    .collect()
}

fn sum(shares: impl Iterator<Item = v1::TouchedShare>) -> (f64, f64, u64, u64) {
    shares.fold((0.0, 0.0, 0, 0), |(connections, touched, recorded, of), share| {
        (
            connections + share.connections,
            touched + share.touched,
            recorded + share.recorded,
            of + share.recorded_touched,
        )
    })
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0)
}

proptest! {
    #[test]
    fn whoever_gets_another_value_is_touched(
        before in any_layers(), after in any_layers(), flows in prop::collection::vec(any_flow(), 0..60),
    ) {
        let (before, after) = (snapshot(before), snapshot(after));
        let answer = run(&flows, &before, &after);
        let had: Vec<_> = flows.iter().map(|flow| (values(&before, flow), values(&after, flow))).collect();
        let touched = flows.iter().zip(&had).filter(|(_, (before, after))| before != after);
        let (recorded, connections) = touched.fold((0, 0.0), |(count, sum), (flow, _)| (count + 1, sum + flow.weight));
        let total = answer.total.expect("a total");
        prop_assert_eq!(total.recorded, flows.len() as u64);
        prop_assert_eq!(total.recorded_touched, recorded);
        prop_assert!(near(total.touched, connections));
        for change in &answer.changes {
            let of = |values: &[(&str, String)]| {
                let mut values = values.iter();
                values.find(|(name, _)| *name == change.parameter).map(|(_, value)| value.clone())
            };
            prop_assert_ne!(&change.before, &change.after);
            let concerned = had.iter().filter(|(before, after)| of(before) == change.before && of(after) == change.after);
            let share = change.share.expect("a share");
            prop_assert_eq!(share.recorded_touched, concerned.count() as u64);
            prop_assert_eq!(share.recorded, total.recorded);
            prop_assert!(near(share.connections, total.connections));
        }
        prop_assert!(answer.changes.is_empty() == (recorded == 0));
    }

    #[test]
    fn the_same_layers_touch_nothing(layers in any_layers(), flows in prop::collection::vec(any_flow(), 0..60)) {
        let (before, equal) = (snapshot(layers.clone()), snapshot(layers));
        for after in [&before, &equal] {
            let answer = run(&flows, &before, after);
            prop_assert_eq!(answer.total.expect("a total").recorded_touched, 0);
            prop_assert!(answer.changes.is_empty());
        }
    }

    #[test]
    fn every_breakdown_adds_up_to_all(
        before in any_layers(), after in any_layers(), flows in prop::collection::vec(any_flow(), 0..120),
    ) {
        let answer = run(&flows, &snapshot(before), &snapshot(after));
        let total = sum(answer.total.into_iter());
        prop_assert_eq!(answer.breakdowns.len(), 5);
        for breakdown in answer.breakdowns {
            let found = sum(breakdown.rows.iter().filter_map(|row| row.share));
            prop_assert!(near(found.0, total.0) && near(found.1, total.1), "{:?} {:?}", found, total);
            prop_assert_eq!((found.2, found.3), (total.2, total.3));
        }
    }

    #[test]
    fn the_order_of_the_flows_does_not_matter(
        before in any_layers(), after in any_layers(), flows in prop::collection::vec(any_flow(), 0..60),
    ) {
        let (before, after) = (snapshot(before), snapshot(after));
        let forward = run(&flows, &before, &after).encode_to_vec();
        let backward: Vec<_> = flows.into_iter().rev().collect();
        prop_assert_eq!(forward, run(&backward, &before, &after).encode_to_vec());
    }

    #[test]
    fn weights_scale(
        before in any_layers(), after in any_layers(), flows in prop::collection::vec(any_flow(), 1..60), by in 1_u32..50,
    ) {
        let (before, after, by) = (snapshot(before), snapshot(after), f64::from(by));
        let scaled: Vec<_> = flows.iter().map(|flow| v1::FlowSample { weight: by * flow.weight, ..flow.clone() }).collect();
        let (once, more) = (run(&flows, &before, &after), run(&scaled, &before, &after));
        let (once, more) = (once.total.expect("a total"), more.total.expect("a total"));
        prop_assert!(near(once.connections * by, more.connections) && near(once.touched * by, more.touched));
        prop_assert!(near(once.share, more.share));
        // Each flow stands for more that were not seen.
        prop_assert!(more.standard_error >= once.standard_error);
        prop_assert!(more.lower <= once.lower + 1e-12 && more.upper >= once.upper - 1e-12);
    }

    #[test]
    fn limits_are_around_the_share(
        before in any_layers(), after in any_layers(), flows in prop::collection::vec(any_flow(), 0..60),
    ) {
        let answer = run(&flows, &snapshot(before), &snapshot(after));
        let rows = answer.breakdowns.iter().flat_map(|breakdown| &breakdown.rows).filter_map(|row| row.share);
        for share in rows.chain(answer.changes.iter().filter_map(|change| change.share)).chain(answer.total) {
            let v1::TouchedShare { share: value, standard_error, lower, upper, .. } = share;
            prop_assert!(0.0 <= lower && lower <= value && value <= upper && upper <= 1.0, "{:?}", share);
            prop_assert!(standard_error >= 0.0 && standard_error.is_finite());
        }
    }
}
