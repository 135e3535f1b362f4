//! Policies, experiments, the zone map, and how rollouts go as documents: read from YAML, written as YAML, compared.

use crate::name::{Collection, PLANS, SETTINGS};
use crate::schema;
use crate::tree::Tree;
use crate::walk::{Lines, Problem, Walk, unknown};
use crate::yaml::{Content, Node};
use prost_reflect::DynamicMessage;
use sockpilot_proto::v1;

/// What can stand in a file.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "few live at a time, and none for long")]
pub enum Document {
    Policy(v1::Policy),
    Experiment(v1::Experiment),
    /// Where addresses are; there is one.
    ZoneMap(v1::ZoneMap),
    /// How revisions of policies reach the fleet.
    RolloutPlan(v1::RolloutPlan),
    /// What holds for all rollouts; there is one.
    RolloutSettings(v1::RolloutSettings),
}

impl Document {
    /// Its full resource name.
    pub fn name(&self) -> &str {
        match self {
            Self::Policy(policy) => &policy.name,
            Self::Experiment(experiment) => &experiment.name,
            Self::ZoneMap(_) => "zoneMap",
            Self::RolloutPlan(plan) => &plan.name,
            Self::RolloutSettings(_) => SETTINGS,
        }
    }

    /// The revision that it is; 0 if it comes from a file or has none.
    pub fn revision(&self) -> u64 {
        match self {
            Self::Policy(policy) => policy.revision,
            Self::Experiment(experiment) => experiment.revision,
            Self::RolloutPlan(plan) => plan.revision,
            Self::ZoneMap(_) | Self::RolloutSettings(_) => 0,
        }
    }

    /// What changes with every change of the document or of who runs it.
    pub fn etag(&self) -> &str {
        match self {
            Self::Policy(policy) => &policy.etag,
            Self::Experiment(experiment) => &experiment.etag,
            Self::ZoneMap(map) => &map.etag,
            Self::RolloutPlan(plan) => &plan.etag,
            Self::RolloutSettings(settings) => &settings.etag,
        }
    }

    /// Whether it says nothing: nobody has written it yet.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::ZoneMap(map) => map.zones.is_empty(),
            Self::RolloutSettings(settings) => {
                let v1::RolloutSettings { name, etag, .. } = settings.clone();
                *settings == v1::RolloutSettings { name, etag, ..v1::RolloutSettings::default() }
            }
            Self::Policy(_) | Self::Experiment(_) | Self::RolloutPlan(_) => false,
        }
    }

    /// Whether there is one of its kind, without revisions.
    pub fn is_the_only_one(&self) -> bool {
        matches!(self, Self::ZoneMap(_) | Self::RolloutSettings(_))
    }

    /// Whether nodes get it: a policy or an experiment.
    pub fn is_for_nodes(&self) -> bool {
        matches!(self, Self::Policy(_) | Self::Experiment(_))
    }

    /// Without what is compared with the server's.
    pub fn forget_etag(&mut self) {
        match self {
            Self::Policy(policy) => policy.etag.clear(),
            Self::Experiment(experiment) => experiment.etag.clear(),
            Self::ZoneMap(map) => map.etag.clear(),
            Self::RolloutPlan(plan) => plan.etag.clear(),
            Self::RolloutSettings(settings) => settings.etag.clear(),
        }
    }

    /// What the server has to say of the change that it answers.
    pub fn notes(&self) -> Option<&v1::ChangeNotes> {
        match self {
            Self::Policy(policy) => policy.notes.as_ref(),
            Self::Experiment(experiment) => experiment.notes.as_ref(),
            Self::ZoneMap(map) => map.notes.as_ref(),
            Self::RolloutPlan(_) | Self::RolloutSettings(_) => None,
        }
    }

    /// The message's name in the contract, which is its `kind` in a file.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Policy(_) => "Policy",
            Self::Experiment(_) => "Experiment",
            Self::ZoneMap(_) => "ZoneMap",
            Self::RolloutPlan(_) => "RolloutPlan",
            Self::RolloutSettings(_) => "RolloutSettings",
        }
    }

    /// As a dynamic message.
    pub fn dynamic(&self) -> DynamicMessage {
        match self {
            Self::Policy(policy) => schema::dynamic(self.kind(), policy),
            Self::Experiment(experiment) => schema::dynamic(self.kind(), experiment),
            Self::ZoneMap(map) => schema::dynamic(self.kind(), map),
            Self::RolloutPlan(plan) => schema::dynamic(self.kind(), plan),
            Self::RolloutSettings(settings) => schema::dynamic(self.kind(), settings),
        }
    }

    /// As YAML that reads back as the same document. With its etag it can be applied to the state from which it was read only.
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
                (p.revision, p.create_time, p.notes) = Default::default();
            }
            Self::Experiment(e) => {
                (e.uid, e.etag, e.creator) = Default::default();
                (e.revision, e.create_time, e.notes, e.state) = Default::default();
                (e.start_time, e.end_time, e.shipped_arm) = Default::default();
            }
            Self::ZoneMap(map) => (map.name, map.etag, map.notes) = Default::default(),
            Self::RolloutPlan(plan) => {
                (plan.etag, plan.creator) = Default::default();
                (plan.revision, plan.create_time) = Default::default();
            }
            Self::RolloutSettings(settings) => (settings.name, settings.etag) = Default::default(),
        }
        content.to_yaml()
    }
}

