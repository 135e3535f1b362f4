//! What a vector can ask for: by method, from JSON to JSON. The agreement test asks Python the same.

use serde_json::{Value, json};
use sockpilot_stats::{
    CoMoments, Contrast, Covariate, Errors, Estimate, Finding, Interval, Kind, Level, Moments, NoAnswer, Sides,
    cluster::{self, Cluster},
    contrast, counts, events, fixed_interval, fixed_p, multiple,
    noninferiority::{Direction, Margin, non_inferiority},
    power::{self, Design, Variances},
    quantile::{self, QuantileSample},
    ramp::{self, RampPoint},
    sequence, special, srm, switchback,
};

/// What came of it, or why it could not be asked.
pub type Answer = Result<Value, String>;

type Method = fn(&Value) -> Answer;

/// All methods; README.md says what each takes.
pub const METHODS: [(&str, Method); 19] = [
    ("contrast", contrast_of),
    ("clustered_mean", clustered_mean),
    ("clustered_difference", clustered_difference),
    ("paired_clusters", paired_clusters),
    ("paired_differences", paired_differences),
    ("intraclass_correlation", intraclass_correlation),
    ("share_mismatch", share_mismatch),
    ("coin", coin),
    ("sequence_bound", sequence_bound),
    ("msprt", msprt),
    ("holm", |input| Ok(json!(multiple::holm(&numbers(input, "p")?)))),
    ("benjamini_hochberg", |input| Ok(json!(multiple::benjamini_hochberg(&numbers(input, "p")?)))),
    ("power", power_of),
    ("more_needed", more_needed),
    ("quantile_variance", quantile_variance),
    ("sign_permutation", sign_permutation),
    ("ramp", ramp_of),
    ("tails", tails),
    ("guardrail_of_events", guardrail_of_events),
];

/// Asks by name.
pub fn run(method: &str, input: &Value) -> Answer {
    let Some((_, run)) = METHODS.iter().find(|(name, _)| *name == method) else {
        let names: Vec<_> = METHODS.iter().map(|(name, _)| *name).collect();
        return Err(format!("there is no method {method:?}; there are {}", names.join(", ")));
    };
    run(input)
}

fn number_of(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some("inf") => Some(f64::INFINITY),
        Some("-inf") => Some(f64::NEG_INFINITY),
        _ => value.as_f64(),
    }
}

fn number(input: &Value, name: &str) -> Result<f64, String> {
    input.get(name).and_then(number_of).ok_or_else(|| format!("input.{name} is no number"))
}

fn number_or(input: &Value, name: &str, default: f64) -> Result<f64, String> {
    if input.get(name).is_some() { number(input, name) } else { Ok(default) }
}

fn all_numbers(value: &Value) -> Option<Vec<f64>> {
    value.as_array()?.iter().map(number_of).collect()
}

fn numbers(input: &Value, name: &str) -> Result<Vec<f64>, String> {
    input.get(name).and_then(all_numbers).ok_or_else(|| format!("input.{name} is no list of numbers"))
}

fn rows(input: &Value, name: &str) -> Result<Vec<Vec<f64>>, String> {
    let rows = input.get(name).and_then(Value::as_array).map(|rows| rows.iter().map(all_numbers).collect());
    rows.flatten().ok_or_else(|| format!("input.{name} is no list of lists of numbers"))
}

fn clusters(input: &Value, name: &str) -> Result<Vec<Cluster>, String> {
    let pair = |row: Vec<f64>| match row[..] {
        [sum, weight] => Ok(Cluster { sum, weight }),
        _ => Err(format!("input.{name}: a cluster is [sum, weight]")),
    };
    rows(input, name)?.into_iter().map(pair).collect()
}

fn integer(input: &Value, name: &str) -> Result<u64, String> {
    input.get(name).and_then(Value::as_u64).ok_or_else(|| format!("input.{name} is no count"))
}

fn integers(input: &Value, name: &str) -> Result<Vec<u64>, String> {
    let list = input.get(name).and_then(Value::as_array).map(|list| list.iter().map(Value::as_u64).collect());
    list.flatten().ok_or_else(|| format!("input.{name} is no list of counts"))
}

fn places(input: &Value, name: &str) -> Result<Vec<usize>, String> {
    Ok(integers(input, name)?.into_iter().map(|place| usize::try_from(place).unwrap_or(usize::MAX)).collect())
}

