//! What is sound and probably not meant: warnings, where [`crate::validate`] has faults.

use crate::{
    address::{Family, Prefix},
    fault::Collector,
    model::{Experiment, Match, Policy, Zone},
};

/// Notes what a policy probably does not mean; the collector stands at it.
pub fn policy(policy: &Policy, notes: &mut Collector) {
    notes.each("rules", &policy.rules, |notes, rule| notes.field("match", |notes| families(&rule.matches, notes)));
}

/// Notes what an experiment probably does not mean; the collector stands at it.
pub fn experiment(experiment: &Experiment, notes: &mut Collector) {
    notes.field("match", |notes| families(&experiment.design.comparison.matches, notes));
}

/// Notes what a zone map probably does not mean; the collector stands at it.
pub fn zones(zones: &[Zone], notes: &mut Collector) {
    // Another zone may hold the other family.
    let all: Vec<Prefix> = zones.iter().flat_map(|zone| zone.prefixes.iter().copied()).collect();
    notes.each("zones", zones, |notes, zone| {
        if let Some(family) = whole_of_one(&zone.prefixes).and_then(|_| whole_of_one(&all)) {
            notes.add_at("prefixes", half(family));
        }
    });
}

/// All addresses of one family are asked for in words that look like all addresses.
fn families(matches: &Match, notes: &mut Collector) {
    let Match { family, local_prefixes, remote_prefixes, .. } = matches;
    let lists =
        [("local_prefixes", local_prefixes, remote_prefixes), ("remote_prefixes", remote_prefixes, local_prefixes)];
    for (name, list, opposite) in lists {
        // If something else already asks for the family, nothing is lost.
        let asked = |wanted| *family == Some(wanted) || (!opposite.is_empty() && all_of(opposite, wanted));
        if let Some(family) = whole_of_one(list).filter(|family| !asked(*family)) {
            notes.add_at(name, half(family));
        }
    }
}

fn all_of(prefixes: &[Prefix], family: Family) -> bool {
    prefixes.iter().all(|prefix| prefix.family() == family)
}

/// The family of which the list holds for every address, if it holds for none of the other.
fn whole_of_one(prefixes: &[Prefix]) -> Option<Family> {
    let family = prefixes.iter().find(|prefix| prefix.is_whole())?.family();
    all_of(prefixes, family).then_some(family)
}

fn half(family: Family) -> String {
    let (other, whole, lacking) = (family.other(), family.whole(), family.other().whole());
    format!(
        "{whole} holds for no {other} address; add {lacking} for {other} too, or say that it is meant: family: {}",
        family.to_string().to_lowercase()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|text| text.parse().expect("a prefix")).collect()
    }

    fn fields(matches: &Match) -> Vec<String> {
        let mut notes = Collector::at("");
        families(matches, &mut notes);
        notes.finish(()).err().iter().flat_map(|notes| notes.as_slice()).map(|note| note.field.clone()).collect()
    }

    fn remote(texts: &[&str]) -> Match {
        Match { remote_prefixes: prefixes(texts), ..Match::default() }
    }

    #[test]
    fn all_of_one_family_is_not_all() {
        assert_eq!(fields(&remote(&["::/0"])), ["remote_prefixes"]);
        assert_eq!(fields(&remote(&["2001:db8::/32", "::/0"])), ["remote_prefixes"]);
        assert_eq!(fields(&Match { local_prefixes: prefixes(&["0.0.0.0/0"]), ..Match::default() }), ["local_prefixes"]);
        let both = Match { local_prefixes: prefixes(&["0.0.0.0/0", "::/0"]), ..remote(&["::/0"]) };
        assert_eq!(fields(&both), ["remote_prefixes"]);
    }

    #[test]
    fn who_names_both_families_or_asks_for_one_means_it() {
        for sound in [&["::/0", "0.0.0.0/0"][..], &["::/0", "10.0.0.0/8"], &["2001:db8::/32"], &["0.0.0.0/1"], &[]] {
            assert_eq!(fields(&remote(sound)), [""; 0], "{sound:?}");
        }
        assert_eq!(fields(&Match { family: Some(Family::Ipv6), ..remote(&["::/0"]) }), [""; 0]);
        let pair = Match { local_prefixes: prefixes(&["fd00::/8"]), ..remote(&["::/0"]) };
        assert_eq!(fields(&pair), [""; 0], "the local prefixes are of that family, too");
    }

    #[test]
    fn a_catch_all_zone_may_have_its_other_half_elsewhere() {
        let zone = |name: &str, texts: &[&str]| Zone {
            name: name.parse().expect("an id"),
            region: "r".parse().expect("an id"),
            prefixes: prefixes(texts),
        };
        let said = |map: &[Zone]| {
            let mut notes = Collector::at("zone_map");
            zones(map, &mut notes);
            notes.finish(()).err().map(|notes| notes.as_slice()[0].field.clone())
        };
        assert_eq!(said(&[zone("world", &["::/0"])]).as_deref(), Some("zone_map.zones[0].prefixes"));
        assert_eq!(said(&[zone("world", &["::/0"]), zone("old", &["0.0.0.0/0"])]), None);
    }
}
