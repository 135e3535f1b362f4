//! Evidence that is made up.

use prost_types::Timestamp;
use sockpilot_judge::judge;
use sockpilot_policy::bucket::{is_saturated, salt};
use sockpilot_proto::v1::{self, MeasureRole, Unit, VerdictKind};

pub const SALT: &str = "e";
pub const DAY_S: i64 = 86_400;

/// What is measured of connections that are all alike but for chance: how many, how many of them were established, and the mean round-trip
/// time of these.
#[derive(Debug, Clone, Copy)]
pub struct Made {
    pub begun: u64,
    pub established: u64,
    pub srtt_us: f64,
}

pub fn made(begun: u64, established: u64, srtt_us: f64) -> Made {
    Made { begun, established, srtt_us }
}

/// Columns of attempts: connected. Of established ones: srtt, whether it is known, and the covariate.
const RTT_LN: f64 = 7.0;

impl Made {
    pub fn measured(self) -> v1::Measured {
        let Self { begun, established, srtt_us } = self;
        let (n, yes) = (begun as f64, established as f64);
        let share = if begun == 0 { 0.0 } else { yes / n };
        let attempts = v1::CoMoments { count: begun, mean: vec![share], m2: vec![yes * (1.0 - share)] };
        let deviations = if established > 1 { yes } else { 0.0 };
        let sd = srtt_us / 4.0;
        let (mean, m2) = if established == 0 {
            (vec![0.0; 3], vec![0.0; 6])
        } else {
            (vec![srtt_us, 1.0, RTT_LN], vec![sd * sd * deviations, 0.0, 0.0, 0.0, 0.0, 0.25 * deviations])
        };
        let established = v1::CoMoments { count: established, mean, m2 };
        v1::Measured { attempts: Some(attempts), established: Some(established), unfinished: 0, groups: vec![] }
    }

    fn group(self, group: u32) -> v1::MeasuredGroup {
        let (attempts, established) = (self.begun, self.established);
        let yes = established as f64;
        v1::MeasuredGroup {
            group,
            attempts,
            established,
            attempt_sums: vec![yes],
            established_sums: vec![yes * self.srtt_us, yes, yes * RTT_LN],
        }
    }
}

/// The sums of groups, with the groups.
pub fn grouped(groups: &[(u32, Made)]) -> v1::Measured {
    let sum = |of: fn(&Made) -> u64| groups.iter().map(|(_, made)| of(made)).sum::<u64>();
    let (begun, established) = (sum(|made| made.begun), sum(|made| made.established));
    let times: f64 = groups.iter().map(|(_, made)| made.established as f64 * made.srtt_us).sum();
    let whole = Made { begun, established, srtt_us: times / (established.max(1)) as f64 };
    let groups = groups.iter().map(|(group, made)| made.group(*group)).collect();
    v1::Measured { groups, ..whole.measured() }
}

pub fn measure(quantity: &str, role: MeasureRole) -> v1::Measure {
    v1::Measure { quantity: quantity.to_owned(), role: role.into(), ..v1::Measure::default() }
}

pub fn arm(name: &str, weight_bp: u32, first_bucket: u32, syn_rto_ms: Option<u32>) -> v1::Arm {
    let set = Some(v1::Parameters { syn_rto_ms, ..v1::Parameters::default() });
    v1::Arm { name: name.to_owned(), weight_bp, first_bucket: Some(first_bucket), set, withholds: false }
}

/// Two arms of half the connections; `connected` guards, `srtt_us` is to become better.
pub fn design(unit: Unit) -> v1::ExperimentLayer {
    v1::ExperimentLayer {
        unit: unit.into(),
        salt: SALT.to_owned(),
        arms: vec![arm("control", 5_000, 0, None), arm("treatment", 5_000, 5_000, Some(200))],
        measures: vec![measure("connected", MeasureRole::Guardrail), measure("srtt_us", MeasureRole::Success)],
        horizon_s: 60,
        time_slot: (unit == Unit::TimeSlot).then_some(v1::TimeSlot { slot_s: 600, washout_s: 60 }),
        ..v1::ExperimentLayer::default()
    }
}

