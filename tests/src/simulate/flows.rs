//! Flows that are assigned one by one.

use sockpilot_stats::{
    CoMoments, Errors, Kind, Level, Sides, contrast, counts as rare,
    power::{self, Design, Variances},
    srm::{self, LeastP},
};

use super::{ALPHA, FIRST_LOOK, FLOWS, LOOK_EVERY, alarms, is_look, level, share_of};
use crate::random::Random;

/// Measures of a flow: its time, segments sent, segments sent again, and the handshake RTT.
const TIME: usize = 0;
const SEGMENTS: usize = 1;
const AGAIN: usize = 2;
const HANDSHAKE: usize = 3;

/// Skewed, heavy in the tail and capped, as frozen caps make it; the time goes with the handshake RTT.
fn flow(random: &mut Random) -> [f64; 4] {
    let path = random.normal();
    let handshake = (3.0 + 0.6 * path).exp();
    let time = (4.0 + 0.6 * path + 0.6 * random.normal()).exp().min(1_000.0);
    let segments = (2.5 + random.normal()).exp().min(3_000.0).ceil();
    let again = (segments * 0.02 * (0.8 * random.normal()).exp()).round().min(segments);
    [time, segments, again, handshake]
}

/// The shares of runs without any effect in which each kind of contrast claimed one at one of 196 looks.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Alarms {
    /// Of the mean, 10% against 90%.
    pub mean: f64,
    /// Of segments sent again over segments sent.
    pub ratio: f64,
    /// Of the mean less what the handshake RTT explains.
    pub cuped: f64,
    /// Of the mean in either of two arms against the control, likewise adjusted.
    pub three_arms: f64,
    /// Of the arms' shares.
    pub srm: f64,
    /// Of an interval that is valid at the planned end only: why it must not be looked at before.
    pub fixed_peeking: f64,
}

/// Runs without any effect.
#[must_use]
pub fn aa(runs: u64) -> Alarms {
    let mut sums = [0_u32; 6];
    for run in 0..runs {
        let seen = aa_run(&mut Random(0xaa00_0000 + run));
        sums.iter_mut().zip(seen).for_each(|(sum, seen)| *sum += u32::from(seen));
    }
    let [mean, ratio, cuped, three_arms, srm, fixed_peeking] = sums.map(|sum| f64::from(sum) / runs as f64);
    Alarms { mean, ratio, cuped, three_arms, srm, fixed_peeking }
}

/// One run, as [`Alarms`] in their order.
fn aa_run(random: &mut Random) -> [bool; 6] {
    const SHARES: [f64; 2] = [0.1, 0.9];
    let new = || CoMoments::new(4);
    let (mut two, mut three) = ([new(), new()], [new(), new(), new()]);
    let (level, divided) = (level(), level().divided(2));
    let (mut seen, mut least) = ([false; 6], LeastP::default());
    let ratio = Kind::Ratio { numerator: AGAIN, denominator: SEGMENTS };
    for flows in 1..=FLOWS {
        let values = flow(random);
        two[usize::from(!random.chance(SHARES[0]))].add(&values).expect("a flow");
        three[(random.bits() % 3) as usize].add(&values).expect("a flow");
        if !is_look(flows) {
            continue;
        }
        let of = |kind, covariate: Option<usize>| {
            contrast(&two[1], &two[0], kind, covariate.map(Into::into), Errors::Independent, &level)
        };
        let mean = of(Kind::Mean(TIME), None);
        seen[0] |= alarms(&mean, &level);
        seen[5] |= mean.is_ok_and(|mean| mean.absolute.fixed_p < ALPHA);
        seen[1] |= alarms(&of(ratio, None), &level);
        seen[2] |= alarms(&of(Kind::Mean(TIME), Some(HANDSHAKE)), &level);
        seen[3] |= three[1..].iter().any(|arm| {
            let covariate = Some(HANDSHAKE.into());
            let found = contrast(&three[0], arm, Kind::Mean(TIME), covariate, Errors::Independent, &divided);
            alarms(&found, &divided)
        });
        let counts = two.each_ref().map(|arm| arm.count);
        least = least.after(srm::mismatch(&counts, &SHARES, srm::CONCENTRATION).expect("two arms").p);
        seen[4] |= least.p() < ALPHA;
    }
    seen
}

/// False alarms of the test for rare events: one in 200 flows ends badly, ten times as many in a busy hour, in both arms alike.
#[must_use]
pub fn counts(runs: u64) -> f64 {
    share_of(runs, |run| {
        let mut random = Random(0xc000_0000 + run);
        let (mut bad, mut least) = ([0_u64; 2], LeastP::default());
        (1..=FLOWS).any(|flows| {
            let busy = (8_000..10_000).contains(&flows);
            if random.chance(if busy { 0.05 } else { 0.005 }) {
                bad[usize::from(!random.chance(0.1))] += 1;
            }
            if is_look(flows) {
                least = least.after(rare::events(&bad, &[0.1, 0.9], rare::CONCENTRATION).expect("two arms").p);
            }
            least.p() < ALPHA
        })
    })
}

