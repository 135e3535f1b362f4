//! Zones are those of the longest prefix, however many there are.

use sockpilot_proto::v1;
use sockpilot_simulate::simulate_alone;

use crate::made::{cwnd, flow, policy, rule};

#[test]
fn a_map_within_a_map_and_two_ends_in_one_zone() {
    let zone = |name: &str, region: &str, prefixes: &[&str]| v1::Zone {
        name: name.to_owned(),
        region: region.to_owned(),
        prefixes: prefixes.iter().map(ToString::to_string).collect(),
    };
    let zones = vec![zone("all", "a", &["10.0.0.0/8", "fd00::/8"]), zone("rack", "a", &["10.2.0.0/24", "fd02::/64"])];
    let map = v1::ZoneMap { zones, ..v1::ZoneMap::default() };
    let to = |remote: &str| v1::FlowSample { remote_address: remote.to_owned(), ..flow(1, 1.0) };
    let six = v1::FlowSample { local_address: "fd01::1".to_owned(), ..to("fd02::9") };
    let flows = [to("10.2.0.9"), to("10.9.0.9"), to("::ffff:10.2.0.8"), to("192.0.2.1"), six, to("10.1.0.7")];
    let relation = |relation: v1::ZoneRelation, packets| {
        let matches = v1::Match { zone_relation: relation.into(), ..v1::Match::default() };
        rule(&format!("r{packets}"), matches, cwnd(packets))
    };
    let rules = vec![relation(v1::ZoneRelation::OtherZone, 20), relation(v1::ZoneRelation::SameZone, 30)];
    let answer = simulate_alone(&flows, vec![], vec![policy("p", 1, rules)], &map).expect("sound");
    let line = |change: &v1::ParameterChange| (change.after.clone(), change.share.map(|share| share.recorded_touched));
    let found: Vec<_> = answer.changes.iter().map(line).collect();
    assert_eq!(found, [(Some("20".to_owned()), Some(3)), (Some("30".to_owned()), Some(2))]);
}
