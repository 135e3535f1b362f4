use proptest::prelude::*;

use super::*;

fn of(rows: &[Vec<f64>], dimension: usize) -> CoMoments {
    let mut moments = CoMoments::new(dimension);
    rows.iter().for_each(|row| moments.add(row).unwrap());
    moments
}

fn merged(parts: &[CoMoments], dimension: usize) -> CoMoments {
    let mut all = CoMoments::new(dimension);
    parts.iter().for_each(|part| all.merge(part).unwrap());
    all
}

fn assert_close(a: &CoMoments, b: &CoMoments, spread: f64) {
    assert_eq!(a.count, b.count);
    a.mean.iter().zip(&b.mean).for_each(|(a, b)| assert!((a - b).abs() <= 1e-9 * spread, "{a} {b}"));
    let scale = 1e-9 * spread * spread * a.count.max(1) as f64;
    a.m2.iter().zip(&b.m2).for_each(|(a, b)| assert!((a - b).abs() <= scale, "{a} {b}"));
}

fn rows(dimension: usize) -> impl Strategy<Value = Vec<Vec<f64>>> {
    prop::collection::vec(prop::collection::vec(-1e6..1e6_f64, dimension), 0..12)
}

/// What a hostile node may send.
fn hostile() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(f64::MAX),
        Just(f64::MIN_POSITIVE),
        Just(5e-324),
        Just(0.0),
        -2e18..2e18_f64,
        -10.0..10.0_f64,
        Just(1e18)
    ]
}

fn hostile_moments() -> impl Strategy<Value = CoMoments> {
    (0..5_usize).prop_flat_map(|d| {
        let count = prop_oneof![Just(0), Just(1), Just(2), 0..100_u64, Just(u64::MAX), any::<u64>()];
        (count, prop::collection::vec(hostile(), d), prop::collection::vec(hostile(), d * (d + 1) / 2))
            .prop_map(|(count, mean, m2)| CoMoments { count, mean, m2 })
    })
}

proptest! {
    #[test]
    fn merging_in_any_order_and_grouping_agrees(
        parts in prop::collection::vec(rows(3), 1..7), shift in 0..7_usize, split in 0..7_usize,
    ) {
        let whole = of(&parts.concat(), 3);
        let mut parts: Vec<_> = parts.iter().map(|part| of(part, 3)).collect();
        let middle = shift % parts.len();
        parts.rotate_left(middle);
        let (left, right) = parts.split_at(split % parts.len());
        let grouped = merged(&[merged(left, 3), merged(right, 3)], 3);
        assert_close(&whole, &merged(&parts, 3), 1e6);
        assert_close(&whole, &grouped, 1e6);
        prop_assert_eq!(grouped.clone().checked(), Ok(grouped));
    }

    #[test]
    fn what_was_added_is_sound_also_far_from_zero_and_collinear(rows in rows(2), far in -1e12..1e12_f64) {
        let rows: Vec<_> = rows.iter().map(|row| vec![row[0], row[1] + far, 2.0 * row[0] - row[1] - far, 7.5]).collect();
        let moments = of(&rows, 4);
        prop_assert_eq!(moments.clone().checked(), Ok(moments.clone()));
        let doubled = merged(&[moments.clone(), moments], 4);
        prop_assert_eq!(doubled.clone().checked(), Ok(doubled));
    }

    #[test]
    fn what_is_hostile_is_refused_or_harmless(a in hostile_moments(), b in hostile_moments()) {
        let (Ok(a), b) = (a.checked(), b.checked()) else { return Ok(()) };
        let mut total = a.clone();
        for _ in 0..50 {
            if let Ok(b) = &b {
                // A refused merge leaves the total as it was.
                let _ = total.merge(b);
            }
            total.merge(&a).unwrap();
            total.merge(&total.clone()).unwrap();
        }
        prop_assert!(total.mean.iter().chain(&total.m2).all(|value| value.is_finite()), "{:?}", total);
        for i in 0..6 {
            let known = i < total.dimension();
            prop_assert!(total.variance(i).is_none_or(|variance| known && variance >= 0.0));
            prop_assert_eq!(total.sum(i).is_some(), known);
        }
    }

    #[test]
    fn what_is_added_is_finite_or_refused(rows in prop::collection::vec(prop::collection::vec(hostile(), 0..4), 0..20)) {
        let mut moments = CoMoments::new(2);
        for row in &rows {
            let before = moments.clone();
            if moments.add(row).is_err() {
                prop_assert_eq!(&moments, &before);
            }
        }
        prop_assert!(moments.clone().checked().is_ok(), "{:?}", moments);
    }
}

#[test]
fn knows_variances_and_covariances() {
    let moments = of(&[vec![1.0, 10.0], vec![2.0, 14.0], vec![3.0, 12.0]], 2);
    assert_eq!((moments.mean(0), moments.sum(1)), (Some(2.0), Some(36.0)));
    assert_eq!((moments.variance(0), moments.variance(1)), (Some(1.0), Some(4.0)));
    assert_eq!((moments.covariance(0, 1), moments.covariance(1, 0)), (Some(1.0), Some(1.0)));
    assert_eq!((moments.mean(2), moments.covariance(0, 2), moments.covariance(2, 0)), (None, None, None));
    assert_eq!(of(&[vec![1.0, 2.0]], 2).variance(0), None);
}

#[test]
fn keeps_the_digits_that_a_sum_of_squares_loses() {
    let moments = of(&[vec![1e9 + 4.0], vec![1e9 + 7.0], vec![1e9 + 13.0], vec![1e9 + 16.0]], 1);
    assert_eq!(moments.variance(0), Some(30.0));
}

#[test]
fn refuses_what_no_vectors_can_have() {
    let refused = |count, mean: &[f64], m2: &[f64]| {
        CoMoments { count, mean: mean.to_vec(), m2: m2.to_vec() }.checked().expect_err("it is hostile")
    };
    assert_eq!(refused(5, &[1.0, 1.0], &[1.0, 1.5, 1.0]), CoMomentsError::Contradiction);
    assert_eq!(refused(5, &[1.0], &[-1.0]), CoMomentsError::Contradiction);
    // Each pair is possible, all three together are not.
    assert_eq!(refused(9, &[0.0; 3], &[1.0, 0.9, 1.0, 0.9, -0.9, 1.0]), CoMomentsError::Contradiction);
    assert_eq!(refused(5, &[0.0, 1.0], &[0.0, 0.5, 1.0]), CoMomentsError::Contradiction);
    assert_eq!(refused(5, &[f64::NAN], &[1.0]), CoMomentsError::NotFinite);
    assert_eq!(refused(5, &[1e19], &[1.0]), CoMomentsError::Magnitude);
    assert_eq!(refused(5, &[1.0], &[1e60]), CoMomentsError::Magnitude);
    assert_eq!(refused(0, &[1.0], &[0.0]), CoMomentsError::NotEmpty);
    assert_eq!(refused(1, &[1.0], &[1.0]), CoMomentsError::NotEmpty);
    assert_eq!(refused(2, &[1.0], &[1.0, 1.0]), CoMomentsError::Shape { measures: 1, products: 2 });
    assert_eq!(refused(2, &[0.0; 17], &[0.0; 153]), CoMomentsError::Shape { measures: 17, products: 153 });
    let mut two = of(&[vec![1.0, 2.0]], 2);
    assert_eq!(two.merge(&CoMoments::new(3)), Err(CoMomentsError::Dimension { ours: 2, theirs: 3 }));
    assert_eq!(two, of(&[vec![1.0, 2.0]], 2));
}
