use std::{collections::HashMap, path::Path};

use super::*;

/// A directory with an executable of this name in it.
fn with_program(name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    (folder, path)
}

fn find(program: Program, variables: &[(&str, &Path)]) -> Result<PathBuf, Missing> {
    let variables: HashMap<_, _> = variables.iter().copied().collect();
    program.find_in(|name| variables.get(name).map(|path| path.to_path_buf()))
}

/// On the list, but nowhere.
const NOWHERE: Program =
    Program { name: "sockpilot-nowhere", variable: "SOCKPILOT_NOWHERE", package: "nowhere", why: "shows what is said" };

#[test]
fn a_variable_names_another_by_name_and_by_path() {
    let (folder, path) = with_program("clang-19");
    assert_eq!(find(CLANG, &[("CLANG", &path)]), Ok(path.clone()));
    assert_eq!(find(CLANG, &[("PATH", folder.path()), ("CLANG", Path::new("clang-19"))]), Ok(path));
    let said = find(CLANG, &[("CLANG", Path::new("clang-1"))]).unwrap_err().to_string();
    assert!(said.starts_with("CLANG is \"clang-1\", which is no program here; it names clang ("), "{said}");
    let said = find(CLANG, &[("CLANG", folder.path())]).unwrap_err().to_string();
    assert!(said.contains("is no program here"), "a directory: {said}");
}

#[test]
fn path_comes_first_and_is_not_all() {
    let (folder, path) = with_program("sleep");
    assert_eq!(find(SLEEP, &[("PATH", folder.path())]), Ok(path));
    // As for a user or cron, whose PATH has little in it.
    assert!(find(SLEEP, &[]).is_ok());
    let cargo = tempfile::tempdir().unwrap();
    fs::create_dir(cargo.path().join(".cargo")).unwrap();
    let bin = cargo.path().join(".cargo/bin");
    fs::create_dir(&bin).unwrap();
    let linker = bin.join("sockpilot-nowhere");
    fs::copy(find(SLEEP, &[]).unwrap(), &linker).unwrap();
    assert_eq!(find(NOWHERE, &[("HOME", cargo.path())]), Ok(linker));
}

#[test]
fn what_is_missing_is_said_in_one_sentence() {
    assert_eq!(
        find(NOWHERE, &[]).unwrap_err().to_string(),
        "sockpilot-nowhere is missing (shows what is said); install the Debian package nowhere (make setup does), or name another \
         in SOCKPILOT_NOWHERE"
    );
    let linker = BPF_LINKER.nowhere().to_string();
    assert!(linker.contains("make setup, which builds bpf-linker@") && linker.contains("BPF_LINKER"), "{linker}");
    assert!(RUSTUP.nowhere().to_string().contains("install it from https://rustup.rs"));
}

#[test]
#[should_panic(expected = "has to be on programs/list.txt")]
fn own_programs_are_those_of_this_workspace() {
    drop(own(Path::new("/usr/bin/tc")));
}
