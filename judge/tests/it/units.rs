//! Whatever is randomised: errors are at its level, and verdicts are as of connections.

use sockpilot_proto::v1::{Standing, Unit, VerdictKind};

use crate::made::{clusters, design, evidence, flows, grouped, kind, made, over, results, verdict};

const UNITS: [Unit; 4] = [Unit::Node, Unit::PeerPrefix, Unit::TimeSlot, Unit::SaturationPair];

#[test]
fn better_ships_and_worse_does_not() {
    for unit in UNITS {
        let of = |us| clusters(unit, 60, made(1_000, 990, 1_000.0), made(1_000, 990, us));
        let said = verdict(&of(700.0));
        assert_eq!((said.kind(), said.arm.as_str()), (VerdictKind::Ship, "treatment"), "{unit:?}: {}", said.reason);
        let rows = results(&of(700.0)).measures;
        let row = rows.iter().find(|row| row.title == "srtt_us").expect("it");
        assert_eq!(row.standing(), Standing::Better, "{unit:?}: {row:?}");
        let said = verdict(&of(1_400.0));
        assert_eq!(said.kind(), VerdictKind::DoNotShip, "{unit:?}: {}", said.reason);
        let said = verdict(&of(1_000.0));
        assert_eq!(said.kind(), VerdictKind::KeepRunning, "{unit:?}: {}", said.reason);
        assert_eq!(kind(&over(of(1_000.0))), VerdictKind::Inconclusive, "{unit:?}");
    }
}

/// A guardrail that all connections pass is passed, once there are enough of them; and not before.
#[test]
fn what_never_happens_is_guarded_too() {
    for unit in [Unit::Flow, Unit::Node, Unit::PeerPrefix, Unit::TimeSlot, Unit::SaturationPair] {
        let standing = |many: u64| {
            let of = |us| made(many, many, us);
            let found = match unit {
                Unit::Flow => flows(made(20 * many, 20 * many, 1_000.0), made(20 * many, 20 * many, 700.0)),
                _ => clusters(unit, 20, of(1_000.0), of(700.0)),
            };
            let row = results(&found).measures.into_iter().find(|row| row.title == "connected").expect("it");
            (row.standing(), row.value, kind(&found))
        };
        assert_eq!(standing(1_000), (Standing::WithinMargin, 1.0, VerdictKind::Ship), "{unit:?}");
        // A hundred connections of each arm: one of them in a hundred may be bad, and nobody would have seen it yet.
        assert_eq!(standing(5).0, Standing::Open, "{unit:?}");
    }
}

/// Many connections of few clusters are few.
#[test]
fn few_clusters_say_nothing() {
    for unit in UNITS {
        for few in [0, 1, 2] {
            let found = clusters(unit, few, made(1_000_000, 990_000, 1_000.0), made(1_000_000, 990_000, 100.0));
            let wanted = if few == 0 { VerdictKind::NoData } else { VerdictKind::KeepRunning };
            assert_eq!(kind(&found), wanted, "{unit:?} {few}");
            let wanted = if few == 0 { VerdictKind::NoData } else { VerdictKind::Inconclusive };
            assert_eq!(kind(&over(found)), wanted, "{unit:?} {few}");
        }
    }
}

/// An arm that never connects is found out, whatever the unit; of few clusters it is not known yet, and never no data.
#[test]
fn none_of_many_is_data() {
    for unit in UNITS {
        let said = verdict(&clusters(unit, 60, made(1_000, 1_000, 1_000.0), made(1_000, 0, 0.0)));
        assert_eq!(said.kind(), VerdictKind::DoNotShip, "{unit:?}: {}", said.reason);
        let few = kind(&clusters(unit, 6, made(1_000, 1_000, 1_000.0), made(1_000, 0, 0.0)));
        assert!(matches!(few, VerdictKind::DoNotShip | VerdictKind::KeepRunning), "{unit:?}: {few:?}");
    }
}

/// An experiment of weeks has more slots than any cell of it.
#[test]
fn as_many_slots_as_it_takes() {
    let found = clusters(Unit::TimeSlot, 10_000, made(10, 10, 1_000.0), made(10, 10, 700.0));
    let all = results(&found);
    assert!(all.arms.iter().all(|arm| arm.groups == 10_000), "{:?}", all.arms);
}

/// Of a great fleet each arm has all groups: that is no arm without its share.
#[test]
fn a_great_fleet_is_not_taken_for_one_without_its_shares() {
    let all = |us: f64| -> Vec<_> { (0..256).map(|group| (group, made(100, 99, us + f64::from(group % 7)))).collect() };
    let mut uneven = design(Unit::Node);
    (uneven.arms[0].weight_bp, uneven.arms[1].weight_bp, uneven.arms[1].first_bucket) = (9_000, 1_000, Some(9_000));
    let found = evidence(uneven, vec![Some(grouped(&all(1_000.0))), Some(grouped(&all(1_000.0)))]);
    let said = verdict(&found);
    assert_eq!(said.kind(), VerdictKind::KeepRunning, "{}", said.reason);
}

/// Nodes give shares of a saturation pair by position, so the first arm is the control there, whatever it is called.
#[test]
fn the_first_of_a_saturation_pair_is_the_control() {
    let mut found = clusters(Unit::SaturationPair, 40, made(1_000, 990, 1_000.0), made(1_000, 990, 700.0));
    let design = found.design.as_mut().expect("a design");
    for (at, name) in ["few", "control"].into_iter().enumerate() {
        design.arms[at].name = name.to_owned();
        found.arms[at].arm = name.to_owned();
    }
    let all = results(&found);
    assert_eq!((all.arms[0].arm.as_str(), all.arms[0].control), ("few", true));
    let row = all.measures.iter().find(|row| row.title == "srtt_us").expect("it");
    assert_eq!((row.arm.as_str(), row.standing()), ("control", Standing::Better), "{row:?}");
}

#[test]
fn a_saturation_pair_says_total_and_spillover() {
    let all = results(&clusters(Unit::SaturationPair, 60, made(1_000, 990, 1_000.0), made(1_000, 990, 700.0)));
    let of: Vec<_> =
        all.measures.iter().filter(|row| row.title == "srtt_us").map(|row| row.effect_of.as_str()).collect();
    assert_eq!(of.len(), 4, "{of:?}");
    assert_eq!(of[0], "treating everybody");
    assert!(all.share_checks.is_empty() && all.arms.iter().all(|arm| arm.weight_bp == 0));
    assert!(all.estimand.contains("total effect"), "{}", all.estimand);
}
