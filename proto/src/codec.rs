//! How messages become bytes, with buffers that fit small messages: a server has two for every node that is connected, for as
//! long as it is, and what passes through them is mostly signs of life. What a server receives is looked at before it takes memory.

use std::marker::PhantomData;

use bytes::{Buf, Bytes};
use prost::{Message, Name};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder},
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use crate::unfolded;

/// What a buffer holds at first, in bytes; it grows with what passes.
const BUFFER_BYTES: usize = 256;
/// Messages are gathered up to so many bytes before they are sent.
const GATHERED_BYTES: usize = 32 << 10;

/// Reads a message that came as it is on the wire, if it takes no more memory than it may.
///
/// # Errors
/// OUT_OF_RANGE: it takes far more memory than it has bytes. INVALID_ARGUMENT: it is none.
pub fn decode<U: Message + Name + Default>(wire: Bytes) -> Result<U, Status> {
    if let Some(shape) = unfolded::shape(&U::full_name()) {
        unfolded::check(shape, &wire)?;
    }
    U::decode(wire).map_err(|error| Status::invalid_argument(format!("the message is no {}: {error}", U::full_name())))
}

/// As [`ProstCodec`], but what is read stays as it is on the wire: [`decode`] takes its time elsewhere.
#[derive(Debug)]
pub struct Undecoded<T>(PhantomData<T>);

impl<T> Default for Undecoded<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + Send + 'static> Codec for Undecoded<T> {
    type Encode = T;
    type Decode = Bytes;
    type Encoder = ProstEncoder<T>;
    type Decoder = Wire;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, ()>::raw_encoder(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        Wire
    }
}

/// A message as it is on the wire.
#[derive(Debug)]
pub struct Wire;

impl Decoder for Wire {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(source.copy_to_bytes(source.remaining())))
    }
}

/// Protocol buffers, `T` to be written and `U` to be read.
#[derive(Debug)]
pub struct SmallBuffers<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallBuffers<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallBuffers<T, U>
where
    T: Message + Send + 'static,
    U: Message + Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Measured<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER_BYTES, GATHERED_BYTES))
    }

    fn decoder(&mut self) -> Self::Decoder {
        let inner = ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER_BYTES, GATHERED_BYTES));
        Measured { inner, shape: unfolded::shape(&U::full_name()) }
    }
}

/// Refuses a request that takes far more memory than it has bytes, and reads all others.
#[derive(Debug)]
pub struct Measured<U> {
    inner: ProstDecoder<U>,
    shape: Option<usize>,
}

impl<U: Message + Default> Decoder for Measured<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        if let Some(shape) = self.shape {
            // The whole message: it is in one piece.
            unfolded::check(shape, source.chunk())?;
        }
        self.inner.decode(source)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.inner.buffer_settings()
    }
}
