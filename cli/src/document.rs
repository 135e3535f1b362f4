//! Policies and experiments as documents: read from YAML, written as YAML, compared.

use crate::name::{Collection, LayerName};
use crate::schema;
use crate::tree::Tree;
use crate::walk::{Lines, Problem, Walk, unknown};
use crate::yaml::{Content, Node};
use prost_reflect::DynamicMessage;
use sockpilot_proto::v1;

/// A policy or an experiment.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    /// A policy.
    Policy(v1::Policy),
    /// An experiment.
    Experiment(v1::Experiment),
}

impl Document {
    /// Its full resource name.
    pub fn name(&self) -> &str {
        match self {
            Self::Policy(policy) => &policy.name,
            Self::Experiment(experiment) => &experiment.name,
        }
    }

    /// The revision that it is; 0 if it comes from a file.
    pub fn revision(&self) -> u64 {
        match self {
            Self::Policy(policy) => policy.revision,
            Self::Experiment(experiment) => experiment.revision,
        }
    }

    /// What changes with every change of the document or of who runs it.
    pub fn etag(&self) -> &str {
        match self {
            Self::Policy(policy) => &policy.etag,
            Self::Experiment(experiment) => &experiment.etag,
        }
    }

    /// The message's name in the contract, which is its `kind` in a file.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Policy(_) => "Policy",
            Self::Experiment(_) => "Experiment",
        }
    }

    /// As a dynamic message.
    pub fn dynamic(&self) -> DynamicMessage {
        match self {
            Self::Policy(policy) => schema::dynamic(self.kind(), policy),
            Self::Experiment(experiment) => schema::dynamic(self.kind(), experiment),
        }
    }

    /// As YAML that can be applied again.
    pub fn to_yaml(&self) -> String {
        let mut fields = vec![("kind".to_owned(), Tree::Text(self.kind().to_owned()))];
        if let Tree::Map(rest) = Tree::from_message(&self.dynamic()) {
            fields.extend(rest);
        }
        Tree::Map(fields).to_yaml()
    }

    /// As YAML without what the server writes into it.
    fn content_yaml(&self) -> String {
        let mut content = self.clone();
        match &mut content {
            Self::Policy(p) => {
                (p.uid, p.etag, p.creator) = Default::default();
                (p.revision, p.create_time) = Default::default();
            }
            Self::Experiment(e) => {
                (e.uid, e.etag, e.creator) = Default::default();
                (e.revision, e.create_time) = Default::default();
            }
        }
        content.to_yaml()
    }
}

/// A document of a file, and where its fields stand there.
#[derive(Debug)]
pub struct Source {
    /// The file, as it was named.
    pub file: String,
    /// What it says.
    pub document: Document,
    /// Where its fields stand.
    pub lines: Lines,
}

impl Source {
    /// What the server says about a field of a request, in terms of the file.
    pub fn locate(&self, field: &str, description: &str) -> Problem {
        let path = ["policy", "experiment"]
            .into_iter()
            .find_map(|root| {
                let rest = field.strip_prefix(root)?;
                rest.strip_prefix('.').or_else(|| rest.is_empty().then_some(rest))
            })
            .unwrap_or(field);
        Problem { path: path.to_owned(), line: self.lines.find(path), description: description.to_owned() }
    }
}

/// Reads one YAML document.
pub fn read(file: &str, root: &Node) -> Result<Source, Vec<Problem>> {
    let Content::Map(entries) = &root.content else {
        return Err(vec![problem(root.line, "", format!("must be a mapping, not {}", root.content.describe()))]);
    };
    let collection = collection(root.line, entries).map_err(|problem| vec![problem])?;
    let entries: Vec<(String, Node)> = entries.iter().filter(|(key, _)| key != "kind").cloned().collect();
    let descriptor = schema::message(collection.kind());
    let mut walk = Walk::default();
    let mut fields = walk.fields(&entries, &descriptor);
    match fields.get("name").and_then(serde_json::Value::as_str) {
        Some(name) if !name.is_empty() => {
            let full = if name.contains('/') { name.to_owned() } else { format!("{}/{name}", collection.as_str()) };
            fields.insert("name".to_owned(), full.into());
        }
        _ if walk.problems.iter().any(|problem| problem.path == "name") => {}
        _ => walk.problems.push(problem(root.line, "name", "missing; give the document a name")),
    }
    if !walk.problems.is_empty() {
        walk.problems.sort_by_key(|problem| problem.line);
        return Err(walk.problems);
    }
    let message = DynamicMessage::deserialize(descriptor, serde_json::Value::Object(fields))
        .map_err(|error| vec![problem(root.line, "", error.to_string())])?;
    let document = match collection {
        Collection::Policies => message.transcode_to().map(Document::Policy),
        Collection::Experiments => message.transcode_to().map(Document::Experiment),
    }
    .map_err(|error| vec![problem(root.line, "", error.to_string())])?;
    Ok(Source { file: file.to_owned(), document, lines: walk.lines })
}

