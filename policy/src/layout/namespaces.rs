//! How many connections are open in each network namespace.

/// Network namespaces in which connections are counted while they are open; a power of two.
pub const NAMESPACES_MAX: usize = 16_384;
/// Places where a namespace may stand in its table: the one that its cookie says, and those after it.
pub const NAMESPACE_PLACES: usize = 8;

/// A network namespace with connections that are stamped and have not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C, align(8))]
pub struct Namespace {
    /// Its cookie; 0: nobody's place yet. It stays when the last connection has ended, until another one needs the place.
    pub cookie: u64,
    /// How many, modulo 2^64: ends may have been counted of which the beginning found no room.
    pub open: u64,
}

/// All of them, each in one of [`NAMESPACE_PLACES`] from its cookie on. Not a hash map of the kernel's, of which a look-up costs
/// more than all other counting of a connection.
pub type NamespaceTable = [Namespace; NAMESPACES_MAX];
