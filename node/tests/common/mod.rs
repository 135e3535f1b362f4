//! What the kernel tests share.

use std::{fs, path::PathBuf};

use sockpilot_node::kernel::{self, Kernel, Options};
use sockpilot_policy::facts::KernelFacts;

/// A cgroup and pins of its own, removed at the end.
pub struct World {
    /// For the kernel side.
    pub options: Options,
}

impl World {
    /// Nothing if this machine or user cannot run it.
    pub fn new(name: &str) -> Option<Self> {
        // SAFETY: no arguments.
        if unsafe { libc::geteuid() } != 0 {
            println!("skipped: needs root");
            return None;
        }
        let Ok(root) = kernel::cgroup_root() else {
            println!("skipped: needs cgroup v2");
            return None;
        };
        let name = format!("sockpilot-test-{}-{name}", std::process::id());
        let options =
            Options { cgroup: root.join(&name), pin_dir: PathBuf::from("/sys/fs/bpf/sockpilot-test").join(name) };
        fs::create_dir(&options.cgroup).unwrap();
        Some(Self { options })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = Kernel::detach(&self.options);
        let _ = fs::remove_dir(&self.options.cgroup);
        let _ = fs::remove_dir("/sys/fs/bpf/sockpilot-test");
    }
}

/// Of a node with the congestion controls that every test machine has.
pub fn facts() -> KernelFacts {
    let congestion_controls = ["cubic", "reno", "bbr"].map(str::to_owned).to_vec();
    KernelFacts { release: String::new(), hz: 250, congestion_controls, wmem_max: 1 << 22, rmem_max: 1 << 22 }
}
