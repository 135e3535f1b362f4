//! Builds the kernel program from `../ebpf` and leaves its object in `OUT_DIR`, where `kernel::object` embeds it.
//!
//! The program needs the sources of `core`, which not every toolchain has. Taken is, in this order: the one that
//! `SOCKPILOT_BPF_TOOLCHAIN` names, `nightly` if it has them, `bpf` (which the set-up makes of the system's packages). `BPF_LINKER`
//! names another linker.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use sockpilot_programs::{BPF_LINKER, RUSTUP};

const TARGET: &str = "bpfel-unknown-none";
const TOOLCHAIN: &str = "SOCKPILOT_BPF_TOOLCHAIN";

fn main() -> Result<(), Box<dyn Error>> {
    let variables = [BPF_LINKER, RUSTUP].into_iter().filter_map(|program| program.variable());
    for variable in variables.chain([TOOLCHAIN]) {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    for path in ["../ebpf/src", "../ebpf/Cargo.toml", "../ebpf/Cargo.lock", "../policy/src", "../policy/Cargo.toml"] {
        println!("cargo:rerun-if-changed={path}");
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let toolchain = toolchain()?;
    let architecture = env::var("CARGO_CFG_TARGET_ARCH")?;
    let flags = [
        format!("-Clinker={}", BPF_LINKER.find()?.display()),
        "-Clink-arg=--btf".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        format!("--cfg=bpf_target_arch=\"{architecture}\""),
    ];
    let mut cargo = RUSTUP.command()?;
    cargo
        .args(["run", &toolchain, "cargo", "build", "--release", "--locked", "-Zbuild-std=core", "--target", TARGET])
        .args(["--manifest-path", "../ebpf/Cargo.toml"])
        .env("CARGO_TARGET_DIR", out.join("ebpf"))
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        // `-Z` on a release toolchain.
        .env("RUSTC_BOOTSTRAP", "1");
    if env::var_os("CARGO_FEATURE_LAYOUT_NEXT").is_some() {
        cargo.args(["--features", "layout-next"]);
    }
    // What the outer cargo sets for its own toolchain.
    for name in
        ["RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTDOC", "RUSTFLAGS", "RUSTUP_TOOLCHAIN", "CARGO"]
    {
        cargo.env_remove(name);
    }
    let output = cargo.output().map_err(|error| format!("cannot run rustup to build the kernel program: {error}"))?;
    if !output.status.success() {
        let log = String::from_utf8_lossy(&output.stderr);
        return Err(
            format!(
                "the kernel program does not build with toolchain {toolchain}; run `make setup`, or name another toolchain in \
                 {TOOLCHAIN}, or a linker that reads what this one writes in BPF_LINKER:\n{log}"
            )
            .into()
        );
    }
    let object = out.join("ebpf").join(TARGET).join("release/sockpilot-ebpf");
    fs::copy(object, out.join("sockpilot.bpf.o"))?;
    Ok(())
}

fn toolchain() -> Result<String, Box<dyn Error>> {
    if let Some(name) = env::var(TOOLCHAIN).ok().filter(|name| !name.is_empty()) {
        return Ok(name);
    }
    for name in ["nightly", "bpf"] {
        // Not to be downloaded: another one may be there.
        let mut rustup = RUSTUP.command()?;
        let output = rustup.env("RUSTUP_AUTO_INSTALL", "0").args(["run", name, "rustc", "--print", "sysroot"]).output();
        if let Ok(output) = output
            && output.status.success()
            && Path::new(String::from_utf8(output.stdout)?.trim()).join("lib/rustlib/src/rust/library/core").exists()
        {
            return Ok(name.to_owned());
        }
    }
    Err(format!(
        "no Rust toolchain has the sources of `core`, which the kernel program needs: run `make setup`, or name one in {TOOLCHAIN}"
    )
    .into())
}
