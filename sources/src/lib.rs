//! What the modules of a crate use of it, read from their text: for tests that hold which room of a crate may use which.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The files below a folder, by their names from there.
///
/// # Panics
/// If one cannot be read.
#[must_use]
pub fn read(root: &Path) -> BTreeMap<String, String> {
    let (mut folders, mut found) = (vec![root.to_owned()], BTreeMap::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path: PathBuf = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).expect("below it").to_str().expect("UTF-8").to_owned();
                found.insert(name, fs::read_to_string(&path).expect("readable"));
            }
        }
    }
    found
}

/// Without comments, and without the tests at its end.
#[must_use]
pub fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The paths that code names, of this crate: `crate::` and `super::`, in imports also behind braces.
#[must_use]
pub fn paths(file: &str, text: &str) -> Vec<Vec<String>> {
    let mut module: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
    if matches!(module.last(), Some(&"mod" | &"lib" | &"main")) {
        module.pop();
    }
    let mut found = vec![];
    for (start, up) in [("crate::", 0), ("super::", 1), ("super::super::", 2)] {
        for (at, _) in text.match_indices(start) {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') || up > module.len() {
                continue;
            }
            let base: &[&str] = if up == 0 { &[] } else { &module[..module.len() - up] };
            let base: Vec<String> = base.iter().map(|&name| name.to_owned()).collect();
            tree(&mut text[at + start.len()..].chars().peekable(), &base, &mut found);
        }
    }
    found
}

/// One path or, in braces, several.
fn tree(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, base: &[String], found: &mut Vec<Vec<String>>) {
    let mut path = base.to_vec();
    loop {
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        if rest.next_if_eq(&'{').is_some() {
            while rest.peek().is_some_and(|c| *c != '}') {
                tree(rest, &path, found);
                while rest.next_if(|c| c.is_whitespace() || *c == ',').is_some() {}
            }
            rest.next();
            return;
        }
        let mut name = String::new();
        while let Some(c) = rest.next_if(|c| c.is_alphanumeric() || *c == '_' || *c == '*') {
            name.push(c);
        }
        path.push(name);
        if rest.next_if_eq(&':').is_none() || rest.next_if_eq(&':').is_none() {
            break;
        }
    }
    // `as` another name, or whatever else there is up to the next one.
    while rest.next_if(|c| !matches!(c, ',' | '}' | ';')).is_some() {}
    found.push(path);
}

/// The file that a path leads to: its longest beginning that is one.
#[must_use]
pub fn target(path: &[String], sources: &BTreeMap<String, String>) -> Option<String> {
    (1..=path.len()).rev().find_map(|length| {
        let module = path[..length].join("/");
        [format!("{module}.rs"), format!("{module}/mod.rs")].into_iter().find(|file| sources.contains_key(file))
    })
}

/// What each file uses of its crate. What a file says of the modules that it is made of is left out: they are parts of it.
#[must_use]
pub fn uses(sources: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let of = |(file, text): (&String, &String)| {
        let targets = paths(file, &code(text)).into_iter().filter_map(|path| target(&path, sources));
        targets.filter(|used| used != file).map(|used| (file.clone(), used)).collect::<Vec<_>>()
    };
    sources.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_read() {
        let read = |text| paths("keeper/a.rs", text).into_iter().map(|path| path.join("::")).collect::<Vec<_>>();
        let text = "use crate::{\n    disk::{owed::{self, What}, file},\n    facts,\n};\nuse super::channel::Ends;";
        let expected = ["disk::owed::self", "disk::owed::What", "disk::file", "facts", "keeper::channel::Ends"];
        assert_eq!(read(text), expected);
        assert_eq!(read("let x = crate::facts::read(); mycrate::y()"), ["facts::read"]);
    }
}
