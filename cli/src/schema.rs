//! The wire contract as data: descriptors, and what the tool knows beyond them.

use prost_reflect::{DescriptorPool, DynamicMessage, EnumDescriptor, MessageDescriptor};
use std::sync::LazyLock;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(sockpilot_proto::FILE_DESCRIPTOR_SET).expect("the built-in descriptor set is sound")
});

/// Fields that the server writes; in a file they are read over, so that what `get -o yaml` prints can be applied again.
pub const OUTPUT_ONLY: [&str; 9] =
    ["uid", "revision", "create_time", "creator", "notes", "state", "start_time", "end_time", "shipped_arm"];

/// The descriptor of a message of `sockpilot.v1`.
pub fn message(name: &str) -> MessageDescriptor {
    POOL.get_message_by_name(&format!("sockpilot.v1.{name}")).expect("a message of the contract")
}

/// A generated message as a dynamic one.
pub fn dynamic<M: prost::Message>(name: &str, message_value: &M) -> DynamicMessage {
    let mut dynamic = DynamicMessage::new(message(name));
    dynamic.transcode_from(message_value).expect("generated code and descriptors come from the same files");
    dynamic
}

/// What all values of an enum begin with: `DIRECTION_`.
fn enum_prefix(descriptor: &EnumDescriptor) -> String {
    let zero = descriptor.default_value();
    zero.name().strip_suffix("UNSPECIFIED").unwrap_or_default().to_owned()
}

/// The short form of an enum value: `active` for `DIRECTION_ACTIVE`.
pub fn short_enum(descriptor: &EnumDescriptor, name: &str) -> String {
    name.strip_prefix(&enum_prefix(descriptor)).unwrap_or(name).to_ascii_lowercase()
}

/// The full name of an enum value given in full or in short form.
pub fn full_enum(descriptor: &EnumDescriptor, text: &str) -> Option<String> {
    let full = format!("{}{}", enum_prefix(descriptor), text.to_ascii_uppercase().replace('-', "_"));
    [text, &full].into_iter().find_map(|name| Some(descriptor.get_value_by_name(name)?.name().to_owned()))
}

/// The short forms of all values but the unspecified one.
pub fn short_enums(descriptor: &EnumDescriptor) -> Vec<String> {
    descriptor.values().filter(|v| v.number() != 0).map(|v| short_enum(descriptor, v.name())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enum_values_have_short_forms() {
        let direction = POOL.get_enum_by_name("sockpilot.v1.Direction").unwrap();
        assert_eq!(short_enums(&direction), ["active", "passive"]);
        assert_eq!(full_enum(&direction, "active").as_deref(), Some("DIRECTION_ACTIVE"));
        assert_eq!(full_enum(&direction, "DIRECTION_PASSIVE").as_deref(), Some("DIRECTION_PASSIVE"));
        assert_eq!(full_enum(&direction, "sideways"), None);
        let outcome = POOL.get_enum_by_name("sockpilot.v1.Outcome").unwrap();
        assert_eq!(short_enums(&outcome), ["established", "failed", "reset", "timed_out", "still_open", "abandoned"]);
        assert_eq!(full_enum(&outcome, "timed-out").as_deref(), Some("OUTCOME_TIMED_OUT"));
    }

    #[test]
    fn output_only_fields_exist() {
        for field in OUTPUT_ONLY {
            assert!(message("Experiment").get_field_by_name(field).is_some(), "{field}");
        }
    }
}
