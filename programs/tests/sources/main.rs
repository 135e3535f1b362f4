//! Every program that is run anywhere in this repository is on the list, and what is on the list is run somewhere.
//!
//! Rust code has no way past the list: a `Command` is made in `programs/src/lib.rs` alone, of a row's constant or a binary of this
//! workspace (clippy's `disallowed-methods` say the same by type). Scripts and makefiles are read as a shell reads them.

mod shell;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

const LIST: &str = include_str!("../../list.txt");
/// What starts a process, or imports what does under another name.
const STARTS: [&str; 16] = [
    "Command::new",
    "Command as",
    "<Command>::",
    "= Command;",
    "= process::Command",
    "= std::process::Command",
    "= tokio::process::Command",
    "execv",
    "execl",
    "fexecve",
    "posix_spawn",
    "libc::system",
    "popen",
    "CommandExt::exec",
    "process::*",
    "syscall::Exec",
];

/// Name, variable, package, when and why.
fn rows() -> Vec<[&'static str; 5]> {
    let lines = LIST.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut rest = line;
            let mut word = || {
                let (word, more) =
                    rest.trim_start().split_once(' ').unwrap_or_else(|| panic!("an incomplete row: {line}"));
                rest = more;
                word
            };
            let words = [word(), word(), word(), word()];
            [words[0], words[1], words[2], words[3], rest.trim()]
        })
        .collect()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository").to_owned()
}

/// Every file of the repository that is text, by its path, but not what was built.
fn sources() -> BTreeMap<String, String> {
    let (root, mut waiting, mut found) = (repository(), vec![repository()], BTreeMap::new());
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
            let (path, name) = (entry.path(), entry.file_name());
            let kind = entry.file_type().expect("a kind");
            if kind.is_dir() && name != "target" && name != ".git" {
                waiting.push(path);
            } else if kind.is_file()
                && let Ok(text) = fs::read_to_string(&path)
            {
                found.insert(path.strip_prefix(&root).expect("inside").display().to_string(), text);
            }
        }
    }
    found
}

/// The places in Rust code that start a process by themselves.
fn starts(code: &str) -> Vec<String> {
    let lines = code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
    let spaceless = |line: &str| line.replace(" ::", "::").replace(":: ", "::");
    let starting = lines.filter(|(_, line)| STARTS.iter().any(|start| spaceless(line).contains(start)));
    starting.map(|(number, line)| format!("{}: {}", number + 1, line.trim())).collect()
}

#[test]
fn rust_code_starts_programs_through_the_list_only() {
    let exempt = ["programs/src/lib.rs", "programs/tests/sources/main.rs"];
    let code = sources().into_iter().filter(|(path, _)| path.ends_with(".rs") && !exempt.contains(&path.as_str()));
    let found: Vec<_> =
        code.flat_map(|(path, code)| starts(&code).into_iter().map(move |start| format!("{path}:{start}"))).collect();
    assert!(
        found.is_empty(),
        "add the program to programs/list.txt, and run it by its constant:\n{}",
        found.join("\n")
    );
}

#[test]
fn what_starts_a_program_past_the_list_is_found() {
    for code in [
        r#"std::process::Command::new("tc").status()"#,
        r#"tokio::process::Command :: new("tc")"#,
        "use std::process::Command as Program;",
        "use std::process::*;",
        "nix::unistd::execvp(&program, &arguments)",
        "libc::system(line.as_ptr())",
        r#"<Command>::new("tc")"#,
        "type Program = std::process::Command;",
    ] {
        assert_eq!(starts(code).len(), 1, "{code}");
    }
    assert!(starts("let mut ip = IP.command()?; // not Command::neww\n// Command::new(\"tc\")").len() <= 1);
}

/// The programs of all scripts and makefiles, with where each is run.
fn scripted() -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for (path, text) in sources() {
        let script = script(path.rsplit('/').next().unwrap_or_default(), &text);
        for program in script.iter().flat_map(|script| shell::programs(script)) {
            found.entry(program).or_default().insert(path.clone());
        }
    }
    found
}

/// What a shell runs of a file, if it is a makefile or says in its first line what runs it, which is a program too.
fn script(name: &str, text: &str) -> Option<String> {
    if matches!(name, "Makefile" | "GNUmakefile" | "makefile") || name.ends_with(".mk") {
        return Some(recipes(text));
    }
    let Some((first, rest)) = text.strip_prefix("#!").and_then(|text| text.split_once('\n')) else {
        return name.ends_with(".sh").then(|| text.to_owned());
    };
    // `env bash` of `/usr/bin/env bash`.
    let runner: Vec<_> = first.split_whitespace().map(|word| word.rsplit('/').next().unwrap_or(word)).collect();
    let is_shell = runner.iter().any(|word| word.ends_with("sh"));
    Some(format!("{}\n{}", runner.join(" "), if is_shell { rest } else { "" }))
}

/// The recipes of a makefile as one script, its variables expanded, those that are not its own as the shell's.
fn recipes(makefile: &str) -> String {
    let joined = makefile.replace("\\\n", " ");
    let mut variables = BTreeMap::new();
    let mut script = String::new();
    for line in joined.lines() {
        if let Some(recipe) = line.strip_prefix('\t') {
            let recipe = expand(recipe, &variables);
            script.push_str(recipe.trim_start_matches(['@', '-', '+', ' ']));
            script.push('\n');
        } else if let Some((name, value)) = line.split_once('=') {
            let name = name.trim_end_matches([':', '?', '+', ' ']).trim();
            variables.insert(name.to_owned(), value.trim().to_owned());
        }
        for called in line.split("$(shell ").skip(1) {
            script.push_str(called);
            script.push('\n');
        }
    }
    script
}

fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut text = text.to_owned();
    for _ in 0..10 {
        for (name, value) in variables {
            text = text.replace(&format!("$({name})"), value);
            while let Some(at) = text.find(&format!("$(call {name},")) {
                let arguments = at + "$(call ,".len() + name.len();
                let end = arguments + text[arguments..].find(')').unwrap_or(0);
                text = format!("{}{}{}", &text[..at], value.replace("$(1)", &text[arguments..end]), &text[end + 1..]);
            }
        }
    }
    text.replace("$(MAKE)", "make").replace("$(CURDIR)", ".").replace("$$", "$")
}

/// Whether what stands where a command begins is on the list: by its name, or by its variable.
fn is_listed(program: &str, rows: &[[&str; 5]], scripts: &BTreeMap<String, String>) -> bool {
    let bare = program.trim_matches('"').trim_start_matches(['$', '{']).trim_end_matches('}');
    let bare = bare.split([':', '-']).next().unwrap_or_default();
    let by_variable = program.contains('$') && rows.iter().any(|[_, variable, ..]| *variable == bare);
    // Our own, by their paths.
    let own = scripts.contains_key(program.trim_start_matches("./")) || program.starts_with("target/");
    by_variable || own || rows.iter().any(|[name, ..]| *name == program)
}

#[test]
fn scripts_run_what_is_on_the_list_only() {
    let (rows, scripts) = (rows(), sources());
    let unlisted = scripted().into_iter().filter(|(program, _)| !is_listed(program, &rows, &scripts));
    let unlisted: Vec<_> = unlisted.map(|(program, paths)| format!("{program} ({paths:?})")).collect();
    assert!(unlisted.is_empty(), "not in programs/list.txt: {}", unlisted.join(", "));
}

#[test]
fn a_program_is_found_wherever_a_shell_would_run_it() {
    let found = |script: &str| shell::programs(script).into_iter().collect::<Vec<_>>().join(" ");
    for script in [
        "tc",
        "cd x && tc",
        "a=1 tc -s",
        "if ! tc; then :; fi",
        "x=$(tc show)",
        "echo \"at $(tc | tc)\"",
        "echo `tc`",
        "(tc)",
        "{ tc; }",
        "tc >x 2>&1",
        "true | tc",
        "for i in a b; do tc $i; done",
        "case $x in a | b) tc ;; *) tc ;; esac",
        "trap 'tc del' EXIT",
        "bash -ec 'tc'",
        "env -i A=b tc",
        "as_root tc",
        "chroot \"$root\" tc",
        "cat=1; command tc",
        "read x < <(tc)",
        "tc <<END\nip\nEND",
        "echo ${x:-$(tc)}",
        "f() { tc; }; f",
        "echo \\\n  a; tc # ip",
        "a=(b c); tc",
        "exec unshare --mount tc",
        "find x -exec tc {} +",
    ] {
        let found = found(script);
        assert!(found.split(' ').any(|program| program == "tc"), "{script}: {found}");
        assert!(!found.contains("ip"), "{script}: {found}");
    }
    for script in [
        "echo tc",
        "# tc",
        "x=tc",
        "echo 'a; tc'",
        "type -P tc",
        "command -v tc",
        "cd x >tc",
        "case $x in tc) ;; esac",
        "tc() { :; }; tc",
    ] {
        assert_eq!(found(script), "", "{script}");
    }
    assert_eq!(found("\"$CLANG\" x"), "$CLANG");
    let makefile = "run = cd x && $(1)\nCARGO ?= cargo\nall: x\n\t@$(call run,tc)\n\t-$(CARGO) y; echo $$(nft)\n";
    let programs = |name: &str, text: &str| shell::programs(&script(name, text).unwrap_or_default());
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(programs("Makefile", makefile), names(&["cargo", "nft", "tc"]));
    for (first, runners) in
        [("/bin/sh", &["sh"][..]), ("/bin/bash -e", &["bash"]), ("/usr/bin/env bash", &["bash", "env"])]
    {
        let both = names(&[runners, &["tc"]].concat());
        assert_eq!(programs("run", &format!("#!{first}\ntc show\n")), both, "{first}");
    }
    assert_eq!(programs("run", "#!/usr/bin/python3\nimport tc\n"), names(&["python3"]));
    assert_eq!(programs("notes", "tc\n"), names(&[]));
}

#[test]
fn rows_are_whole_and_different_and_used() {
    let kinds = [
        "before",
        "never",
        "base",
        "build",
        "run",
        "test",
        "bench",
        "linker",
        "pip",
        "statistics",
        "clients",
        "toolchain",
        "fresh",
    ];
    let mut seen = BTreeSet::new();
    let scripted = scripted();
    let code: String = sources().into_iter().filter(|(path, _)| path.ends_with(".rs")).map(|(_, text)| text).collect();
    for [name, variable, package, when, why] in rows() {
        assert!(seen.insert(name), "{name} is there twice");
        assert!(kinds.contains(&when) && !why.is_empty() && !package.is_empty(), "{name}");
        let letters = |text: &str| text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
        assert!(variable == "-" || letters(variable.trim_end_matches('/')), "{name}: {variable}");
        let replaceable = when == "base" || name.contains('/') || variable != "-";
        assert!(replaceable, "{name} cannot be replaced by a variable");
        let constant = name.to_uppercase().replace('-', "_");
        let by_script = scripted.keys().any(|program| {
            program == name
                || program.contains(&format!("${{{variable}"))
                || program.trim_matches('"') == format!("${variable}")
        });
        // Libraries and compilers are used by what builds others.
        let used = name.contains('/') || ["build", "linker"].contains(&when) || by_script || code.contains(&constant);
        assert!(used, "nothing runs {name}");
    }
}