fn level(input: &Value) -> Result<Level, String> {
    let (alpha, tuning) = (number_or(input, "alpha", 0.05)?, number_or(input, "tuning", Level::TUNING)?);
    // Other engines look at anything.
    Level::new(alpha, tuning).map(|level| level.looking_from(0)).map_err(|error| error.to_string())
}

fn sides(input: &Value) -> Result<Sides, String> {
    match input.get("sides").and_then(Value::as_str) {
        None | Some("two") => Ok(Sides::Two),
        Some("lower") => Ok(Sides::Lower),
        Some("upper") => Ok(Sides::Upper),
        Some(other) => Err(format!("input.sides is {other:?}, not two, lower or upper")),
    }
}

/// An answer, or the reason for none, which a vector may expect.
fn answered(result: Result<Value, NoAnswer>) -> Answer {
    Ok(result.unwrap_or_else(|error| {
        let name = format!("{error:?}");
        json!({ "no_answer": name.split(' ').next().unwrap_or_default() })
    }))
}

/// JSON has no infinity.
fn bare(value: f64) -> Value {
    if value.is_finite() { json!(value) } else { json!(value.to_string()) }
}

fn interval(interval: Interval, p: f64) -> Value {
    json!({ "lower": bare(interval.lower), "upper": bare(interval.upper), "p": p })
}

fn estimate(estimate: &Estimate) -> Value {
    json!({ "effect": estimate.effect, "standard_error": estimate.standard_error(), "df": estimate.df })
}

/// An estimate with its intervals.
fn found(estimate_: &Estimate, level: &Level, sides: Sides) -> Result<Value, NoAnswer> {
    let mut found = estimate(estimate_);
    found["fixed"] = interval(fixed_interval(estimate_, level.alpha(), sides)?, fixed_p(estimate_, sides)?);
    let sequence_p = sequence::p_value(estimate_, level, sides)?;
    found["sequence"] = interval(sequence::interval(estimate_, level, sides)?, sequence_p);
    // gbstats looks for a one-sided p below one half only.
    found["sequence"]["p_clamped"] = json!(sequence_p.min(0.4999));
    Ok(found)
}

fn arm(input: &Value, name: &str) -> Result<CoMoments, String> {
    let arm = input.get(name).ok_or_else(|| format!("input.{name} is missing"))?;
    if arm.get("values").is_some() {
        let rows = rows(arm, "values")?;
        let mut moments = CoMoments::new(rows.first().map_or(0, Vec::len));
        rows.iter().try_for_each(|row| moments.add(row)).map_err(|error| format!("input.{name}: {error}"))?;
        return Ok(moments);
    }
    Ok(CoMoments::from_sums(integer(arm, "n")?, &numbers(arm, "sums")?, &numbers(arm, "products")?))
}

fn kind(input: &Value) -> Result<Kind, String> {
    let of = |name| input.get(name).and_then(Value::as_u64).and_then(|place| usize::try_from(place).ok());
    if let Some(place) = of("mean") {
        return Ok(Kind::Mean(place));
    }
    if let Some(place) = of("proportion") {
        return Ok(Kind::Proportion(place));
    }
    match places(input, "ratio")?[..] {
        [numerator, denominator] => Ok(Kind::Ratio { numerator, denominator }),
        _ => Err("input.ratio is [numerator, denominator]".to_owned()),
    }
}

fn covariate(input: &Value) -> Result<Option<Covariate>, String> {
    if input.get("covariate").is_none() {
        return Ok(None);
    }
    match places(input, "covariate")?[..] {
        [numerator] => Ok(Some(numerator.into())),
        [numerator, denominator] => Ok(Some(Covariate { numerator, denominator: Some(denominator) })),
        _ => Err("input.covariate is [measure] or [numerator, denominator]".to_owned()),
    }
}

fn contrast_of(input: &Value) -> Answer {
    let (control, treatment) = (arm(input, "control")?, arm(input, "treatment")?);
    let (level, sides) = (level(input)?, sides(input)?);
    let events = input.get("events").and_then(Value::as_bool).unwrap_or_default();
    let contrast = if events { events::contrast } else { contrast };
    let answer = contrast(&control, &treatment, kind(input)?, covariate(input)?, Errors::Independent, &level);
    answered(answer.and_then(|Contrast { control, treatment, theta, absolute, relative }| {
        let relative = match relative {
            Ok(Finding { estimate, .. }) => found(&estimate, &level, sides)?,
            Err(_) => Value::Null,
        };
        let absolute = found(&absolute.estimate, &level, sides)?;
        Ok(json!({ "control": control, "treatment": treatment, "theta": theta, "absolute": absolute, "relative": relative }))
    }))
}

