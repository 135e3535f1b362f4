//! The ring buffer of flow records, read without taking records out.
//!
//! aya's reader takes a record out as soon as it is read. Here records must stay until what was made of them is safe on disk,
//! so that a killed daemon loses none and counts none twice; and the position must be known, to be stored with it. The
//! layout is the kernel's interface (kernel/bpf/ringbuf.c): a page with the consumer's position, a page with the
//! producer's, then the data, mapped twice in a row so that no record is broken.

use std::{
    io,
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    slice,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use sockpilot_policy::layout::FlowRecord;

use super::{KernelError, Map, plain::Plain, sys};

const PAGE: usize = 4096;
const HEADER: u64 = 8;
const BUSY: u32 = 1 << 31;
const DISCARD: u32 = 1 << 30;

/// The ring buffer, mapped.
#[derive(Debug)]
pub(super) struct Ring {
    consumer: NonNull<u8>,
    producer: NonNull<u8>,
    /// Of the data. Another layout may have another size.
    bytes: usize,
}

// SAFETY: the mappings belong to this value alone; the kernel's side is synchronised by atomics.
unsafe impl Send for Ring {}

impl Ring {
    pub(super) fn open(map: &Map<FlowRecord>) -> Result<Self, KernelError> {
        let bytes = sys::map_info(map.fd.as_fd(), map.name)?.max_entries as usize;
        let write = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let consumer = Self::map(map, PAGE, write, 0)?;
        match Self::map(map, PAGE + 2 * bytes, ProtFlags::PROT_READ, PAGE) {
            Ok(producer) => Ok(Self { consumer, producer, bytes }),
            Err(error) => {
                unmap(consumer, PAGE);
                Err(error)
            }
        }
    }

    fn map(
        map: &Map<FlowRecord>,
        length: usize,
        protection: ProtFlags,
        offset: usize,
    ) -> Result<NonNull<u8>, KernelError> {
        let length = NonZeroUsize::new(length).unwrap_or(NonZeroUsize::MIN);
        // SAFETY: a new mapping of the map's memory.
        unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, map.fd.as_fd(), offset as i64) }
            .map(NonNull::cast)
            .map_err(|error| KernelError::Call {
                call: "mmap",
                subject: map.name.to_owned(),
                source: io::Error::from(error),
            })
    }

    pub(super) fn position(&self) -> u64 {
        self.consumer_position().load(Ordering::Acquire)
    }

    pub(super) fn release(&mut self, position: u64) {
        // The kernel would take a position beyond the producer's for a ring full of nothing.
        let end = self.producer_position().load(Ordering::Acquire);
        self.consumer_position().store(position.min(end), Ordering::Release);
    }

    pub(super) fn peek(&mut self, max_records: usize, each: &mut dyn FnMut(&FlowRecord)) -> u64 {
        let mut at = self.position();
        let end = self.producer_position().load(Ordering::Acquire);
        let mut shown = 0;
        while at < end && shown < max_records {
            let header = self.data(at);
            // SAFETY: records are aligned to 8 bytes and begin with their length.
            let length = unsafe { header.cast::<AtomicU32>().as_ref() }.load(Ordering::Acquire);
            if length & BUSY != 0 {
                break;
            }
            let bytes = length & !DISCARD;
            if length & DISCARD == 0 {
                // SAFETY: so long, written completely, and not overwritten before it is released.
                let bytes = unsafe { slice::from_raw_parts(self.data(at + HEADER).as_ptr(), bytes as usize) };
                show(bytes, each);
                shown += 1;
            }
            at += (u64::from(bytes) + HEADER).next_multiple_of(8);
        }
        at
    }

    /// Whether every record that was written has been released.
    pub(super) fn is_empty(&self) -> bool {
        self.position() == self.producer_position().load(Ordering::Acquire)
    }

    fn consumer_position(&self) -> &AtomicU64 {
        // SAFETY: the first word of the consumer's page.
        unsafe { self.consumer.cast().as_ref() }
    }

    fn producer_position(&self) -> &AtomicU64 {
        // SAFETY: the first word of the producer's page.
        unsafe { self.producer.cast().as_ref() }
    }

    fn data(&self, position: u64) -> NonNull<u8> {
        let at = PAGE + (position as usize & (self.bytes - 1));
        // SAFETY: within the mapping, which holds the data twice.
        unsafe { self.producer.add(at) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        unmap(self.consumer, PAGE);
        unmap(self.producer, PAGE + 2 * self.bytes);
    }
}

/// Shows a record. Of another layout, it is longer and ends with what is not known here, or shorter, and what it lacks is zero.
fn show(bytes: &[u8], each: &mut dyn FnMut(&FlowRecord)) {
    if bytes.len() == size_of::<FlowRecord>() {
        // SAFETY: as long as a record, and records in the ring are aligned as they are.
        return each(unsafe { &*bytes.as_ptr().cast() });
    }
    let mut record = FlowRecord::zeroed();
    let known = bytes.len().min(size_of::<FlowRecord>());
    record.bytes_mut()[..known].copy_from_slice(&bytes[..known]);
    each(&record);
}

fn unmap(address: NonNull<u8>, length: usize) {
    // SAFETY: a mapping made in `open`, with this length. It cannot fail then.
    let _ = unsafe { munmap(address.cast(), length) };
}
