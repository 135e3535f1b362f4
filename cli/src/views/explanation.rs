//! What a connection gets, and why.

use crate::format::{self, NONE};
use crate::table::{Table, one_line};
use sockpilot_proto::v1::{
    ExplainFlowResponse, ExplainedLayer, ExplainedParameter, ExplainedRollout, ExplainedValue, LayerOrigin,
};

/// First what it gets, then which layers were asked, then what speaks against the rules that do not hold.
pub fn answer(answer: &ExplainFlowResponse) -> String {
    let mut text = String::new();
    if !answer.refusals.is_empty() {
        text.push_str("The node cannot honour these layers, and would go on with what it has of them:\n");
        for refusal in &answer.refusals {
            text.push_str(&one_line(&format!("  {} {}: {}", refusal.layer, refusal.field, refusal.description)));
            text.push('\n');
        }
        text.push('\n');
    }
    text.push_str(&parameters(&answer.parameters));
    text.push_str(&caveats(&answer.parameters));
    text.push('\n');
    text.push_str(&layers(&answer.layers));
    text.push_str(&against(&answer.layers));
    text
}

fn parameters(parameters: &[ExplainedParameter]) -> String {
    if parameters.is_empty() {
        return "No layer sets anything: the connection keeps what the kernel gives it.\n".to_owned();
    }
    let mut table = Table::new(&["PARAMETER", "VALUE", "EFFECTIVE", "FROM", "OVER", "NOTE"]);
    for parameter in parameters {
        let (value, from) = match &parameter.winner {
            Some(winner) => (winner.requested.clone(), source(winner)),
            None => (NONE.to_owned(), NONE.to_owned()),
        };
        let open = if parameter.open_too { "open connections too" } else { "" };
        let notes: Vec<&str> = [open, &parameter.note].into_iter().filter(|note| !note.is_empty()).collect();
        let losers: Vec<String> = parameter.losers.iter().map(loser).collect();
        table.row(vec![
            parameter.parameter.clone(),
            value,
            format::or_none(&parameter.effective),
            from,
            format::or_none(&losers.join(", ")),
            notes.join("; "),
        ]);
    }
    table.render()
}

/// What else takes part in what the values do, and what comes too late.
fn caveats(parameters: &[ExplainedParameter]) -> String {
    let lines = parameters.iter().flat_map(|explained| {
        explained.caveats.iter().map(|caveat| one_line(&format!("  {}: {caveat}", explained.parameter)) + "\n")
    });
    let lines: String = lines.collect();
    if lines.is_empty() { lines } else { format!("\nWhat else holds of these values:\n{lines}") }
}

fn source(value: &ExplainedValue) -> String {
    format!("{}@{}:{}", value.layer, value.revision, value.choice)
}

fn loser(value: &ExplainedValue) -> String {
    match value.note.as_str() {
        "" => format!("{} from {}", value.requested, source(value)),
        note => format!("{} from {} ({note})", value.requested, source(value)),
    }
}

fn layers(layers: &[ExplainedLayer]) -> String {
    let mut table = Table::new(&["LAYER", ">PRIORITY", "FOR", ">LEASE", "CHOICE", ">BUCKET", "NOTE"]);
    for layer in layers {
        let before = match layer.choice_before.as_deref() {
            None => String::new(),
            Some("") => "before the round trip was known: none".to_owned(),
            Some(choice) => format!("before the round trip was known: {choice}"),
        };
        let part = layer.rollout.as_ref().map(part).unwrap_or_default();
        let notes: Vec<&str> =
            [layer.note.as_str(), &before, &part].into_iter().filter(|note| !note.is_empty()).collect();
        table.row(vec![
            format!("{}@{}", layer.layer, layer.revision),
            layer.priority.to_string(),
            origin(layer.origin()).to_owned(),
            if layer.lease_ms == 0 { NONE.to_owned() } else { format!("{}s", layer.lease_ms.div_ceil(1_000)) },
            if layer.matched { layer.choice.clone() } else { NONE.to_owned() },
            layer.bucket.map_or_else(|| NONE.to_owned(), |bucket| bucket.to_string()),
            notes.join("; "),
        ]);
    }
    table.render()
}

/// Whose it is among the connections of a rollout.
fn part(rollout: &ExplainedRollout) -> String {
    let ExplainedRollout { name, group, flow_share_bp, unchanged } = rollout;
    let share = format::share(*flow_share_bp);
    let same = if *unchanged { "; both have the same (A/A)" } else { "" };
    match group.as_str() {
        "" => String::new(),
        "canary" => format!("in the canary of {name}, {share} of connections{same}"),
        "control" => format!("in the control of {name}, {share} of connections beside as many of the canary{same}"),
        "rest" => format!("neither in the canary of {name} nor in its control, {share} of connections each"),
        "all" => format!("in {name}, which has all connections of this node"),
        "before" => format!("{name} has not reached this node"),
        other => format!("{other} in {name}"),
    }
}

fn origin(origin: LayerOrigin) -> &'static str {
    match origin {
        LayerOrigin::Unspecified => NONE,
        LayerOrigin::Everyone => "everyone",
        LayerOrigin::Canary => "canary",
        LayerOrigin::Override => "as if",
        LayerOrigin::Standby => "standby",
    }
}

