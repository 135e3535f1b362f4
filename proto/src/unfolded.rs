//! How much memory a request takes when it is decoded, found before it is: an empty part of a message has two bytes on the wire and some
//! hundreds in memory, so a bound on the wire bounds nothing.

use std::{collections::HashMap, sync::LazyLock};

use prost::Message;
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use tonic::Status;

use crate::FILE_DESCRIPTOR_SET;

/// So many times its size on the wire may a message take: a cell of one connection takes seven times.
const TIMES_MAX: usize = 16;
/// Whatever the size: so much is no danger, and a few thousand empty parts get an answer that says what is wrong with them.
const FREE_BYTES: usize = 4 << 20;
/// And this is the most. A report of a real node has 2 MiB on the wire.
const BYTES_MAX: usize = 64 << 20;
/// A list or a text of its own.
const LIST_BYTES: usize = 24;
const SCALAR_BYTES: usize = 8;
/// Messages within messages that prost decodes.
const DEPTH_MAX: usize = 100;

/// What is known of a field whose memory is not all in the message that it is in.
#[derive(Debug, Clone, Copy)]
enum Field {
    /// A message of a shape, in place.
    One(usize),
    /// Of many; each takes so much.
    Many(usize, usize),
    /// Texts, each with a head of its own.
    Texts,
    /// Numbers, packed or not.
    Numbers,
}

#[derive(Debug, Default)]
struct Shape {
    /// By number: what is looked at is looked at a million times.
    fields: Vec<Option<Field>>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Shapes {
    all: Vec<Shape>,
    by_name: HashMap<String, usize>,
}

static SHAPES: LazyLock<Shapes> = LazyLock::new(|| {
    let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap_or_default().file;
    let mut described = HashMap::new();
    for file in &files {
        collect(&mut described, file.package(), &file.message_type);
    }
    let mut shapes = Shapes::default();
    for name in described.keys().filter(|name| is_received(name)) {
        shapes.add(&described, name);
    }
    shapes
});

/// What a server receives; what it sends is its own.
fn is_received(name: &str) -> bool {
    name.ends_with("Request") || ["sockpilot.v1.FlowReport", "sockpilot.v1.NodeEvent"].contains(&name)
}

type Described<'d> = HashMap<String, &'d DescriptorProto>;

fn collect<'d>(described: &mut Described<'d>, parent: &str, messages: &'d [DescriptorProto]) {
    for message in messages {
        let name = format!("{parent}.{}", message.name());
        collect(described, &name, &message.nested_type);
        described.insert(name, message);
    }
}

impl Shapes {
    fn add(&mut self, described: &Described<'_>, name: &str) -> usize {
        if let Some(known) = self.by_name.get(name) {
            return *known;
        }
        let index = self.all.len();
        self.by_name.insert(name.to_owned(), index);
        self.all.push(Shape::default());
        let mut shape = Shape::default();
        for field in described.get(name).map(|message| message.field.as_slice()).unwrap_or_default() {
            let (known, bytes) = self.field(described, field);
            shape.bytes += bytes;
            if let (Some(known), Ok(number)) = (known, usize::try_from(field.number())) {
                shape.fields.resize(shape.fields.len().max(number + 1), None);
                shape.fields[number] = Some(known);
            }
        }
        self.all[index] = shape;
        index
    }

    /// And how much of its parent it is. A map is a list of entries.
    fn field(&mut self, described: &Described<'_>, field: &FieldDescriptorProto) -> (Option<Field>, usize) {
        let repeated = field.label() == Label::Repeated;
        match field.r#type() {
            Type::Message => {
                let shape = self.add(described, field.type_name().trim_start_matches('.'));
                let bytes = self.all[shape].bytes + SCALAR_BYTES;
                if repeated { (Some(Field::Many(shape, bytes)), LIST_BYTES) } else { (Some(Field::One(shape)), bytes) }
            }
            Type::String | Type::Bytes => (repeated.then_some(Field::Texts), LIST_BYTES),
            _ if repeated => (Some(Field::Numbers), LIST_BYTES),
            _ => (None, SCALAR_BYTES),
        }
    }

    /// What a message takes beside what it is itself; what cannot be read takes nothing, for it is not decoded either.
    fn bytes(&self, shape: usize, mut wire: &[u8], budget: usize, depth: usize) -> usize {
        let mut sum = 0;
        if depth > DEPTH_MAX {
            return sum;
        }
        while !wire.is_empty() && sum <= budget {
            let Some((number, kind)) = varint(&mut wire).map(|key| ((key >> 3) as usize, key & 7)) else { return sum };
            let field = self.all[shape].fields.get(number).copied().flatten();
            let payload = match kind {
                0 => varint(&mut wire).map(|_| &[][..]),
                1 => take(&mut wire, 8),
                5 => take(&mut wire, 4),
                2 => varint(&mut wire).and_then(|length| take(&mut wire, usize::try_from(length).ok()?)),
                // Groups are in no message of ours.
                _ => None,
            };
            let Some(payload) = payload else { return sum };
            let left = budget.saturating_sub(sum);
            sum += match (field, kind) {
                (Some(Field::One(of)), 2) => self.bytes(of, payload, left, depth + 1),
                (Some(Field::Many(of, bytes)), 2) => bytes + self.bytes(of, payload, left, depth + 1),
                (Some(Field::Texts), 2) => LIST_BYTES + payload.len(),
                (Some(Field::Numbers), 2) => payload.len() * SCALAR_BYTES,
                (Some(Field::Numbers), _) => SCALAR_BYTES,
                (_, 2) => payload.len(),
                _ => 0,
            };
        }
        sum
    }
}

