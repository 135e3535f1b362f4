//! Builds the kernel program from `../ebpf` and leaves its object in `OUT_DIR`, where `kernel::object` embeds it.
//!
//! The program needs the sources of `core`, which not every toolchain has. Taken is, in this order: the one that
//! `SOCKPILOT_BPF_TOOLCHAIN` names, `nightly` if it has them, `bpf` (which the set-up makes of the system's packages).

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const TARGET: &str = "bpfel-unknown-none";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed=SOCKPILOT_BPF_TOOLCHAIN");
    for path in ["../ebpf/src", "../ebpf/Cargo.toml", "../ebpf/Cargo.lock", "../policy/src", "../policy/Cargo.toml"] {
        println!("cargo:rerun-if-changed={path}");
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let toolchain = toolchain()?;
    let architecture = env::var("CARGO_CFG_TARGET_ARCH")?;
    let flags = [
        "-Clinker=bpf-linker".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        format!("--cfg=bpf_target_arch=\"{architecture}\""),
    ];
    let mut cargo = Command::new("rustup");
    cargo
        .args(["run", &toolchain, "cargo", "build", "--release", "--locked", "-Zbuild-std=core", "--target", TARGET])
        .args(["--manifest-path", "../ebpf/Cargo.toml"])
        .env("CARGO_TARGET_DIR", out.join("ebpf"))
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        // `-Z` on a release toolchain.
        .env("RUSTC_BOOTSTRAP", "1");
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
            format!("the kernel program does not build with toolchain {toolchain} (run `make setup`):\n{log}").into()
        );
    }
    let object = out.join("ebpf").join(TARGET).join("release/sockpilot-ebpf");
    fs::copy(object, out.join("sockpilot.bpf.o"))?;
    Ok(())
}

fn toolchain() -> Result<String, Box<dyn Error>> {
    if let Ok(name) = env::var("SOCKPILOT_BPF_TOOLCHAIN") {
        return Ok(name);
    }
    for name in ["nightly", "bpf"] {
        let output = Command::new("rustup").args(["run", name, "rustc", "--print", "sysroot"]).output();
        if let Ok(output) = output
            && output.status.success()
            && Path::new(String::from_utf8(output.stdout)?.trim()).join("lib/rustlib/src/rust/library/core").exists()
        {
            return Ok(name.to_owned());
        }
    }
    Err("no Rust toolchain has the sources of `core`, which the kernel program needs: run `make setup`".into())
}
