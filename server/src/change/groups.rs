//! Experiments that must not overlap: those with one salt are a group, in which every bucket belongs to one of those that run. So no
//! connection is in two of them, and none takes another's effect for its own. Pure.

use std::ops::Range;

use sockpilot_policy::{
    bucket::BUCKETS,
    fault::Collector,
    model::{Arm, Experiment},
    overlap::overlap,
};
use sockpilot_proto::{convert::experiment_from_proto, v1};

use super::target::one_node;

/// Checks an experiment that is to run against those that do. `document` is the field of the request that holds it, if one does.
pub fn check(experiment: &v1::Experiment, running: &[v1::Experiment], document: Option<&str>, faults: &mut Collector) {
    let Ok(own) = experiment_from_proto(experiment, "") else { return };
    let others: Vec<(&str, Experiment)> = running
        .iter()
        .filter(|other| other.name != experiment.name)
        .filter_map(|other| Some((other.name.as_str(), experiment_from_proto(other, "").ok()?)))
        .filter(|(_, other)| on_the_same(&own, other))
        .collect();
    let at = |field: String| document.map_or_else(|| "revision".to_owned(), |document| format!("{document}.{field}"));
    let salt = &own.design.comparison.salt;
    if let Some((name, _)) = others.iter().find(|(_, other)| other.design.comparison.unit != own.design.comparison.unit)
    {
        let description = format!(
            "{name} runs with the salt \"{salt}\", and is for the same connections by another unit, so nothing keeps them apart; write its \
             unit and buckets that it does not own, a salt of its own to let both have the same connections, or stop {name}"
        );
        return faults.add_at(&at("unit".to_owned()), description);
    }
    let taken: Vec<(&str, Range<u32>)> = others
        .iter()
        .flat_map(|(name, other)| other.design.comparison.arms.iter().map(|arm| (*name, buckets(arm))))
        .collect();
    let arms = &own.design.comparison.arms;
    for (index, arm) in arms.iter().enumerate() {
        let wanted = buckets(arm);
        let Some((name, theirs)) = taken.iter().find(|(_, theirs)| meet(theirs, &wanted)) else { continue };
        let beside = arms.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, arm)| buckets(arm));
        let all: Vec<_> = taken.iter().map(|(_, theirs)| theirs.clone()).chain(beside).collect();
        let place = match free(&all, arm.weight_bp) {
            Some(first) => format!("begin at {first}"),
            None => format!("no {} buckets in a row are free: make arms smaller", arm.weight_bp),
        };
        let description = format!(
            "{name} runs with the salt \"{salt}\" on the same connections, and owns the buckets {} to {}; {place}, write a salt of its own to let \
             both have the same connections, or stop {name}",
            theirs.start,
            theirs.end - 1
        );
        faults.add_at(&at(format!("arms[{index}].first_bucket")), description);
    }
}

/// Whether both are of one group, and a connection may be for both. That one end of a connection is in one and the other end in the
/// other may be meant: one salt then treats both ends alike.
fn on_the_same(a: &Experiment, b: &Experiment) -> bool {
    let (on_a, on_b) = (&a.design.node_labels, &b.design.node_labels);
    let (a, b) = (&a.design.comparison, &b.design.comparison);
    a.salt == b.salt && one_node(on_a, on_b) && overlap(&a.matches, &b.matches)
}

fn buckets(arm: &Arm) -> Range<u32> {
    arm.first_bucket..arm.first_bucket.saturating_add(arm.weight_bp)
}

fn meet(one: &Range<u32>, other: &Range<u32>) -> bool {
    one.start < other.end && other.start < one.end
}

