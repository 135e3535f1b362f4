use proptest::prelude::*;

use super::*;

fn design(test: Test, share: f64) -> Design {
    Design { level: Level::new(0.05, Level::TUNING).unwrap(), sides: Sides::Two, test, share, design_effect: 1.0 }
}

proptest! {
    #[test]
    fn size_power_and_effect_are_one_relation(
        effect in 0.001..10.0_f64, variance in 0.01..100.0_f64, wanted in 0.5..0.99_f64, share in 0.02..0.98_f64, sequential: bool,
    ) {
        let design = design(if sequential { Test::Sequential } else { Test::Fixed }, share);
        let variances = Variances::both(variance);
        let units = sample_size(effect, variances, wanted, &design).unwrap();
        let fewest = if sequential { 300.0 / share.min(1.0 - share) } else { 2.0 };
        prop_assert!(units >= fewest || !sequential);
        if units <= fewest * 1.001 {
            return Ok(());
        }
        // The closed form leaves the wrong side's tail out.
        let near = 1e-4;
        prop_assert!((power(effect, variances, units, &design).unwrap() - wanted).abs() <= near);
        prop_assert!((detectable(units, variances, wanted, &design).unwrap() / effect - 1.0).abs() <= near);
    }
}

#[test]
fn an_uneven_split_and_clusters_cost_units() {
    let needed = |share, design_effect| {
        let design = Design { design_effect, ..design(Test::Fixed, share) };
        sample_size(0.02, Variances::both(1.0), 0.8, &design).unwrap()
    };
    assert!((needed(0.1, 1.0) / needed(0.5, 1.0) - 2.777_777_8).abs() < 1e-6);
    assert!((needed(0.5, 5.0) / needed(0.5, 1.0) - 5.0).abs() < 1e-9);
    let sequential = sample_size(0.02, Variances::both(1.0), 0.8, &design(Test::Sequential, 0.5)).unwrap();
    assert!(sequential > needed(0.5, 1.0) * 1.2, "{sequential}");
    assert_eq!(duration(86_400.0, 0.5), Ok(172_800.0));
    assert!(duration(10.0, 0.0).is_err());
}

#[test]
fn a_relative_effect_needs_a_control_that_is_not_zero() {
    let design = design(Test::Fixed, 0.5);
    let of = |units, mean| detectable_relative(units, mean, Variances::both(1.0), 0.8, &design);
    let found = of(10_000.0, 10.0).unwrap();
    let absolute = detectable(10_000.0, Variances::both(1.0), 0.8, &design).unwrap() / 10.0;
    assert!(found > absolute && found < absolute * 1.01, "{found} {absolute}");
    assert_eq!(of(100.0, 0.0), Err(NoAnswer::ZeroControl));
    // k = 2.8: the mean must be more than 2.8 of its standard errors.
    assert_eq!(of(100.0, 0.1), Err(NoAnswer::TooFew { found: 100, needed: 1_570 }));
    assert!(of(1_600.0, 0.1).is_ok());
}

#[test]
fn what_is_no_plan_is_refused() {
    let variances = Variances::both(1.0);
    let fixed = design(Test::Fixed, 0.5);
    assert_eq!(sample_size(1.0, variances, 1.0, &fixed), Err(NoAnswer::Level));
    assert_eq!(sample_size(0.0, variances, 0.8, &fixed), Err(NoAnswer::NotFinite));
    assert_eq!(sample_size(0.0, variances, 0.8, &design(Test::Sequential, 0.5)), Err(NoAnswer::NotFinite));
    assert_eq!(sample_size(1.0, Variances::both(0.0), 0.8, &fixed), Err(NoAnswer::NoVariance));
    assert_eq!(sample_size(1.0, variances, 0.8, &design(Test::Fixed, 1.0)), Err(NoAnswer::Shares));
    assert_eq!(Variances::of_proportion(0.7, 0.1).treatment, 0.8 * (1.0 - 0.7 - 0.1));
}
