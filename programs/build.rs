//! Makes a constant of every row of `list.txt` that Rust code may use, so that a program which is not listed does not compile.

use std::{env, error::Error, fmt::Write, fs, path::Path};

/// What scripts alone use has no constant; least of all what runs other programs.
const FOR_RUST: [&str; 5] = ["before", "build", "run", "test", "bench"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=list.txt");
    let mut constants = String::new();
    for line in fs::read_to_string("list.txt")?.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<_> = line.split_whitespace().collect();
        let [name, variable, package, when, why @ ..] = &words[..] else {
            return Err(format!("list.txt: write program, variable, package, when and why: {line}").into());
        };
        if !FOR_RUST.contains(when) {
            continue;
        }
        let (constant, why) = (constant(name), why.join(" "));
        writeln!(constants, "/// `{name}`: {why}.")?;
        writeln!(constants, "pub const {constant}: Program = Program {{")?;
        writeln!(constants, "    name: {name:?}, variable: {variable:?}, package: {package:?}, why: {why:?},\n}};")?;
    }
    fs::write(Path::new(&env::var("OUT_DIR")?).join("constants.rs"), constants)?;
    Ok(())
}

/// `BPF_LINKER` for `bpf-linker`, `STDIO_H` for `include/stdio.h`.
fn constant(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}
