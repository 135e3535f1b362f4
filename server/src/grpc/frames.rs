//! The body of a node's stream: messages as they go over the wire. A snapshot is made into one once; however many nodes get it, it is in
//! memory once.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use futures::{StreamExt, stream::BoxStream};
use http::HeaderMap;
use http_body::{Body, Frame};
use prost::Message;
use sockpilot_proto::v1::{self, server_event::Event};
use tonic::Status;

use super::{SNAPSHOT_BYTES_MAX, convert::fleet::version_to_proto};
use crate::fleet::session::Delivery;

/// Before every message: that it is not compressed, and its length.
const HEADER_BYTES: usize = 5;

/// What goes over the wire, a message at a time, and the status at its end.
pub struct Frames {
    messages: BoxStream<'static, Result<Bytes, Status>>,
    over: bool,
}

impl Frames {
    /// Of a stream that has just been opened.
    pub fn new(messages: BoxStream<'static, Result<Bytes, Status>>) -> Self {
        Self { messages, over: false }
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let status = match ready!(self.messages.poll_next_unpin(cx)) {
            Some(Ok(message)) => return Poll::Ready(Some(Ok(Frame::data(message)))),
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

/// An event on the wire.
///
/// # Errors
/// If it is larger than any snapshot may be.
pub fn message(event: Event) -> Result<Bytes, Status> {
    let event = v1::ServerEvent { event: Some(event) };
    let bytes = event.encoded_len();
    let length = u32::try_from(bytes).ok().filter(|_| bytes <= SNAPSHOT_BYTES_MAX);
    let length = length.ok_or_else(|| {
        Status::out_of_range(format!("the snapshot has {bytes} bytes; the most is {SNAPSHOT_BYTES_MAX}"))
    })?;
    let mut message = BytesMut::with_capacity(HEADER_BYTES + bytes);
    message.put_u8(0);
    message.put_u32(length);
    event.encode_raw(&mut message);
    Ok(message.freeze())
}

/// A snapshot on the wire, shared by all nodes that get it under this version.
///
/// # Errors
/// If it is larger than any may be.
pub fn snapshot(delivery: &Delivery, answer_within: Duration) -> Result<Bytes, Status> {
    let Delivery { version, content, .. } = delivery;
    if let Some((sent, message)) = content.sent.get()
        && sent == version
    {
        return Ok(message.clone());
    }
    let (version_sent, layers) = (Some(version_to_proto(version)), content.layers.clone());
    let answer_within_ms = u32::try_from(answer_within.as_millis()).unwrap_or(u32::MAX);
    let message = message(Event::Snapshot(v1::Snapshot { version: version_sent, layers, answer_within_ms }))?;
    // Under a later version it goes to those that connect, one by one.
    let _ = content.sent.set((*version, message.clone()));
    Ok(message)
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Instant};

    use uuid::Uuid;

    use super::*;
    use crate::fleet::{node::Version, resolve::Content};

    fn delivery(generation: u64, content: &Arc<Content>) -> Delivery {
        let version = Version { epoch: Uuid::nil(), generation, hash: content.hash };
        let now = Instant::now();
        Delivery { version, content: content.clone(), committed: now, known: now }
    }

    fn content(bytes: usize) -> Arc<Content> {
        Arc::new(Content::new([3; 32], vec![9; bytes].into(), [].into()))
    }

    fn read(message: &[u8]) -> v1::ServerEvent {
        let (header, message) = message.split_at(HEADER_BYTES);
        assert_eq!(header[0], 0);
        assert_eq!(header[1..], u32::try_from(message.len()).expect("small").to_be_bytes());
        v1::ServerEvent::decode(message).expect("protocol buffers")
    }

    #[test]
    fn events_are_what_protocol_buffers_say() {
        let heartbeat = Event::Heartbeat(v1::Heartbeat::default());
        assert_eq!(read(&message(heartbeat.clone()).expect("it fits")).event, Some(heartbeat));
        for bytes in [0, 1, 127, 128, 20_000, 3_000_000] {
            let delivery = delivery(7, &content(bytes));
            let Some(Event::Snapshot(read)) =
                read(&snapshot(&delivery, Duration::from_millis(40)).expect("it fits")).event
            else {
                panic!("another event")
            };
            assert_eq!(read.version, Some(version_to_proto(&delivery.version)));
            assert_eq!((read.layers, read.answer_within_ms), (delivery.content.layers.clone(), 40));
        }
    }

    #[test]
    fn a_change_is_one_message_for_all_and_another_version_another() {
        let content = content(1_000);
        let first = snapshot(&delivery(7, &content), Duration::ZERO).expect("it fits");
        let again = snapshot(&delivery(7, &content), Duration::ZERO).expect("it fits");
        assert_eq!(first.as_ptr(), again.as_ptr());
        let later = delivery(8, &content);
        let Some(Event::Snapshot(read)) = read(&snapshot(&later, Duration::ZERO).expect("it fits")).event else {
            panic!("another")
        };
        assert_eq!(read.version, Some(version_to_proto(&later.version)));
    }

    #[test]
    fn what_is_too_large_ends_the_stream() {
        let refused = snapshot(&delivery(1, &content(SNAPSHOT_BYTES_MAX)), Duration::ZERO).expect_err("too large");
        assert_eq!(refused.code(), tonic::Code::OutOfRange);
    }
}