/// A proportion of events, by a margin that is a share of the control's or, if that is more, one in the measure's unit.
fn guardrail_of_events(input: &Value) -> Answer {
    let (control, treatment, level) = (arm(input, "control")?, arm(input, "treatment")?, level(input)?);
    let margin = Margin::Within { share: number(input, "share")?, or: number(input, "or")? };
    let found = events::contrast(&control, &treatment, Kind::Proportion(0), None, Errors::Independent, &level);
    answered(found.and_then(|found| non_inferiority(&found, Direction::Lower, margin, &level)).map(|found| {
        json!({
            "standing": format!("{:?}", found.standing), "harm_at_most": found.harm_at_most,
            "harm_at_least": found.harm_at_least, "margin": found.margin,
        })
    }))
}

fn clustered_mean(input: &Value) -> Answer {
    answered(cluster::mean(&clusters(input, "clusters")?).map(|mean| estimate(&mean)))
}

fn two_estimates((absolute, relative): (Estimate, Result<Estimate, NoAnswer>)) -> Value {
    json!({ "absolute": estimate(&absolute), "relative": relative.ok().map(|relative| estimate(&relative)) })
}

fn clustered_difference(input: &Value) -> Answer {
    answered(cluster::difference(&clusters(input, "control")?, &clusters(input, "treatment")?).map(two_estimates))
}

fn paired_clusters(input: &Value) -> Answer {
    let pairs = clusters(input, "control")?.into_iter().zip(clusters(input, "treatment")?);
    answered(cluster::paired(&pairs.collect::<Vec<_>>()).map(two_estimates))
}

fn paired_differences(input: &Value) -> Answer {
    let (level, sides) = (level(input)?, sides(input)?);
    let answer = cluster::paired_differences(&numbers(input, "differences")?);
    answered(answer.and_then(|estimate| found(&estimate, &level, sides)))
}

fn intraclass_correlation(input: &Value) -> Answer {
    let of = |values: Vec<f64>| {
        let mut moments = Moments::default();
        values.into_iter().for_each(|value| moments.add(value));
        moments
    };
    let clusters: Vec<_> = rows(input, "clusters")?.into_iter().map(of).collect();
    answered(cluster::intraclass_correlation(&clusters).map(|icc| json!(icc)))
}

fn share_mismatch(input: &Value) -> Answer {
    let (counts, shares) = (integers(input, "counts")?, numbers(input, "shares")?);
    let found = if input.get("prior").is_some() {
        srm::mismatch_under(&counts, &shares, &numbers(input, "prior")?)
    } else {
        srm::mismatch(&counts, &shares, number_or(input, "concentration", srm::CONCENTRATION)?)
    };
    answered(found.map(|found| {
        json!({
            "ln_bayes_factor": found.ln_bayes_factor, "p": found.p, "chi_squared": found.chi_squared,
            "chi_squared_p": found.chi_squared_p, "deviation": found.deviation,
        })
    }))
}

fn coin(input: &Value) -> Answer {
    let (control, treatment) = (integer(input, "control")?, integer(input, "treatment")?);
    answered(counts::coin(control, treatment, number(input, "exposure")?).map(|p| json!({ "p": p })))
}

fn sequence_bound(input: &Value) -> Answer {
    let (level, sides, sample) = (level(input)?, sides(input)?, integer(input, "sample")?);
    let rho = if sides == Sides::Two { sequence::rho(&level) } else { sequence::rho_one_sided(&level) };
    let error = (number_or(input, "unit_variance", 1.0)? / sample as f64).sqrt();
    Ok(json!({ "rho": rho, "half_width": error * sequence::bound(sample, &level, sides) }))
}

/// The mixture test with a normal prior of the given variance is a sequence with rho^2 N = that variance / V.
fn msprt(input: &Value) -> Answer {
    let (alpha, variance) = (number_or(input, "alpha", 0.05)?, number(input, "variance")?);
    let spent = number(input, "mixing_variance")? / variance;
    let (sample, double_log) = (1_000_000_u64, -2.0 * alpha.ln());
    let tuning = (double_log + double_log.ln_1p()) * sample as f64 / spent;
    let level = Level::new(alpha, tuning).map_err(|error| error.to_string())?;
    let estimate = Estimate {
        effect: number(input, "effect")?,
        variance,
        n_control: sample / 2,
        n_treatment: sample / 2,
        df: 1e6,
        clusters: None,
    };
    answered(found(&estimate, &level, Sides::Two).map(|found| {
        let half_width = found["sequence"]["upper"].as_f64().unwrap_or(f64::NAN) - estimate.effect;
        json!({ "p": found["sequence"]["p"], "half_width": half_width })
    }))
}

