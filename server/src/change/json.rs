//! Messages as JSON, as the contract has them.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;

static DESCRIPTORS: LazyLock<Result<DescriptorPool, prost_reflect::DescriptorError>> =
    LazyLock::new(|| DescriptorPool::decode(sockpilot_proto::FILE_DESCRIPTOR_SET));

/// A message of `sockpilot.v1`. Its maps are sorted, so equal messages are equal text.
///
/// # Errors
/// If there is no message of that name, or this is another one.
pub fn of_message<M: Message>(name: &str, message: &M) -> Result<Value, String> {
    let pool = DESCRIPTORS.as_ref().map_err(ToString::to_string)?;
    let name = format!("sockpilot.v1.{name}");
    let descriptor = pool.get_message_by_name(&name).ok_or_else(|| format!("{name} is not described"))?;
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice());
    let dynamic = dynamic.map_err(|error| error.to_string())?;
    serde_json::to_value(&dynamic).map_err(|error| error.to_string())
}

/// The same for people to see: if it cannot be shown, that says why.
#[must_use]
pub fn shown<M: Message>(name: &str, message: &M) -> Value {
    of_message(name, message).unwrap_or_else(Value::String)
}
