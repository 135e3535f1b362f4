//! A wall clock of a program's own, that can jump.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use sockpilot_programs::CC;

use crate::machine::{self, Machine};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/c/clock.c");

/// Programs that are started with its environment go by it.
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    path: PathBuf,
    file: File,
}

impl Clock {
    /// As the machine's, until it is set.
    ///
    /// # Errors
    /// If what is preloaded cannot be built.
    pub fn new(machine: &Machine) -> Result<Self> {
        let folder = machine.folder("clock")?;
        machine::set_mode(&folder, 0o755)?;
        let (library, path) = (folder.join("clock.so"), folder.join("ahead_s"));
        let mut compile = CC.command()?;
        compile.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(Path::new(SOURCE));
        let output = compile.output().context("running cc")?;
        if !output.status.success() {
            bail!("{SOURCE} cannot be built: {}", String::from_utf8_lossy(&output.stderr));
        }
        let file = File::create(&path).with_context(|| format!("making {path:?}"))?;
        let clock = Self { library, path, file };
        clock.set_s(0)?;
        Ok(clock)
    }

    /// Makes it so many seconds ahead of the machine's.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn set_s(&self, ahead_s: i64) -> Result<()> {
        self.file.write_all_at(&ahead_s.to_ne_bytes(), 0).context("setting a clock")
    }

    /// For the programs.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        vec![("LD_PRELOAD".to_owned(), text(&self.library)), ("SOCKPILOT_TEST_CLOCK".to_owned(), text(&self.path))]
    }
}