fn problem(line: u64, path: &str, description: impl Into<String>) -> Problem {
    Problem { path: path.to_owned(), line: Some(line), description: description.into() }
}

/// What kind of document this is: `kind` says it, or the name.
fn collection(line: u64, entries: &[(String, Node)]) -> Result<Collection, Problem> {
    let get = |wanted: &str| entries.iter().find(|(key, _)| key == wanted).map(|(_, node)| node);
    let by_name = get("name").and_then(|node| match &node.content {
        Content::Text(text) => text.parse::<LayerName>().ok().map(|name| name.collection),
        _ => None,
    });
    let Some(kind) = get("kind") else {
        return by_name.ok_or_else(|| problem(line, "kind", "missing; write kind: Policy or kind: Experiment"));
    };
    let by_kind = match &kind.content {
        Content::Text(text) => Collection::ALL.into_iter().find(|c| c.kind().eq_ignore_ascii_case(text)),
        _ => None,
    };
    match (by_kind, by_name) {
        (Some(kind), None) => Ok(kind),
        (Some(by_kind), Some(by_name)) if by_kind == by_name => Ok(by_kind),
        (Some(by_kind), Some(by_name)) => Err(problem(
            kind.line,
            "kind",
            format!("is {} but the name stands in {}/", by_kind.kind(), by_name.as_str()),
        )),
        (None, _) => {
            let word = match &kind.content {
                Content::Text(text) => text.clone(),
                other => other.describe(),
            };
            let kinds = Collection::ALL.map(|c| c.kind().to_owned());
            Err(problem(kind.line, "kind", unknown(&word, &kinds, "kind")))
        }
    }
}