/// After a day of ten.
pub fn evidence(design: v1::ExperimentLayer, measured: Vec<Option<v1::Measured>>) -> v1::Evidence {
    let names = design.arms.iter().map(|arm| arm.name.clone());
    let arms = names.zip(measured).map(|(arm, measured)| v1::ArmEvidence { arm, measured }).collect();
    let second = |seconds: i64| Some(Timestamp { seconds: 1_700_000_000 + seconds, nanos: 0 });
    v1::Evidence {
        experiment: "experiments/e".to_owned(),
        revision: 1,
        design: Some(design),
        arms,
        from_time: second(0),
        to_time: second(DAY_S),
        planned_end: second(10 * DAY_S),
        least_share_p: vec![],
        earlier: vec![],
        clocks_off: 0,
    }
}

/// The planned end has come.
pub fn over(mut evidence: v1::Evidence) -> v1::Evidence {
    evidence.planned_end = evidence.to_time;
    evidence
}

/// By connections.
pub fn flows(control: Made, treatment: Made) -> v1::Evidence {
    evidence(design(Unit::Flow), vec![Some(control.measured()), Some(treatment.measured())])
}

/// By a unit with clusters: so many in each arm, of a hundred connections each, which differ a little from each other.
pub fn clusters(unit: Unit, clusters: u32, control: Made, treatment: Made) -> v1::Evidence {
    let varied = |made: Made, at: u32| Made { srtt_us: made.srtt_us * (0.95 + 0.01 * f64::from(at * 7 % 11)), ..made };
    let salt = salt(SALT);
    let (mut ours, mut theirs) = (vec![], vec![]);
    for at in 0..clusters {
        match unit {
            // Each node, of a slot each, is in one arm.
            Unit::Node | Unit::TimeSlot => {
                ours.push((2 * at, varied(control, at)));
                theirs.push((2 * at + 1, varied(treatment, at + 3)));
            }
            // Each has both.
            Unit::SaturationPair => {
                for group in [2 * at, 2 * at + 1] {
                    let (few, many) = if is_saturated(salt, group) { (5, 95) } else { (95, 5) };
                    let part = |made: Made, share: u64| Made {
                        begun: made.begun * share / 100,
                        established: made.established * share / 100,
                        ..made
                    };
                    ours.push((group, part(varied(control, group), few)));
                    theirs.push((group, part(varied(treatment, group + 3), many)));
                }
            }
            _ => {
                ours.push((at, varied(control, at)));
                theirs.push((at, varied(treatment, at + 3)));
            }
        }
    }
    evidence(design(unit), vec![Some(grouped(&ours)), Some(grouped(&theirs))])
}

pub fn results(evidence: &v1::Evidence) -> v1::ExperimentResults {
    judge(evidence).unwrap_or_else(|error| panic!("{error}: {evidence:?}"))
}

pub fn verdict(evidence: &v1::Evidence) -> v1::Verdict {
    let verdict = results(evidence).verdict.expect("a verdict");
    assert_readable(&verdict);
    verdict
}

pub fn kind(evidence: &v1::Evidence) -> VerdictKind {
    verdict(evidence).kind()
}

/// What a service owner is told: one paragraph of sentences, without numbers that are none.
pub fn assert_readable(verdict: &v1::Verdict) {
    let reason = &verdict.reason;
    assert!(reason.ends_with('.') && reason.starts_with(char::is_alphanumeric), "{reason}");
    assert!(reason.len() < 1_500 && !reason.contains('\n') && !reason.contains("  "), "{reason}");
    for wrong in ["NaN", "inf%", "inf ", "-inf", "{", "Some(", "_UNSPECIFIED"] {
        assert!(!reason.contains(wrong), "{wrong} in: {reason}");
    }
    assert_eq!(verdict.arm.is_empty(), verdict.kind() != VerdictKind::Ship, "only what is shipped is named");
    assert!(verdict.needed_s == 0 || verdict.kind() == VerdictKind::KeepRunning, "{verdict:?}");
}
