//! The daemon with another layout of the kernel's tables (feature `layout-next`), under a name of its own, so that tests can hand over
//! from one to the other.

#[path = "../src/main.rs"]
mod daemon;

fn main() -> std::process::ExitCode {
    daemon::main()
}