fn design(input: &Value) -> Result<Design, String> {
    let sequential = input.get("sequential").and_then(Value::as_bool).unwrap_or_default();
    Ok(Design {
        level: level(input)?,
        sides: sides(input)?,
        test: if sequential { power::Test::Sequential } else { power::Test::Fixed },
        share: number_or(input, "treatment_share", 0.5)?,
        design_effect: number_or(input, "design_effect", 1.0)?,
    })
}

/// Of `units`, `effect` and `power` two are given, and what is not is found.
fn power_of(input: &Value) -> Answer {
    let design = design(input)?;
    let variances =
        Variances { control: number(input, "control_variance")?, treatment: number(input, "treatment_variance")? };
    let of = |name| input.get(name).and_then(number_of);
    answered(match (of("units"), of("effect"), of("power")) {
        (Some(units), Some(effect), None) => {
            power::power(effect, variances, units, &design).map(|power| json!({ "power": power }))
        }
        (None, Some(effect), Some(power)) => {
            power::sample_size(effect, variances, power, &design).map(|units| json!({ "units": units }))
        }
        (Some(units), None, Some(power)) => {
            power::detectable(units, variances, power, &design).map(|effect| json!({ "effect": effect }))
        }
        _ => return Err("give two of input.units, input.effect and input.power".to_owned()),
    })
}

fn more_needed(input: &Value) -> Answer {
    let level = level(input)?;
    let answer =
        contrast(&arm(input, "control")?, &arm(input, "treatment")?, kind(input)?, None, Errors::Independent, &level);
    let (effect, power, design) = (number(input, "effect")?, number(input, "power")?, design(input)?);
    answered(answer.and_then(|contrast| {
        let more = power::more_needed(&contrast.relative?.estimate, effect, power, &design)?;
        Ok(json!({ "times": more }))
    }))
}

fn quantile_variance(input: &Value) -> Answer {
    let sample = QuantileSample {
        count: integer(input, "n")?,
        level: number(input, "quantile")?,
        lower: number(input, "lower")?,
        upper: number(input, "upper")?,
    };
    let independent = quantile::variance(&sample);
    if input.get("clusters").is_none() {
        return answered(independent.map(|variance| json!({ "independent": variance })));
    }
    let clusters = arm(input, "clusters")?;
    answered(independent.and_then(|independent| {
        Ok(json!({ "independent": independent, "clustered": quantile::clustered_variance_of(&sample, &clusters)? }))
    }))
}

fn sign_permutation(input: &Value) -> Answer {
    let differences = numbers(input, "differences")?;
    let (p, worlds, exact) = switchback::permutation_p(&differences, 0, &mut || 0);
    Ok(json!({ "p": p, "worlds": worlds, "exact": exact }))
}

fn ramp_of(input: &Value) -> Answer {
    let point = |row: Vec<f64>| match row[..] {
        [share, control, control_variance, treatment, treatment_variance] => {
            let of =
                |effect, variance| Estimate { effect, variance, n_control: 2, n_treatment: 0, df: 1.0, clusters: None };
            Ok(RampPoint {
                share,
                control: of(control, control_variance),
                treatment: of(treatment, treatment_variance),
            })
        }
        _ => Err("input.points: a point is [share, control, its variance, treatment, its variance]".to_owned()),
    };
    let points = rows(input, "points")?.into_iter().map(point).collect::<Result<Vec<_>, _>>()?;
    let level = level(input)?;
    answered(ramp::ramp(&points, &level).map(|ramp| {
        json!({
            "drift": ramp.drift.estimate.effect, "drift_error": ramp.drift.estimate.standard_error(), "drift_p": ramp.drift.fixed_p, "line_p": ramp.line_p,
            "total": ramp.total, "total_error": ramp.total_error,
        })
    }))
}

fn tails(input: &Value) -> Answer {
    let (x, p, df) = (number(input, "x")?, number(input, "p")?, number(input, "df")?);
    Ok(json!({
        "normal_sf": special::normal_sf(x), "normal_upper": special::normal_upper(p), "t_sf": special::t_sf(x, df),
        "t_upper": special::t_upper(p, df), "chi_squared_sf": special::chi_squared_sf(x, df),
    }))
}