/// The share of runs in which the sequence held a real effect at all looks.
#[must_use]
pub fn coverage(runs: u64) -> f64 {
    const EFFECT: f64 = 4.0;
    let level = level();
    share_of(runs, |run| {
        let mut random = Random(0xc0ff_0000 + run);
        let mut arms = [CoMoments::new(1), CoMoments::new(1)];
        (1..=FLOWS).all(|flows| {
            let treated = random.chance(0.5);
            let time = flow(&mut random)[TIME] + if treated { EFFECT } else { 0.0 };
            arms[usize::from(treated)].add(&[time]).expect("a flow");
            !is_look(flows)
                || contrast(&arms[0], &arms[1], Kind::Mean(0), None, Errors::Independent, &level)
                    .is_ok_and(|found| found.absolute.sequence.holds(EFFECT))
        })
    })
}

/// By how many points of a hundred the share of runs that find an effect at the planned end differs from the power for which the
/// calculator planned them: the greater of a fixed and of a sequential plan.
#[must_use]
pub fn power_error(runs: u64) -> f64 {
    const POWER: f64 = 0.8;
    const EFFECT: f64 = 6.0;
    // The truth that a planner would have from an A/A test.
    let mut before = CoMoments::new(4);
    let mut random = Random(0x9077);
    (0..400_000).for_each(|_| before.add(&flow(&mut random)).expect("a flow"));
    let variance = before.variance(TIME).expect("many flows");
    let error = |test| {
        let design = Design { level: level(), sides: Sides::Two, test, share: 0.3, design_effect: 1.0 };
        let units = power::sample_size(EFFECT, Variances::both(variance), POWER, &design).expect("a plan").ceil();
        let found = share_of(runs, |run| finds(&mut Random(0x9000_0000 + run), units as usize, EFFECT, &design));
        100.0 * (found - POWER).abs()
    };
    error(power::Test::Fixed).max(error(power::Test::Sequential))
}

fn finds(random: &mut Random, units: usize, effect: f64, design: &Design) -> bool {
    let mut arms = [CoMoments::new(1), CoMoments::new(1)];
    for _ in 0..units {
        let treated = random.chance(design.share);
        let time = flow(random)[TIME] + if treated { effect } else { 0.0 };
        arms[usize::from(treated)].add(&[time]).expect("a flow");
    }
    let found = contrast(&arms[0], &arms[1], Kind::Mean(0), None, Errors::Independent, &design.level);
    found.is_ok_and(|found| match design.test {
        power::Test::Fixed => found.absolute.fixed_p < design.level.alpha(),
        power::Test::Sequential => found.absolute.sequence_p < design.level.alpha(),
    })
}

/// False alarms where outcomes are delayed, and treatment does nothing but make slow flows end three times sooner: with a horizon
/// of 60 s, and (second) if flows were compared as they close.
#[must_use]
pub fn delayed(runs: u64) -> (f64, f64) {
    let share = |horizon| share_of(runs, |run| delayed_run(&mut Random(0xde1a_0000 + run), horizon));
    (share(Some(60.0)), share(None))
}

/// Whether a difference in RTT was claimed. 20 flows begin every second; a slow path makes a flow both slow and its RTT long.
fn delayed_run(random: &mut Random, horizon: Option<f64>) -> bool {
    let level: Level = level();
    let mut known: Vec<(f64, bool, f64)> = (0..FLOWS)
        .map(|at| {
            let (begin, treated, path) = (at as f64 / 20.0, random.chance(0.5), random.normal());
            let rtt = (3.0 + 0.5 * path).exp();
            let duration = (3.0 + 1.5 * path + 0.5 * random.normal()).exp();
            let duration = if treated && duration > 30.0 { duration / 3.0 } else { duration };
            // With a horizon every flow is looked at after the same time, whether it has ended or not.
            (begin + horizon.unwrap_or(duration), treated, rtt)
        })
        .collect();
    known.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
    // What is known at the end of the last second in which a flow began.
    let known = known.into_iter().take_while(|flow| flow.0 <= FLOWS as f64 / 20.0);
    let mut arms = [CoMoments::new(1), CoMoments::new(1)];
    let mut flows = 0;
    for (_, treated, rtt) in known {
        arms[usize::from(treated)].add(&[rtt]).expect("a flow");
        flows += 1;
        if flows >= FIRST_LOOK && flows % LOOK_EVERY == 0 {
            let found = contrast(&arms[0], &arms[1], Kind::Mean(0), None, Errors::Independent, &level);
            if alarms(&found, &level) {
                return true;
            }
        }
    }
    false
}