/// Why the rules that were asked do not hold.
fn against(layers: &[ExplainedLayer]) -> String {
    let mut text = String::new();
    for layer in layers {
        for rule in layer.rules.iter().filter(|rule| !rule.matched) {
            if text.is_empty() {
                text.push_str("\nDoes not hold:\n");
            }
            let name = if rule.name.is_empty() { String::new() } else { format!(":{}", rule.name) };
            let line = format!("  {}@{}{name}: {}: {}", layer.layer, layer.revision, rule.field, rule.description);
            text.push_str(&one_line(&line));
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use sockpilot_proto::v1::{ExplainedRule, RuleViolation};

    fn value(layer: &str, choice: &str, requested: &str, note: &str) -> ExplainedValue {
        ExplainedValue {
            layer: layer.to_owned(),
            revision: 2,
            choice: choice.to_owned(),
            field: String::new(),
            requested: requested.to_owned(),
            note: note.to_owned(),
        }
    }

    #[test]
    fn the_winner_the_losers_and_what_does_not_hold() {
        let experiment = ExplainedLayer {
            layer: "experiments/rto".to_owned(),
            revision: 2,
            priority: 1_000,
            origin: LayerOrigin::Everyone.into(),
            lease_ms: 600_000,
            matched: true,
            choice: "fast".to_owned(),
            bucket: Some(9_123),
            ..ExplainedLayer::default()
        };
        let policy = ExplainedLayer {
            layer: "policies/web".to_owned(),
            revision: 2,
            priority: 100,
            origin: LayerOrigin::Canary.into(),
            rules: vec![ExplainedRule {
                name: "far".to_owned(),
                matched: false,
                field: "rules[0].match.remote_ports".to_owned(),
                description: "port 443 is not in 8000-8999".to_owned(),
            }],
            ..ExplainedLayer::default()
        };
        let parameter = ExplainedParameter {
            parameter: "syn_rto_ms".to_owned(),
            winner: Some(value("experiments/rto", "fast", "50", "")),
            effective: "52".to_owned(),
            note: "rounded up to timer ticks".to_owned(),
            losers: vec![value("policies/base", "all", "200", "")],
            open_too: false,
            caveats: vec!["an unanswered SYN is sent again 10 times".to_owned()],
        };
        let explained = ExplainFlowResponse {
            generation: 7,
            layers: vec![experiment, policy],
            parameters: vec![parameter],
            refusals: Vec::new(),
        };
        assert_eq!(
            answer(&explained),
            "\
PARAMETER   VALUE  EFFECTIVE  FROM                    OVER                          NOTE
syn_rto_ms  50     52         experiments/rto@2:fast  200 from policies/base@2:all  rounded up to timer ticks

What else holds of these values:
  syn_rto_ms: an unanswered SYN is sent again 10 times

LAYER              PRIORITY  FOR       LEASE  CHOICE  BUCKET  NOTE
experiments/rto@2      1000  everyone   600s  fast      9123
policies/web@2          100  canary        -  -            -

Does not hold:
  policies/web@2:far: rules[0].match.remote_ports: port 443 is not in 8000-8999
"
        );
    }

    #[test]
    fn whose_a_connection_is_in_a_rollout_is_said() {
        let of = |group: &str, flow_share_bp, unchanged| {
            let (name, group) = ("rollouts/web-3".to_owned(), group.to_owned());
            part(&ExplainedRollout { name, group, flow_share_bp, unchanged })
        };
        assert_eq!(of("canary", 1_000, false), "in the canary of rollouts/web-3, 10% of connections");
        assert!(of("control", 1_000, false).starts_with("in the control of rollouts/web-3, 10% of connections"));
        assert!(of("control", 100, true).ends_with("both have the same (A/A)"));
        assert!(of("rest", 100, false).starts_with("neither in the canary"));
        assert_eq!(of("before", 0, false), "rollouts/web-3 has not reached this node");
        assert_eq!(of("", 1_000, false), "", "said of the layer that it is measured by");
        let rollout =
            ExplainedRollout { name: "rollouts/web-3".to_owned(), group: "all".to_owned(), ..Default::default() };
        let layer = ExplainedLayer { rollout: Some(rollout), note: "a note".to_owned(), ..ExplainedLayer::default() };
        let text = answer(&ExplainFlowResponse { layers: vec![layer], ..ExplainFlowResponse::default() });
        assert!(text.contains("a note; in rollouts/web-3, which has all connections of this node"), "{text}");
    }

    #[test]
    fn nothing_and_refusals_are_said() {
        let refusal = RuleViolation {
            layer: "policies/web".to_owned(),
            field: "rules[0].set.congestion_control".to_owned(),
            description: "this node has no vegas".to_owned(),
        };
        let text = answer(&ExplainFlowResponse { refusals: vec![refusal], ..ExplainFlowResponse::default() });
        assert!(text.contains("  policies/web rules[0].set.congestion_control: this node has no vegas\n"), "{text}");
        assert!(text.contains("No layer sets anything"), "{text}");
    }
}