/// A document of a file, and where its fields stand there.
#[derive(Debug)]
pub struct Source {
    /// The file, as it was named.
    pub file: String,
    pub document: Document,
    /// Where its fields stand.
    pub lines: Lines,
}

impl Source {
    /// What the server says about a field of a request, in terms of the file.
    pub fn locate(&self, field: &str, description: &str) -> Problem {
        let path = ["policy", "experiment", "zone_map", "plan", "settings"]
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
    let kind = kind(root.line, entries).map_err(|problem| vec![problem])?;
    let entries: Vec<(String, Node)> = entries.iter().filter(|(key, _)| key != "kind").cloned().collect();
    let descriptor = schema::message(kind.as_str());
    let mut walk = Walk::default();
    let mut fields = walk.fields(&entries, &descriptor);
    match (kind.collection(), fields.get("name").and_then(serde_json::Value::as_str)) {
        (None, _) => {
            fields.remove("name");
        }
        (Some(collection), Some(name)) if !name.is_empty() => {
            let full = if name.contains('/') { name.to_owned() } else { format!("{collection}/{name}") };
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
    let document = match kind {
        Kind::Layer(Collection::Policies) => message.transcode_to().map(Document::Policy),
        Kind::Layer(Collection::Experiments) => message.transcode_to().map(Document::Experiment),
        Kind::ZoneMap => message.transcode_to().map(Document::ZoneMap),
        Kind::RolloutPlan => message.transcode_to().map(Document::RolloutPlan),
        Kind::RolloutSettings => message.transcode_to().map(Document::RolloutSettings),
    }
    .map_err(|error| vec![problem(root.line, "", error.to_string())])?;
    Ok(Source { file: file.to_owned(), document, lines: walk.lines })
}

/// What a file says its document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Layer(Collection),
    ZoneMap,
    RolloutPlan,
    RolloutSettings,
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::Layer(Collection::Policies),
        Self::Layer(Collection::Experiments),
        Self::ZoneMap,
        Self::RolloutPlan,
        Self::RolloutSettings,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Layer(collection) => collection.kind(),
            Self::ZoneMap => "ZoneMap",
            Self::RolloutPlan => "RolloutPlan",
            Self::RolloutSettings => "RolloutSettings",
        }
    }

    /// What names begin with; there is none of what there is one of.
    fn collection(self) -> Option<&'static str> {
        match self {
            Self::Layer(collection) => Some(collection.as_str()),
            Self::RolloutPlan => Some(PLANS),
            Self::ZoneMap | Self::RolloutSettings => None,
        }
    }

    /// By a full name.
    fn of_name(name: &str) -> Option<Self> {
        let (collection, _) = name.split_once('/')?;
        Self::ALL.into_iter().find(|kind| kind.collection() == Some(collection))
    }
}

fn problem(line: u64, path: &str, description: impl Into<String>) -> Problem {
    Problem { path: path.to_owned(), line: Some(line), description: description.into() }
}

/// What kind of document this is: `kind` says it, or the name.
fn kind(line: u64, entries: &[(String, Node)]) -> Result<Kind, Problem> {
    let get = |wanted: &str| entries.iter().find(|(key, _)| key == wanted).map(|(_, node)| node);
    let by_name = get("name").and_then(|node| match &node.content {
        Content::Text(text) => Kind::of_name(text),
        _ => None,
    });
    let Some(kind) = get("kind") else {
        let lists = ["policies", "experiments", "zoneMap", PLANS, SETTINGS];
        let missing = || match lists.into_iter().find(|list| get(list).is_some()) {
            Some(list) => problem(
                line,
                list,
                "this is a list of the API, as -o json prints it; apply what -o yaml prints instead",
            ),
            None => problem(line, "kind", "missing; write kind: Policy or kind: Experiment"),
        };
        return by_name.ok_or_else(missing);
    };
    let word = match &kind.content {
        Content::Text(text) => text.clone(),
        other => other.describe(),
    };
    if ["Backup", "History"].iter().any(|part| part.eq_ignore_ascii_case(&word)) {
        return Err(problem(kind.line, "kind", "this is a backup; put it back with sockpilot restore -f FILE"));
    }
    let Some(said) = Kind::ALL.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(&word)) else {
        let known = Kind::ALL.map(|known| known.as_str().to_owned());
        return Err(problem(kind.line, "kind", unknown(&word, &known, "kind")));
    };
    match by_name {
        Some(named) if said != named => {
            let collection = named.collection().unwrap_or_default();
            let text = format!("is {} but the name stands in {collection}/", said.as_str());
            Err(problem(kind.line, "kind", text))
        }
        _ => Ok(said),
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
        Some(document) if document.revision() == 0 => document.name().to_owned(),
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
mod tests;
