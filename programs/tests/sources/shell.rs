//! Which programs a shell script runs: as much of the shell's grammar as that takes.

use std::collections::BTreeSet;

/// Words after which another command follows.
const KEYWORDS: [&str; 13] =
    ["time", "if", "then", "elif", "else", "while", "until", "do", "!", "{", "}", "fi", "done"];
/// What the shell does itself.
const BUILTINS: [&str; 34] = [
    ".", ":", "[", "break", "cd", "command", "continue", "declare", "echo", "exec", "exit", "export", "false", "kill",
    "local", "printf", "read", "readonly", "return", "set", "shift", "source", "test", "trap", "true", "type", "umask",
    "unset", "wait", "hash", "eval", "ulimit", "pwd", "shopt",
];
/// What runs the command in its arguments, after as many operands of its own.
const WRAPPERS: [(&str, usize); 9] = [
    ("env", 0),
    ("exec", 0),
    ("command", 0),
    ("sudo", 0),
    ("unshare", 0),
    ("xargs", 0),
    ("nice", 0),
    ("chroot", 1),
    ("as_root", 0),
];
/// What runs its argument after `-c`, or its first argument, as a script.
const SHELLS: [&str; 4] = ["bash", "sh", "trap", "eval"];

/// The programs that a script runs; expansions (`"$CARGO"`) as they are written.
pub fn programs(script: &str) -> BTreeSet<String> {
    let mut reader = Reader { text: script.chars().collect(), ..Reader::default() };
    reader.script(None);
    let Reader { commands, functions, .. } = reader;
    let own = |name: &String| functions.contains(name) || BUILTINS.contains(&name.as_str());
    commands.into_iter().filter(|name| !own(name) && name != "\"$@\"" && name != "$@").collect()
}

#[derive(Default)]
struct Reader {
    text: Vec<char>,
    at: usize,
    commands: Vec<String>,
    functions: Vec<String>,
    /// Words that end the documents which begin at the next line.
    documents: Vec<String>,
    /// Whether a backtick ends what is read.
    in_backticks: bool,
}