/// The first of so many buckets in a row that nobody owns.
fn free(taken: &[Range<u32>], width: u32) -> Option<u32> {
    let mut starts: Vec<u32> = taken.iter().map(|range| range.end).chain([0]).collect();
    starts.sort_unstable();
    let fits = |start: &u32| {
        let wanted = *start..start.saturating_add(width);
        wanted.end <= BUCKETS && !taken.iter().any(|range| meet(range, &wanted))
    };
    starts.into_iter().find(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn experiment(name: &str, salt: &str, port: &str, arms: &[(u32, u32)]) -> v1::Experiment {
        let arm = |(index, (first, weight)): (usize, &(u32, u32))| v1::Arm {
            name: format!("arm-{index}"),
            weight_bp: *weight,
            first_bucket: Some(*first),
            ..v1::Arm::default()
        };
        v1::Experiment {
            name: format!("experiments/{name}"),
            salt: salt.to_owned(),
            r#match: Some(v1::Match {
                direction: v1::Direction::Active.into(),
                remote_ports: vec![port.to_owned()],
                ..v1::Match::default()
            }),
            arms: arms.iter().enumerate().map(arm).collect(),
            ..v1::Experiment::default()
        }
    }

    fn said(experiment: &v1::Experiment, running: &[v1::Experiment]) -> Vec<String> {
        let mut faults = Collector::at("");
        check(experiment, running, Some("experiment"), &mut faults);
        let found = faults.finish(()).err();
        found
            .iter()
            .flat_map(|faults| faults.as_slice())
            .map(|fault| format!("{}: {}", fault.field, fault.description))
            .collect()
    }

    const HALVES: [(u32, u32); 2] = [(0, 1_000), (1_000, 1_000)];

    #[test]
    fn a_bucket_of_a_group_has_one_owner() {
        let own = experiment("own", "s", "443", &HALVES);
        let found = said(&own, &[experiment("a", "s", "400-500", &[(1_500, 500), (2_000, 500)]), own.clone()]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with("experiment.arms[1].first_bucket: experiments/a runs with the salt \"s\""),
            "{found:?}"
        );
        assert!(found[0].contains("owns the buckets 1500 to 1999; begin at 2500, "), "{found:?}");
        let apart = experiment("a", "s", "443", &[(2_000, 4_000), (6_000, 4_000)]);
        assert_eq!(said(&own, &[apart]), [""; 0]);
        let all = experiment("a", "s", "443", &[(500, 4_500), (5_000, 5_000)]);
        let found = said(&own, &[all]);
        assert!(
            found.len() == 2 && found[0].contains("no 1000 buckets in a row are free: make arms smaller"),
            "{found:?}"
        );
    }

    #[test]
    fn units_cut_differently() {
        let own = experiment("own", "s", "443", &HALVES);
        let apart = experiment("a", "s", "443", &[(2_000, 4_000), (6_000, 4_000)]);
        let nodes = v1::Experiment { unit: v1::Unit::Node.into(), ..apart };
        let found = said(&own, std::slice::from_ref(&nodes));
        assert!(found.len() == 1 && found[0].starts_with("experiment.unit: experiments/a runs"), "{found:?}");
        assert_eq!(said(&v1::Experiment { salt: "t".to_owned(), ..own }, &[nodes]), [""; 0]);
    }

    #[test]
    fn other_salts_connections_and_nodes_are_none_of_its_business() {
        let own = experiment("own", "s", "443", &HALVES);
        let others = [experiment("a", "s", "80", &HALVES), experiment("b", "t", "443", &HALVES)];
        assert_eq!(said(&own, &others), [""; 0]);
        assert_eq!(said(&own, &[experiment("s", "", "443", &HALVES)]).len(), 2, "without a salt the id is it");
        let labelled = |name: &str, role: &str| v1::Experiment {
            node_labels: [("role".to_owned(), role.to_owned())].into(),
            ..experiment(name, "s", "443", &HALVES)
        };
        assert_eq!(said(&labelled("a", "edge"), &[labelled("b", "core")]), [""; 0]);
        assert_eq!(said(&labelled("a", "edge"), &[labelled("b", "edge")]).len(), 2);
    }

    #[test]
    fn where_there_is_no_document_the_revision_is_named() {
        let mut faults = Collector::at("");
        let (own, other) = (experiment("own", "s", "443", &HALVES), experiment("a", "s", "443", &HALVES));
        check(&own, &[other], None, &mut faults);
        let faults = faults.finish(()).expect_err("it overlaps");
        assert!(faults.as_slice().iter().all(|fault| fault.field == "revision"), "{faults:?}");
    }
}
