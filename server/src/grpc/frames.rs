//! The body of a node's stream. A snapshot's layers are handed to the transport as they are: however many nodes get them, they are
//! in memory once.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes, BytesMut};
use futures::{StreamExt, stream::BoxStream};
use http::HeaderMap;
use http_body::{Body, Frame};
use prost::{Message, encode_length_delimiter, length_delimiter_len};
use sockpilot_proto::v1::{self, server_event::Event};
use tonic::Status;

use super::SNAPSHOT_BYTES_MAX;

/// Of `ServerEvent.snapshot` and `Snapshot.layers`: the field's number, and that a length follows.
const SNAPSHOT_KEY: u8 = 1 << 3 | 2;
const LAYERS_KEY: u8 = 2 << 3 | 2;
/// Before every message: that it is not compressed, and its length.
const HEADER_BYTES: usize = 5;

/// Events as they go over the wire, and the status at their end.
pub struct Frames {
    events: BoxStream<'static, Result<v1::ServerEvent, Status>>,
    /// The second part of the event whose first part was taken.
    rest: Option<Bytes>,
    over: bool,
}

impl Frames {
    /// Of a stream that has just been opened.
    pub fn new(events: BoxStream<'static, Result<v1::ServerEvent, Status>>) -> Self {
        Self { events, rest: None, over: false }
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(rest) = self.rest.take() {
            return Poll::Ready(Some(Ok(Frame::data(rest))));
        }
        if self.over {
            return Poll::Ready(None);
        }
        let status = match ready!(self.events.poll_next_unpin(cx)) {
            Some(Ok(event)) => match parts(event) {
                Ok((first, rest)) => {
                    self.rest = rest;
                    return Poll::Ready(Some(Ok(Frame::data(first))));
                }
                Err(status) => status,
            },
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.over = true;
        let mut trailers = HeaderMap::new();
        // Only a message that no header can hold is an error; the code is there then.
        let _ = status.add_header(&mut trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

/// An event on the wire; the layers of a snapshot are the second part.
fn parts(event: v1::ServerEvent) -> Result<(Bytes, Option<Bytes>), Status> {
    let Some(Event::Snapshot(v1::Snapshot { version, layers })) = event.event else {
        let mut whole = header(event.encoded_len())?;
        event.encode_raw(&mut whole);
        return Ok((whole.freeze(), None));
    };
    let head = v1::Snapshot { version, layers: Bytes::new() };
    // An empty field is not written.
    let key = if layers.is_empty() { 0 } else { 1 + length_delimiter_len(layers.len()) };
    let snapshot = head.encoded_len() + key + layers.len();
    let mut first = header(1 + length_delimiter_len(snapshot) + snapshot)?;
    let no_room = |error| Status::internal(format!("a snapshot cannot be written: {error}"));
    first.put_u8(SNAPSHOT_KEY);
    encode_length_delimiter(snapshot, &mut first).map_err(no_room)?;
    head.encode_raw(&mut first);
    if layers.is_empty() {
        return Ok((first.freeze(), None));
    }
    first.put_u8(LAYERS_KEY);
    encode_length_delimiter(layers.len(), &mut first).map_err(no_room)?;
    Ok((first.freeze(), Some(layers)))
}

/// The beginning of a message of so many bytes.
fn header(bytes: usize) -> Result<BytesMut, Status> {
    let length = u32::try_from(bytes).ok().filter(|_| bytes <= SNAPSHOT_BYTES_MAX);
    let length = length.ok_or_else(|| {
        Status::out_of_range(format!("the snapshot has {bytes} bytes; the most is {SNAPSHOT_BYTES_MAX}"))
    })?;
    let mut header = BytesMut::with_capacity(HEADER_BYTES);
    header.put_u8(0);
    header.put_u32(length);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(layers: &Bytes) -> v1::ServerEvent {
        let version = v1::SnapshotVersion {
            database_epoch: "6b6f6e74-726f-4c6c-8000-000000000001".to_owned(),
            generation: 7,
            content_hash: vec![3; 32].into(),
        };
        let snapshot = v1::Snapshot { version: Some(version), layers: layers.clone() };
        v1::ServerEvent { event: Some(Event::Snapshot(snapshot)) }
    }

    #[test]
    fn events_are_what_protocol_buffers_say() {
        let heartbeat = v1::ServerEvent { event: Some(Event::Heartbeat(v1::Heartbeat::default())) };
        let snapshots = [0, 1, 127, 128, 20_000, 3_000_000].map(|bytes| snapshot(&vec![9; bytes].into()));
        for event in snapshots.into_iter().chain([heartbeat, v1::ServerEvent { event: None }]) {
            let (first, rest) = parts(event.clone()).expect("it fits");
            let whole = [first, rest.unwrap_or_default()].concat();
            let (header, message) = whole.split_at(HEADER_BYTES);
            assert_eq!(message, event.encode_to_vec());
            assert_eq!(header[0], 0);
            assert_eq!(header[1..], u32::try_from(message.len()).expect("small").to_be_bytes());
        }
    }

    #[test]
    fn layers_are_not_copied() {
        let layers = Bytes::from(vec![1; 1_000]);
        let (_, rest) = parts(snapshot(&layers)).expect("it fits");
        assert_eq!(rest.expect("the layers").as_ptr(), layers.as_ptr());
    }

    #[test]
    fn what_is_too_large_ends_the_stream() {
        let refused = parts(snapshot(&vec![0; SNAPSHOT_BYTES_MAX].into())).expect_err("too large");
        assert_eq!(refused.code(), tonic::Code::OutOfRange);
    }
}