/// What changes from one document to another, as a unified diff of their YAML; empty if nothing does.
pub fn diff(before: Option<&Document>, after: &Document) -> String {
    let old = before.map(Document::content_yaml).unwrap_or_default();
    let new = after.content_yaml();
    if old == new {
        return String::new();
    }
    let old_header = match before {
        Some(document) => format!("{}@{}", document.name(), document.revision()),
        None => "/dev/null".to_owned(),
    };
    similar::TextDiff::from_lines(&old, &new)
        .unified_diff()
        .context_radius(3)
        .header(&old_header, after.name())
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    fn source(text: &str) -> Result<Source, Vec<Problem>> {
        read("test.yaml", &yaml::parse(text).unwrap()[0])
    }

    #[track_caller]
    fn refused(text: &str, expected: &[(&str, u64, &str)]) {
        let problems = source(text).unwrap_err();
        let found: Vec<(&str, u64, &str)> =
            problems.iter().map(|p| (p.path.as_str(), p.line.unwrap_or_default(), p.description.as_str())).collect();
        assert_eq!(found, expected);
    }

    const WEB: &str = "kind: Policy\nname: web\npriority: 10\nnode_labels:\n  role: edge\n\
                       rules:\n- name: far\n  match:\n    direction: active\n    remote_ports:\n    - '443'\n  \
                       set:\n    initial_cwnd_packets: 40\n";

    #[test]
    fn a_bare_name_gets_its_collection() {
        assert_eq!(source(WEB).unwrap().document.name(), "policies/web");
        assert_eq!(source("kind: experiment\nname: e\n").unwrap().document.name(), "experiments/e");
        assert_eq!(source("name: experiments/e\n").unwrap().document.kind(), "Experiment");
    }

    #[test]
    fn the_kind_must_be_known_and_agree_with_the_name() {
        refused("name: web\n", &[("kind", 1, "missing; write kind: Policy or kind: Experiment")]);
        refused("kind: Polisy\nname: w\n", &[("kind", 1, "no such kind as \"Polisy\"; did you mean Policy?")]);
        refused("name: experiments/e\nkind: Policy\n", &[("kind", 2, "is Policy but the name stands in experiments/")]);
        refused("kind: Policy\n", &[("name", 1, "missing; give the document a name")]);
        refused("- 1\n", &[("", 1, "must be a mapping, not a list")]);
    }

    #[test]
    fn yaml_of_a_document_reads_back_as_the_same_document() {
        let document = source(WEB).unwrap().document;
        let text = document.to_yaml();
        assert_eq!(source(&text).unwrap().document, document, "{text}");
        assert!(text.starts_with("kind: Policy\nname: policies/web\n"), "{text}");
        assert!(text.contains("direction: active\n"), "{text}");
    }

    /// All parameters that there are, whatever they will be.
    fn every_parameter() -> v1::Parameters {
        let descriptor = schema::message("Parameters");
        let values = descriptor.fields().map(|field| {
            let value = match field.kind() {
                prost_reflect::Kind::String => "bbr".into(),
                prost_reflect::Kind::Bool => true.into(),
                _ => serde_json::Value::from(41),
            };
            (field.json_name().to_owned(), value)
        });
        let json = serde_json::Value::Object(values.collect());
        DynamicMessage::deserialize(descriptor.clone(), json).unwrap().transcode_to().unwrap()
    }

    #[test]
    fn documents_with_every_field_survive_the_way_through_yaml() {
        let matches = v1::Match {
            direction: v1::Direction::Passive.into(),
            family: v1::Family::Ipv6.into(),
            local_prefixes: vec!["2001:db8::/32".to_owned()],
            remote_prefixes: vec!["::1".to_owned(), "10.0.0.0/8".to_owned()],
            same_prefix: Some(0),
            not_same_prefix: Some(48),
            local_ports: vec!["443".to_owned(), "8000-8999".to_owned()],
            remote_ports: vec!["1".to_owned()],
            services: vec!["/system.slice/a@1.service".to_owned()],
        };
        let set = every_parameter();
        let arm = |first: Option<u32>| v1::Arm {
            name: "a".to_owned(),
            weight_bp: 5_000,
            first_bucket: first,
            set: Some(set.clone()),
        };
        let experiment = Document::Experiment(v1::Experiment {
            name: "experiments/e".to_owned(),
            etag: "7 x".to_owned(),
            description: "two\n\n  lines\n".to_owned(),
            priority: 7,
            node_labels: [("a.b/c".to_owned(), "on".to_owned())].into(),
            r#match: Some(matches.clone()),
            unit: v1::Unit::Flow.into(),
            salt: "0x12".to_owned(),
            arms: vec![arm(None), arm(Some(0)), arm(Some(5_000))],
            ..v1::Experiment::default()
        });
        let policy = Document::Policy(v1::Policy {
            name: "policies/p".to_owned(),
            rules: vec![
                v1::Rule { name: "a".to_owned(), r#match: Some(matches), set: Some(set.clone()) },
                v1::Rule { name: "b".to_owned(), r#match: Some(v1::Match::default()), set: None },
            ],
            ..v1::Policy::default()
        });
        for document in [experiment, policy] {
            assert_eq!(source(&document.to_yaml()).unwrap().document, document, "{}", document.to_yaml());
        }
    }

    #[test]
    fn texts_that_look_like_something_else_survive_the_way_through_yaml() {
        for odd in ["yes", "1.10", "~", "null", "- a", "a: b", "#x", " x ", "two\nlines", "\"quoted\"", "0x10", ""] {
            let document = Document::Policy(v1::Policy {
                name: "policies/web".to_owned(),
                description: odd.to_owned(),
                node_labels: [("odd".to_owned(), odd.to_owned())].into(),
                ..v1::Policy::default()
            });
            assert_eq!(source(&document.to_yaml()).unwrap().document, document, "{}", document.to_yaml());
        }
    }

    #[test]
    fn a_diff_names_the_revision_and_shows_only_what_changes() {
        let before = match source(WEB).unwrap().document {
            Document::Policy(p) => Document::Policy(v1::Policy { revision: 3, etag: "x".to_owned(), ..p }),
            other => other,
        };
        let after = source(&WEB.replace("40", "20")).unwrap().document;
        let text = diff(Some(&before), &after);
        assert!(text.starts_with("--- policies/web@3\n+++ policies/web\n@@"), "{text}");
        assert!(text.contains("-    initial_cwnd_packets: 40\n+    initial_cwnd_packets: 20\n"), "{text}");
        assert_eq!(diff(Some(&before), &source(WEB).unwrap().document), "");
        assert!(diff(None, &after).starts_with("--- /dev/null\n"));
    }

    #[test]
    fn what_the_server_says_is_found_in_the_file() {
        let source = source(WEB).unwrap();
        let found = source.locate("policy.rules[0].set.initial_cwnd_packets", "too big");
        assert_eq!((found.path.as_str(), found.line), ("rules[0].set.initial_cwnd_packets", Some(13)));
        assert_eq!(source.locate("policy", "too big").path, "");
        assert_eq!(source.locate("policy_id", "differs").path, "policy_id");
    }
}
