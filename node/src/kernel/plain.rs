//! Types that the kernel program and the daemon share as plain memory.

use sockpilot_policy::layout::{
    Active, Attachment, Breaker, COUNTERS, Changes, ChoiceTable, FlowRecord, Generation, Handover, MaskTable,
    NameTable, NamespaceTable, OwnerOffsets, PortTable, ProbeInput, RuleTable, SocketOffsets, Stamp, TrialRun,
};

/// Memory without padding, of which every pattern of bits is a value.
///
/// # Safety
/// Only for `#[repr(C)]` types of numbers and arrays of numbers without implicit padding.
pub(super) unsafe trait Plain: Sized {
    fn bytes(&self) -> &[u8] {
        // SAFETY: no padding, so every byte is defined.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }

    /// A value of zeros on the heap; tables are too large for a stack.
    fn zeroed() -> Box<Self> {
        // SAFETY: zeros are a value.
        unsafe { Box::new_zeroed().assume_init() }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and every pattern of bits is a value.
        unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(self).cast(), size_of::<Self>()) }
    }
}

macro_rules! plain {
    ($($type:ty),* $(,)?) => { $(
        // SAFETY: see the rules of `policy::layout`.
        unsafe impl Plain for $type {}
    )* };
}

plain!(
    Active,
    Attachment,
    Breaker,
    Changes,
    ChoiceTable,
    FlowRecord,
    Generation,
    Handover,
    MaskTable,
    OwnerOffsets,
    PortTable,
    ProbeInput,
    RuleTable,
    SocketOffsets,
    Stamp,
    TrialRun,
    NameTable,
    NamespaceTable,
    [u64; COUNTERS],
    u32,
    u64,
);

#[cfg(test)]
mod tests {
    use sockpilot_policy::layout::{
        BucketKey, ChoiceEntry, FlowKey, Hits, Namespace, PendingKey, Reported, RuleEntry, TRIALS_MAX, TrialEntry,
    };

    use super::*;

    /// The sum of the fields' sizes is the size: there is no padding.
    #[test]
    fn shared_types_have_no_padding() {
        assert_eq!(size_of::<FlowKey>(), 16 + 16 + 2 + 2 + 1 + 1 + 2);
        assert_eq!(size_of::<Active>(), 4 + 4 + 8 + 8 + 4 + 4 + 8);
        assert_eq!(size_of::<Generation>(), 5 * 8 + 4 + 16 * 4 + 288 * 2 + 162 * 2 + 2 + 2 + 2 + 2);
        assert_eq!(size_of::<BucketKey>(), 3 * 8 + 4 * 8);
        assert_eq!(size_of::<RuleEntry>(), 4 * 2 + 8 + size_of::<BucketKey>() + 6 * 8 + 2 * 8 * 2);
        assert_eq!(size_of::<ChoiceEntry>(), 8 + 2 * 4 + 32 * 4);
        assert_eq!(size_of::<Breaker>(), 3 * 8 + 4 * 4);
        assert_eq!(size_of::<Handover>(), 2 * 4 + 8 + 8 * 8 + 6 * 8);
        assert_eq!(size_of::<Attachment>(), 4 + 2 * 2);
        assert_eq!(size_of::<Namespace>(), 2 * 8);
        assert_eq!(size_of::<Hits>(), 8 + 4 + 4 + 64 * 2);
        assert_eq!(size_of::<Stamp>(), 7 * 8 + 8 * 4 + 2 * 32 * 4 + 16 + 4 * 4 + 64 * 2 + size_of::<Reported>());
        assert_eq!(size_of::<Reported>(), 3 * 8 + 8 * 4);
        assert_eq!(size_of::<Changes>(), 3 * 8 + 3 * 32 * 4 + 2 * 16);
        assert_eq!(size_of::<PendingKey>(), size_of::<FlowKey>() + 8);
        assert_eq!(size_of::<FlowRecord>(), size_of::<FlowKey>() + 8 * 8 + 22 * 4 + 64 * 2 + size_of::<Reported>());
        assert_eq!(size_of::<ProbeInput>(), size_of::<FlowKey>() + 8);
        assert_eq!(size_of::<TrialEntry>(), 5 * 4 + 2 * 16);
        assert_eq!(size_of::<TrialRun>(), 8 + 2 * 4 + TRIALS_MAX * size_of::<TrialEntry>());
    }
}
