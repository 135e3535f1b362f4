//! Thousands of random questions, answered by this crate and by gbstats, scipy and statsmodels (agreement.py): both must agree
//! to nine digits. set-up installs what Python needs; without it this fails.

#[path = "../vectors/methods.rs"]
mod methods;

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::Stdio,
    thread,
};

use serde_json::{Value, json};
use sockpilot_programs as programs;

/// The relative difference that is allowed.
const RELATIVE: f64 = 1e-9;

/// How many questions of each method.
const EACH: usize = 200;

/// A small generator (SplitMix64), so that the questions are the same every time.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to 1, never 0.
    fn share(&mut self) -> f64 {
        ((self.bits() >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.share()
    }

    fn count(&mut self, low: u64, high: u64) -> u64 {
        low + self.bits() % (high - low + 1)
    }

    /// Of any size between two, each decade as likely.
    fn scale(&mut self, low: f64, high: f64) -> f64 {
        self.between(low.ln(), high.ln()).exp()
    }

    /// Skewed and positive, as times and sizes are.
    fn skewed(&mut self, scale: f64) -> f64 {
        scale * (-self.share().ln()).powf(1.5)
    }

    fn list(&mut self, low: u64, high: u64, mut of: impl FnMut(&mut Self) -> f64) -> Vec<f64> {
        (0..self.count(low, high)).map(|_| of(self)).collect()
    }
}

/// An arm of correlated measures: value, denominator, covariate, and whether a thing happened.
fn arm(random: &mut Random, scale: f64, happens: f64) -> Value {
    let rows: Vec<_> = (0..random.count(5, 120))
        .map(|at| {
            let common = random.skewed(scale);
            // The first two differ, for an arm that does not vary has no answer.
            let happened = if at < 2 { at == 0 } else { random.share() < happens };
            [common + random.skewed(scale), scale + random.skewed(scale), common, f64::from(happened)]
        })
        .collect();
    json!({ "values": rows })
}

fn contrast(random: &mut Random) -> Value {
    let (scale, happens) = (random.scale(1e-3, 1e6), random.between(0.3, 0.7));
    let more = random.between(0.7, 1.4);
    let sides = ["two", "lower", "upper"][random.count(0, 2) as usize];
    let mut input = json!({
        "control": arm(random, scale, happens), "treatment": arm(random, scale * more, happens),
        "alpha": random.between(0.001, 0.2), "tuning": random.scale(100.0, 1e5),
        "sides": sides,
    });
    match random.count(0, 3) {
        0 => input["mean"] = json!(0),
        1 => input["proportion"] = json!(3),
        2 => input["ratio"] = json!([0, 1]),
        _ => {
            input["mean"] = json!(0);
            input["covariate"] = json!([2]);
        }
    }
    input
}

fn clusters(random: &mut Random, count: u64) -> Vec<[f64; 2]> {
    (0..count)
        .map(|_| {
            let size = random.count(1, 20) as f64;
            [size * random.skewed(10.0), size]
        })
        .collect()
}

fn shares(random: &mut Random) -> (Vec<u64>, Vec<f64>) {
    let raw = random.list(2, 4, |random| random.between(0.5, 5.0));
    let sum: f64 = raw.iter().sum();
    let shares: Vec<_> = raw.iter().map(|share| share / sum).collect();
    let n = random.scale(100.0, 3e4);
    (shares.iter().map(|share| (n * share * random.between(0.9, 1.1)) as u64).collect(), shares)
}

/// A random question of a method.
fn question(method: &str, random: &mut Random) -> Value {
    match method {
        "contrast" => contrast(random),
        "clustered_mean" => {
            let count = random.count(3, 30);
            json!({ "clusters": clusters(random, count) })
        }
        "clustered_difference" => {
            let (one, other) = (random.count(3, 20), random.count(3, 20));
            json!({ "control": clusters(random, one), "treatment": clusters(random, other) })
        }
        "paired_clusters" => {
            let count = random.count(3, 20);
            json!({ "control": clusters(random, count), "treatment": clusters(random, count) })
        }
        "paired_differences" => {
            let shift = random.between(-1.0, 1.0);
            let differences = random.list(3, 40, |random| random.between(-2.0, 2.0) + shift);
            json!({ "differences": differences, "alpha": random.between(0.001, 0.2) })
        }
        "intraclass_correlation" => {
            let of = |random: &mut Random| {
                let level = random.skewed(3.0);
                random.list(2, 12, |random| level + random.skewed(2.0))
            };
            json!({ "clusters": (0..random.count(3, 15)).map(|_| of(random)).collect::<Vec<_>>() })
        }
        "share_mismatch" => {
            let (counts, shares) = shares(random);
            json!({ "counts": counts, "shares": shares, "concentration": random.scale(10.0, 2e4) })
        }
        "holm" | "benjamini_hochberg" => json!({ "p": random.list(1, 20, Random::share) }),
        "power" => {
            let variance = random.scale(1e-3, 1e3);
            let (units, share) = (random.scale(10.0, 1e6), random.between(0.05, 0.95));
            let error = (variance / units / (share * (1.0 - share))).sqrt();
            json!({
                "control_variance": variance, "treatment_variance": variance, "units": units, "treatment_share": share,
                "effect": error * random.between(0.5, 5.0), "alpha": random.between(0.001, 0.2),
            })
        }
        "sign_permutation" => json!({ "differences": random.list(3, 11, |random| random.between(-1.0, 2.0)) }),
        "ramp" => {
            let mut point = |share: f64| {
                let (control, treatment) = (random.between(5.0, 6.0), random.between(5.0, 6.0));
                [share, control, random.scale(0.01, 1.0), treatment, random.scale(0.01, 1.0)]
            };
            json!({ "points": [point(0.01), point(0.05), point(0.2), point(0.5)] })
        }
        "tails" => {
            json!({ "x": random.between(0.0, 7.0), "p": random.scale(1e-12, 0.5), "df": random.scale(1.0, 1e9) })
        }
        other => panic!("no questions of {other} are made"),
    }
}

const ASKED: [&str; 13] = [
    "contrast",
    "clustered_mean",
    "clustered_difference",
    "paired_clusters",
    "paired_differences",
    "intraclass_correlation",
    "share_mismatch",
    "holm",
    "benjamini_hochberg",
    "power",
    "sign_permutation",
    "ramp",
    "tails",
];

/// What of an answer disagrees; returns how many numbers were compared. `scale` is the greatest number beside it: an end of an
/// interval may be near zero by chance, and has the digits of its middle. A Bayes factor's logarithm is their difference of
/// logarithms of gammas of thousands, and has so many digits after the point.
fn compare(path: &str, ours: &Value, theirs: &Value, scale: f64, wrong: &mut Vec<String>) -> usize {
    match theirs {
        Value::Object(fields) => {
            let near = ["effect", "standard_error", "lower", "upper", "total", "drift"]
                .map(|name| theirs[name].as_f64().unwrap_or_default());
            let scale = near.into_iter().fold(scale, |greatest, number| greatest.max(number.abs()));
            let of = |(name, theirs): (&String, &Value)| {
                let scale = if name == "ln_bayes_factor" { 1.0 } else { scale };
                let is_alone = matches!(name.as_str(), "p" | "df" | "standard_error" | "drift_p" | "line_p");
                compare(&format!("{path}.{name}"), &ours[name], theirs, if is_alone { 0.0 } else { scale }, wrong)
            };
            fields.iter().map(of).sum()
        }
        Value::Array(items) => {
            let of = |(at, theirs)| compare(&format!("{path}[{at}]"), &ours[at], theirs, scale, wrong);
            items.iter().enumerate().map(of).sum()
        }
        Value::Number(_) => {
            let (ours, theirs) = (ours.as_f64().unwrap_or(f64::NAN), theirs.as_f64().unwrap_or(f64::NAN));
            let difference = (ours - theirs).abs();
            if difference.is_nan() || difference > RELATIVE * theirs.abs().max(scale) {
                wrong.push(format!("{path} is {ours}, theirs {theirs}"));
            }
            1
        }
        _ => {
            if ours != theirs {
                wrong.push(format!("{path} is {ours}, theirs {theirs}"));
            }
            0
        }
    }
}

/// Has Python answer all questions, one a line.
fn theirs(questions: &[(&str, Value)]) -> Vec<Value> {
    let installed = env::var_os("SOCKPILOT_STATISTICS").filter(|place| !place.is_empty());
    let installed =
        installed.expect("gbstats, scipy and statsmodels are missing: run ./setup.sh, then source target/setup.env");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agreement/agreement.py");
    let mut command = programs::PYTHON3.command().expect("python3");
    command.arg(script).env("PYTHONPATH", installed).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = command.spawn().expect("python3");
    let lines: Vec<_> =
        questions.iter().map(|(method, input)| json!({ "method": method, "input": input }).to_string()).collect();
    let mut stdin = python.stdin.take().expect("its standard input");
    // At the same time as its answers are read, for both pipes are short.
    let writer = thread::spawn(move || lines.iter().try_for_each(|line| writeln!(stdin, "{line}")));
    let stdout = BufReader::new(python.stdout.take().expect("its standard output"));
    let answers: Vec<Value> =
        stdout.lines().map(|line| serde_json::from_str(&line.expect("a line")).expect("JSON")).collect();
    let status = python.wait().expect("python3");
    assert!(
        status.success(),
        "agreement.py ended with {status} after {} answers; what it said is above",
        answers.len()
    );
    writer.join().expect("the writer").expect("all questions are asked");
    answers
}

#[test]
fn agrees_with_gbstats_scipy_and_statsmodels() {
    let mut random = Random(9);
    let mut questions = Vec::new();
    for method in ASKED {
        // The contrast has many kinds.
        let count = if method == "contrast" { 4 * EACH } else { EACH };
        questions.extend((0..count).map(|_| (method, question(method, &mut random))));
    }
    let answers = theirs(&questions);
    assert_eq!(answers.len(), questions.len());
    let (mut wrong, mut numbers) = (Vec::new(), 0);
    for ((method, input), theirs) in questions.iter().zip(&answers) {
        let ours = methods::run(method, input).expect("a question that can be asked");
        let mut here = Vec::new();
        numbers += compare(method, &ours, theirs, 0.0, &mut here);
        if !here.is_empty() {
            let shown: String = input.to_string().chars().take(300).collect();
            wrong.push(format!("{} of {shown}", here.join("; ")));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} differ:\n{}",
        wrong.len(),
        questions.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
    assert!(numbers >= 10_000, "only {numbers} numbers were compared");
    println!("{} questions, {numbers} numbers", questions.len());
}
