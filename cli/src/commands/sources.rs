//! The documents of files and directories: everything that is wrong with them at once.

use crate::document::{self, Document, Source};
use crate::failure::Failure;
use crate::format::count;
use crate::walk::Problem;
use crate::yaml;
use std::io::Read;
use std::path::{Path, PathBuf};

/// How the names of files end that are read in a directory.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// Reads all documents; first those that others refer to.
pub fn read_all(paths: &[PathBuf], recursive: bool) -> Result<Vec<Source>, Failure> {
    let mut sources: Vec<Source> = Vec::new();
    let mut faults = Vec::new();
    for path in files(paths, recursive)? {
        let (file, text) = read_text(&path)?;
        match yaml::parse(&text) {
            Ok(documents) => {
                for root in &documents {
                    match document::read(&file, root) {
                        Ok(source) => sources.push(source),
                        Err(problems) => faults.extend(problems.iter().map(|problem| problem_line(&file, problem))),
                    }
                }
            }
            Err(error) => faults.push(problem_line(&file, &Problem::from(error))),
        }
    }
    for (index, source) in sources.iter().enumerate() {
        let name = source.document.name();
        if let Some(first) = sources[..index].iter().find(|other| other.document.name() == name) {
            let first = if first.file == source.file { String::new() } else { format!("; first in {}", first.file) };
            faults.push(format!("{}: {name} is given twice{first}", source.file));
        }
    }
    if !faults.is_empty() {
        return Err(refused(&faults));
    }
    if sources.is_empty() {
        return Err(Failure::Input("there is no document in what was given".to_owned()));
    }
    sources.sort_by_key(|source| match source.document {
        Document::ZoneMap(_) => 0,
        Document::RolloutPlan(_) => 1,
        Document::RolloutSettings(_) => 2,
        Document::Policy(_) | Document::Experiment(_) => 3,
    });
    Ok(sources)
}

/// Faults of files.
pub fn refused(faults: &[String]) -> Failure {
    Failure::Input(format!("{}, nothing was sent\n  {}", count(faults.len(), "fault"), faults.join("\n  ")))
}

/// The files that are meant, in order; those of a directory by name.
fn files(paths: &[PathBuf], recursive: bool) -> Result<Vec<PathBuf>, Failure> {
    let mut all = Vec::new();
    for path in paths {
        if !path.is_dir() {
            all.push(path.clone());
            continue;
        }
        let mut listing = Listing::default();
        listing.read(path, recursive)?;
        if listing.files.is_empty() {
            let seen = if listing.passed_over.is_empty() { String::new() } else { format!(": {}", listing.seen()) };
            return Err(Failure::Input(format!("{} has no file *.yaml, *.yml or *.json{seen}", path.display())));
        }
        eprintln!("{}", listing.sentence(path));
        all.extend(listing.files);
    }
    Ok(all)
}

/// What is in a directory.
#[derive(Default)]
struct Listing {
    files: Vec<PathBuf>,
    /// Other files, and directories that are not entered.
    passed_over: Vec<String>,
}

impl Listing {
    fn read(&mut self, directory: &Path, recursive: bool) -> Result<(), Failure> {
        let failed = |error: std::io::Error| Failure::Input(format!("{} cannot be read: {error}", directory.display()));
        let entries = std::fs::read_dir(directory).map_err(failed)?;
        let mut paths: Vec<PathBuf> =
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().map_err(failed)?;
        paths.sort();
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // Editors and mounted configurations keep their own things there.
            if name.starts_with('.') {
                continue;
            }
            let known =
                path.extension().is_some_and(|end| EXTENSIONS.iter().any(|known| end.eq_ignore_ascii_case(known)));
            match (path.is_dir(), path.is_symlink()) {
                // A link may lead back to where it stands.
                (true, false) if recursive => self.read(&path, recursive)?,
                (true, _) => self.passed_over.push(format!("{name}/")),
                (false, _) if known => self.files.push(path),
                (false, _) => self.passed_over.push(name),
            }
        }
        Ok(())
    }

    fn seen(&self) -> String {
        let hint = if self.passed_over.iter().any(|name| name.ends_with('/')) { " (directories with -R)" } else { "" };
        format!("not read: {}{hint}", self.passed_over.join(", "))
    }

    fn sentence(&self, directory: &Path) -> String {
        let names: Vec<String> =
            self.files.iter().map(|file| file.strip_prefix(directory).unwrap_or(file).display().to_string()).collect();
        let rest = if self.passed_over.is_empty() { String::new() } else { format!("; {}", self.seen()) };
        format!("{}: {}{rest}", directory.display(), names.join(", "))
    }
}

/// The text of a file, and the file's name for messages.
fn read_text(path: &Path) -> Result<(String, String), Failure> {
    read_at_most(path, yaml::MAX_BYTES as u64 + 1)
}

/// The text of a file or, for `-`, of standard input, up to a length; and its name for messages.
pub fn read_at_most(path: &Path, bytes_max: u64) -> Result<(String, String), Failure> {
    let stdin = path.as_os_str() == "-";
    let file = if stdin { "standard input".to_owned() } else { path.display().to_string() };
    let mut text = String::new();
    let read = if stdin {
        std::io::stdin().lock().take(bytes_max).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|open| open.take(bytes_max).read_to_string(&mut text))
    };
    read.map_err(|error| Failure::Input(format!("{file} cannot be read: {error}")))?;
    Ok((file, text))
}

/// `web.yaml:12: rules[0].set: …`
pub fn problem_line(file: &str, problem: &Problem) -> String {
    let place = match problem.line {
        Some(line) => format!("{file}:{line}"),
        None => file.to_owned(),
    };
    match problem.path.as_str() {
        "" => format!("{place}: {}", problem.description),
        path => format!("{place}: {path}: {}", problem.description),
    }
}