fn take<'w>(wire: &mut &'w [u8], length: usize) -> Option<&'w [u8]> {
    let (taken, rest) = wire.split_at_checked(length)?;
    *wire = rest;
    Some(taken)
}

fn varint(wire: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for at in 0..10 {
        let byte = *wire.get(at)?;
        value |= u64::from(byte & 0x7f) << (7 * at).min(63);
        if byte < 0x80 {
            *wire = &wire[at + 1..];
            return Some(value);
        }
    }
    None
}

/// What is known of a message that a server receives; `None`: of another.
pub(crate) fn shape(name: &str) -> Option<usize> {
    SHAPES.by_name.get(name).copied().filter(|_| is_received(name))
}

/// Refuses a message that takes far more memory than it has bytes.
pub(crate) fn check(shape: usize, wire: &[u8]) -> Result<(), Status> {
    let budget = (FREE_BYTES + wire.len() * TIMES_MAX).min(BYTES_MAX);
    if SHAPES.bytes(shape, wire, budget, 0) <= budget {
        return Ok(());
    }
    Err(Status::out_of_range("the message has far more parts than content"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    fn check(name: &str, wire: &[u8]) -> Result<(), Status> {
        super::check(shape(name).expect("it is received"), wire)
    }

    const REPORT: &str = "sockpilot.v1.FlowReport";
    const EVENT: &str = "sockpilot.v1.NodeEvent";

    fn cell() -> v1::FlowCell {
        let distribution =
            || v1::Distribution { count: 7, mean: 1.5, sketch: vec![3; 60].into(), ..Default::default() };
        v1::FlowCell {
            interval_start_s: 1_700_000_000,
            interval_length_s: 10,
            layer: "policies/web".to_owned(),
            revision: 3,
            choice: "all".to_owned(),
            counts: Some(v1::FlowCounts { flows: 7, established: 7, ..Default::default() }),
            connect_time_us: Some(distribution()),
            srtt_us: Some(distribution()),
            duration_us: Some(distribution()),
            ..Default::default()
        }
    }

    #[test]
    fn what_nodes_send_passes() {
        let report = v1::FlowReport { node_id: "n".to_owned(), cells: vec![cell(); 1_000], ..Default::default() };
        assert!(check(REPORT, &report.encode_to_vec()).is_ok());
        let value = v1::EffectiveValue {
            layer: "policies/web".to_owned(),
            field: "rules[0].set.syn_rto_ms".to_owned(),
            requested: "200".to_owned(),
            effective: "204".to_owned(),
            note: "rounded to timer ticks".to_owned(),
            caveats: vec![],
        };
        let ack = v1::Ack { effective: vec![value; 20_000], ..Default::default() };
        let event = v1::NodeEvent { event: Some(v1::node_event::Event::Ack(ack)) };
        assert!(check(EVENT, &event.encode_to_vec()).is_ok());
    }

    #[test]
    fn what_is_nothing_but_parts_is_refused() {
        let cells = v1::FlowReport { cells: vec![v1::FlowCell::default(); 100_000], ..Default::default() };
        assert!(check(REPORT, &cells.encode_to_vec()).is_err());
        let groups = v1::Measured { groups: vec![v1::MeasuredGroup::default(); 100_000], ..Default::default() };
        let cell = v1::FlowCell { measured: Some(groups), ..Default::default() };
        let report = v1::FlowReport { cells: vec![cell], ..Default::default() };
        assert!(check(REPORT, &report.encode_to_vec()).is_err());
        let ack = v1::Ack { effective: vec![v1::EffectiveValue::default(); 100_000], ..Default::default() };
        let event = v1::NodeEvent { event: Some(v1::node_event::Event::Ack(ack)) };
        assert!(check(EVENT, &event.encode_to_vec()).is_err());
    }

    #[test]
    fn what_people_send_is_looked_at_alike() {
        let update = "sockpilot.v1.UpdatePolicyRequest";
        let rules = vec![v1::Rule::default(); 100_000];
        let policy = v1::Policy { rules, ..v1::Policy::default() };
        let request = v1::UpdatePolicyRequest { policy: Some(policy), ..Default::default() };
        assert!(check(update, &request.encode_to_vec()).is_err());
        let set = v1::Parameters { initial_cwnd_packets: Some(20), ..v1::Parameters::default() };
        let rule = |number| v1::Rule { name: format!("rule-{number}"), set: Some(set.clone()), ..v1::Rule::default() };
        let policy = v1::Policy { rules: (0..1_000).map(rule).collect(), ..v1::Policy::default() };
        let request = v1::UpdatePolicyRequest { policy: Some(policy), ..Default::default() };
        assert!(check(update, &request.encode_to_vec()).is_ok());
        assert_eq!(shape("sockpilot.v1.ListPoliciesResponse"), None, "an answer is what a server says itself");
    }

    #[test]
    fn what_cannot_be_read_is_left_to_the_decoder() {
        for wire in [&[0xff; 20][..], &[0x0a, 0xff, 0x01], &[0x0b], &[]] {
            assert!(check(REPORT, wire).is_ok());
        }
        // A message with a shape takes what Rust says, more or less.
        let shape = SHAPES.by_name["sockpilot.v1.FlowCell"];
        let (ours, real) = (SHAPES.all[shape].bytes, size_of::<v1::FlowCell>());
        assert!(ours * 2 > real && ours < real * 2, "{ours} for {real}");
    }
}
