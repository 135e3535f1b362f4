//! The one table of connection parameters.
//!
//! Everything about a parameter follows from its entry in [`PARAMETERS`]: the field of the wire message, its
//! validation, the conversion to what a kernel wants, the place in the connection's life where the kernel program sets it,
//! and the reference page.

mod definition;
mod slots;
pub mod sysctl;
mod table;

pub use definition::{Action, Encoding, Kind, Parameter, Phase, Question, Times, TooLate};
pub use slots::{
    ESTABLISHED_MASK, KEEPALIVE_SLOTS, LIVE_MASK, REPLY_MASK, REQUEST_MASK, RTO_MAX_SLOT, STICKING_MASK,
    SYN_RETRIES_SLOT, THIN_LINEAR_TIMEOUTS_SLOT, USER_TIMEOUT_SLOT, option_slot, phase_mask, reflect_slot, reply_slot,
    slot_by_name,
};
pub use table::{PARAMETERS, TCP_BPF_IW, TCP_BPF_SNDCWND_CLAMP};
