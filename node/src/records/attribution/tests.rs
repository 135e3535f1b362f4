use sockpilot_proto::v1;

use super::*;
use crate::testing::choice;

fn names(attributions: &Attributions, install: u64) -> Vec<String> {
    let choices = attributions.of(install).map(|install| install.to_vec()).unwrap_or_default();
    choices
        .iter()
        .map(|Meaning { choice, .. }| format!("{}@{} {}", choice.layer, choice.revision, choice.name))
        .collect()
}

#[test]
fn older_installs_keep_their_meaning_over_restarts() {
    let home = tempfile::tempdir().expect("a directory");
    let open = || Attributions::open(home.path().join("attributions"), "tables", &[]).expect("usable");
    let mut attributions = open();
    attributions.put(1, &[choice("near", 1).into(), choice("far", 1).into()]).expect("written");
    attributions.put(2, &[choice("far", 2).into()]).expect("written");
    for attributions in [attributions, open()] {
        assert_eq!(names(&attributions, 1), ["policies/web@1 near", "policies/web@1 far"]);
        assert_eq!(names(&attributions, 2), ["policies/web@2 far"]);
        assert!(attributions.of(3).is_none());
    }
}

#[test]
fn what_belongs_to_other_tables_or_is_damaged_goes() {
    let home = tempfile::tempdir().expect("a directory");
    let open = |tables| Attributions::open(home.path().to_owned(), tables, &[]).expect("usable");
    open("old").put(1, &[choice("far", 1).into()]).expect("written");
    fs::write(home.path().join("7"), b"\xff").expect("written");
    fs::write(home.path().join("9.new"), b"").expect("written");
    assert!(open("new").of(1).is_none());
    assert_eq!(fs::read_dir(home.path()).expect("readable").count(), 0);
    assert!(open("old").of(1).is_none());
}

#[test]
fn only_the_newest_are_kept() {
    let home = tempfile::tempdir().expect("a directory");
    let mut attributions = Attributions::open(home.path().to_owned(), "tables", &[]).expect("usable");
    let many: Vec<_> = (0..CHOICES_MAX / 4).map(|n| choice(&format!("c{n}"), 1).into()).collect();
    (1..=6).for_each(|install| attributions.put(install, &many).expect("written"));
    assert!(attributions.of(2).is_none());
    assert_eq!(attributions.of(6).map(|install| install.len()), Some(many.len()));
    assert_eq!(fs::read_dir(home.path()).expect("readable").count(), 4);
    // The newest is kept whatever its size.
    let more: Vec<_> = (0..=CHOICES_MAX).map(|n| choice(&format!("c{n}"), 1).into()).collect();
    attributions.put(7, &more).expect("written");
    assert!(attributions.of(6).is_none() && attributions.of(7).is_some());
}

#[test]
fn what_could_not_be_written_is_written_later() {
    let home = tempfile::tempdir().expect("a directory");
    let directory = home.path().join("attributions");
    let mut attributions = Attributions::open(directory.clone(), "tables", &[]).expect("usable");
    attributions.put(1, &[choice("far", 1).into()]).expect("written");
    // A directory where the file beside it would be is as good as a full disk.
    fs::create_dir(directory.join("2.new")).expect("made");
    attributions.put(2, &[choice("far", 2).into()]).expect_err("cannot be written");
    attributions.put(3, &[choice("far", 3).into()]).expect_err("two is still owed");
    attributions.settle().expect_err("still not");
    assert_eq!(names(&attributions, 2), ["policies/web@2 far"], "known all the same");
    fs::remove_dir(directory.join("2.new")).expect("there");
    attributions.settle().expect("written");
    // All of it comes back when the directory is gone, or another one is in its place.
    let known = |directory: &Path| {
        let attributions = Attributions::open(directory.to_owned(), "tables", &[]).expect("usable");
        (1..=3).filter(|install| attributions.of(*install).is_some()).count()
    };
    assert_eq!(known(&directory), 3);
    fs::remove_dir_all(&directory).expect("there");
    attributions.settle().expect("written");
    assert_eq!(known(&directory), 3);
    fs::rename(&directory, home.path().join("elsewhere")).expect("moved");
    fs::create_dir(&directory).expect("made");
    attributions.settle().expect("written");
    assert_eq!(known(&directory), 3);
}

#[test]
fn installs_are_bounded() {
    let home = tempfile::tempdir().expect("a directory");
    let mut attributions = Attributions::open(home.path().to_owned(), "tables", &[]).expect("usable");
    let installs = INSTALLS_MAX as u64 + 10;
    (1..=installs).for_each(|install| attributions.put(install, &[choice("far", install).into()]).expect("written"));
    assert!(attributions.of(10).is_none() && attributions.of(11).is_some());
    assert_eq!(fs::read_dir(home.path()).expect("readable").count(), INSTALLS_MAX);
}

#[test]
fn what_is_measured_as_a_group_of_a_rollout_is_so_after_a_restart() {
    let home = tempfile::tempdir().expect("a directory");
    let open = || Attributions::open(home.path().join("attributions"), "tables", &[]).expect("usable");
    let measures = vec![v1::Measure { quantity: "bad_end".into(), ..v1::Measure::default() }];
    let rollout = v1::LayerRollout { measures, horizon_s: 9, ..v1::LayerRollout::default() };
    let measuring = Arc::new(Measuring::of_rollout(&rollout).expect("it measures"));
    let group = |name: &str| Arc::new(Choice { layer: "rollouts/a".into(), revision: 8, name: name.into() });
    let of = |name: &str, measured_only, measured: Option<&str>| Meaning {
        choice: choice(name, 7),
        measured_only,
        measured: measured.map(|name| (group(name), Arc::clone(&measuring))),
    };
    let meanings = [of("far", false, None), of("far", false, Some("control")), of("near", true, Some("rest"))];
    let experiment =
        Meaning { measured: Some((choice("fast", 1), Arc::clone(&measuring))), ..choice("fast", 1).into() };
    open().put(1, &[&meanings[..], &[experiment]].concat()).expect("written");
    let found = open();
    let found = found.of(1).expect("known").iter().map(|meaning| {
        let Meaning { choice, measured_only, measured } = meaning;
        let measured =
            measured.as_ref().map(|(as_, by)| (as_.layer.clone(), as_.revision, as_.name.clone(), by.horizon_ns()));
        (choice.name.clone(), *measured_only, measured)
    });
    let measured =
        |layer: &str, revision, name: &str| Some((layer.to_owned(), revision, name.to_owned(), 9_000_000_000));
    let expected = [
        ("far".to_owned(), false, None),
        ("far".to_owned(), false, measured("rollouts/a", 8, "control")),
        ("near".to_owned(), true, measured("rollouts/a", 8, "rest")),
        ("fast".to_owned(), false, measured("policies/web", 1, "fast")),
    ];
    assert_eq!(found.collect::<Vec<_>>(), expected);
}