impl Reader {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.text.get(self.at + ahead).copied()
    }

    fn looking_at(&self, text: &str) -> bool {
        text.chars().enumerate().all(|(ahead, c)| self.peek(ahead) == Some(c))
    }

    /// Up to its end, or to what closes it.
    fn script(&mut self, close: Option<char>) {
        let mut words: Vec<String> = vec![];
        let mut patterns = 0;
        let mut in_pattern = false;
        while let Some(c) = self.peek(0) {
            if c == '\\' && self.peek(1) == Some('\n') {
                self.at += 2;
            } else if Some(c) == close && !in_pattern {
                self.at += 1;
                break;
            } else if in_pattern {
                // Of a `case`: up to its parenthesis.
                if c.is_whitespace() {
                    self.at += 1;
                } else if self.looking_at("esac") {
                    (self.at, patterns, in_pattern) = (self.at + 4, patterns - 1, false);
                } else if c == ')' {
                    (self.at, in_pattern) = (self.at + 1, false);
                } else if c == '|' || c == '(' || self.word().is_empty() {
                    self.at += 1;
                }
            } else if c == '\n' {
                self.command(std::mem::take(&mut words));
                self.at += 1;
                self.skip_documents();
            } else if c.is_whitespace() {
                self.at += 1;
            } else if c == '#' {
                while self.peek(0).is_some_and(|c| c != '\n') {
                    self.at += 1;
                }
            } else if c == '<' || c == '>' {
                self.redirection();
            } else if ";|&()".contains(c) {
                if c == '(' && words.len() == 1 && self.peek(1) == Some(')') {
                    self.functions.append(&mut words);
                }
                let next_pattern = self.looking_at(";;") && patterns > 0;
                self.command(std::mem::take(&mut words));
                self.at += if next_pattern { 2 } else { 1 };
                in_pattern = next_pattern;
            } else {
                let word = self.word();
                // A number before a redirection belongs to it.
                if matches!(self.peek(0), Some('<' | '>')) && word.chars().all(|c| c.is_ascii_digit()) {
                    continue;
                }
                if words.is_empty() && KEYWORDS.contains(&word.as_str()) {
                    continue;
                }
                if word == "esac" && words.is_empty() {
                    patterns -= 1;
                    continue;
                }
                words.push(word);
                if words[0] == "case" && words.len() == 3 && words[2] == "in" {
                    words.clear();
                    (patterns, in_pattern) = (patterns + 1, true);
                }
            }
        }
        self.command(words);
    }

    fn skip_documents(&mut self) {
        for end in std::mem::take(&mut self.documents) {
            while self.peek(0).is_some() {
                let line: String = self.text[self.at..].iter().take_while(|&&c| c != '\n').collect();
                self.at += line.chars().count() + 1;
                if line.trim_start_matches('\t') == end {
                    break;
                }
            }
        }
    }

    fn redirection(&mut self) {
        if self.peek(1) == Some('(') {
            self.at += 2;
            return self.script(Some(')'));
        }
        let document = self.looking_at("<<") && self.peek(2) != Some('<');
        while matches!(self.peek(0), Some('<' | '>' | '&' | '-' | '|')) {
            self.at += 1;
        }
        while matches!(self.peek(0), Some(' ' | '\t')) {
            self.at += 1;
        }
        let word = self.word();
        if document {
            self.documents.push(word.replace(['\'', '"', '\\'], ""));
        }
    }

    /// A word as it is written; what is substituted in it is read as a script.
    fn word(&mut self) -> String {
        let start = self.at;
        let mut array = false;
        while let Some(c) = self.peek(0) {
            match c {
                '\'' => self.quoted(),
                '"' => self.double_quoted(),
                '\\' => self.at += 2,
                '`' if self.in_backticks => break,
                '$' | '`' => self.expansion(),
                '(' if self.at > start && self.text[self.at - 1] == '=' => (self.at, array) = (self.at + 1, true),
                ')' if array => (self.at, array) = (self.at + 1, false),
                _ if array => self.at += 1,
                c if c.is_whitespace() || ";|&()<>".contains(c) => break,
                _ => self.at += 1,
            }
        }
        self.text[start..self.at.min(self.text.len())].iter().collect()
    }

    fn quoted(&mut self) {
        self.at += 1;
        while self.peek(0).is_some_and(|c| c != '\'') {
            self.at += 1;
        }
        self.at += 1;
    }

    fn double_quoted(&mut self) {
        self.at += 1;
        while let Some(c) = self.peek(0) {
            match c {
                '"' => break,
                '\\' => self.at += 2,
                '$' | '`' => self.expansion(),
                _ => self.at += 1,
            }
        }
        self.at += 1;
    }

    fn expansion(&mut self) {
        if self.looking_at("$((") {
            while self.peek(0).is_some() && !self.looking_at("))") {
                self.at += 1;
            }
            self.at += 2;
        } else if self.looking_at("$(") {
            self.at += 2;
            self.script(Some(')'));
        } else if self.looking_at("`") {
            self.at += 1;
            self.in_backticks = true;
            self.script(Some('`'));
            self.in_backticks = false;
        } else if self.looking_at("${") {
            self.at += 2;
            while self.peek(0).is_some_and(|c| c != '}') {
                match self.peek(0) {
                    Some('$' | '`') => self.expansion(),
                    Some('\\') => self.at += 2,
                    _ => self.at += 1,
                }
            }
            self.at += 1;
        } else {
            self.at += 1;
        }
    }

    /// What a simple command runs, and what those run that it is given to.
    fn command(&mut self, words: Vec<String>) {
        let mut words = words.into_iter().skip_while(|word| is_assignment(word)).peekable();
        let Some(name) = words.next() else { return };
        if matches!(name.as_str(), "for" | "case" | "select" | "function" | "esac" | "in") {
            return;
        }
        if let Some((_, operands)) = WRAPPERS.iter().find(|(wrapper, _)| *wrapper == name) {
            // `command -v` asks, and runs nothing.
            let asks = name == "command" && words.peek().is_some_and(|word| word.starts_with("-v"));
            let rest = words.clone().skip_while(|word| word.starts_with('-') || is_assignment(word)).skip(*operands);
            if !asks {
                self.command(rest.collect());
            }
        }
        if name == "find" {
            let given = words.clone().skip_while(|word| !word.starts_with("-exec")).skip(1);
            self.command(given.collect());
        }
        if SHELLS.contains(&name.as_str()) {
            let code = if matches!(name.as_str(), "bash" | "sh") {
                words.clone().skip_while(|word| !word.starts_with('-') || !word.ends_with('c')).nth(1)
            } else {
                words.next()
            };
            for program in programs(&unquoted(&code.unwrap_or_default())) {
                self.commands.push(program);
            }
        }
        self.commands.push(unquoted(&name));
    }
}

fn is_assignment(word: &str) -> bool {
    let Some((name, _)) = word.split_once('=') else { return false };
    let name = name.strip_suffix('+').unwrap_or(name);
    let name = name.split('[').next().unwrap_or(name);
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Without the quotes around the whole of it, except around an expansion, which is no name.
fn unquoted(word: &str) -> String {
    let inner = |quote| word.strip_prefix(quote).and_then(|word: &str| word.strip_suffix(quote));
    match inner('\'').or_else(|| inner('"')) {
        Some(text) => text.to_owned(),
        None => word.to_owned(),
    }
}
