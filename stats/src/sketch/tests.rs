use proptest::prelude::*;
use sketches_ddsketch::{Config, DDSketch};

use super::*;

fn of(values: &[f64]) -> Sketch {
    let mut sketch = Sketch::default();
    values.iter().for_each(|value| sketch.add(*value));
    sketch
}

fn merged(parts: &[&Sketch]) -> Sketch {
    let mut all = Sketch::default();
    parts.iter().for_each(|part| all.merge(part));
    all
}

/// Microseconds, packets, bytes: over many orders of magnitude, zeros among them.
fn quantities() -> impl Strategy<Value = Vec<f64>> {
    let quantity = prop_oneof![1 => Just(0.0), 4 => (0.0..12.0f64).prop_map(|power| 10f64.powf(power).round())];
    prop::collection::vec(quantity, 0..200)
}

proptest! {
    #[test]
    fn quantiles_are_within_the_promised_error(mut values in quantities(), q in 0.0..=1.0f64) {
        let sketch = of(&values);
        values.sort_by(f64::total_cmp);
        match sketch.quantile(q) {
            None => prop_assert!(values.is_empty()),
            Some(estimate) => {
                let exact = values[(q * (values.len() - 1) as f64) as usize];
                let bound = exact * (RELATIVE_ERROR + 1e-12);
                prop_assert!((estimate - exact).abs() <= bound, "{estimate} for {exact}");
            }
        }
    }

    #[test]
    fn agrees_with_another_implementation(values in quantities(), q in 0.001..0.999f64) {
        let mut oracle = DDSketch::new(Config::new(RELATIVE_ERROR, 4_096, 1e-9));
        values.iter().for_each(|value| oracle.add(*value));
        match (of(&values).quantile(q), oracle.quantile(q).expect("q is a share")) {
            (Some(ours), Some(theirs)) => prop_assert!((ours - theirs).abs() <= 1e-9 * theirs, "{ours} {theirs}"),
            (ours, theirs) => prop_assert_eq!(ours, theirs),
        }
    }

    #[test]
    fn merging_equals_one_pass_in_any_order(a in quantities(), b in quantities(), c in quantities()) {
        let whole = of(&[a.clone(), b.clone(), c.clone()].concat());
        let (a, b, c) = (of(&a), of(&b), of(&c));
        prop_assert_eq!(&merged(&[&a, &b, &c]), &whole);
        prop_assert_eq!(&merged(&[&c, &merged(&[&b, &a])]), &whole);
    }

    #[test]
    fn bytes_come_back(values in quantities()) {
        let sketch = of(&values);
        let bytes = sketch.to_bytes();
        prop_assert!(bytes.len() <= SKETCH_BYTES_MAX);
        prop_assert_eq!(Sketch::from_bytes(&bytes), Ok(sketch));
    }

    #[test]
    fn hostile_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        check_hostile(&bytes);
        check_hostile(&[&[FORM], bytes.as_slice()].concat());
    }

    #[test]
    fn damaged_bytes_do_no_harm(values in quantities(), at: prop::sample::Index, byte: u8) {
        let mut bytes = of(&values).to_bytes();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        check_hostile(&bytes);
    }
}

/// Whatever is taken has one byte form, and can be used.
fn check_hostile(bytes: &[u8]) {
    if let Ok(sketch) = Sketch::from_bytes(bytes) {
        assert_eq!(Sketch::from_bytes(&sketch.to_bytes()).as_ref(), Ok(&sketch));
        let doubled = merged(&[&sketch, &sketch]);
        assert!([0.0, 0.5, 1.0].iter().all(|q| doubled.quantile(*q).is_some() == (sketch.count() > 0)));
    }
}

#[test]
fn extremes_have_a_place() {
    let sketch = of(&[f64::NAN, -1.0, f64::NEG_INFINITY, 0.0, f64::MIN_POSITIVE, f64::INFINITY, f64::MAX]);
    assert_eq!((sketch.count(), sketch.zeros), (7, 5));
    assert_eq!(sketch.bins, [(KEY_MAX.abs_diff(KEY_MIN) as u16, 2)]);
    assert_eq!(Sketch::from_bytes(&sketch.to_bytes()), Ok(sketch));
}

#[test]
fn says_what_is_wrong_with_bytes() {
    let refused = |bytes: &[u8]| Sketch::from_bytes(bytes).expect_err("must be refused");
    assert_eq!(refused(&[9]), SketchError::Form(9));
    assert_eq!(refused(&[FORM, 1]), SketchError::Truncated);
    assert_eq!(refused(&[FORM, 1, 0, 0]), SketchError::Trailing);
    assert_eq!(refused(&[FORM, 0, 0]), SketchError::Counts);
    assert_eq!(refused(&[FORM, 0, 1, 5, 0]), SketchError::Counts);
    assert_eq!(refused(&[FORM, 0, 0xff, 0xff, 0x7f]), SketchError::Bins);
    assert_eq!(refused(&[FORM, 0, 1, 0xff, 0x7f, 1]), SketchError::Bins);
    let too_long = [&[FORM][..], &[0xff; 10]].concat();
    assert_eq!(refused(&too_long), SketchError::Varint);
}
