//! The wire contract: generated messages and services ([`v1`]), their descriptors for reflection and JSON, and the
//! conversions between wire and domain types ([`convert`], of outcomes [`cell`]). Messages are written and read by [`codec`].
#![warn(missing_docs)]

pub mod cell;
pub mod codec;
pub mod convert;
mod unfolded;

/// Messages and services of `sockpilot.v1`; the `.proto` files say what they mean.
#[expect(missing_docs, reason = "documented in the .proto files, from which this is generated")]
#[expect(clippy::all, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("sockpilot.v1");
}

/// The encoded `google.protobuf.FileDescriptorSet` of all protos.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
