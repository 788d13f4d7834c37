//! Marks of packets and connections by which capture and the node know each other's. The lower twelve bits, as with
//! Istio; the others belong to whoever else marks packets on the machine.

/// The bits of a mark that are ours.
pub const MARK_MASK: u32 = 0xfff;
/// The node's own connections (Istio's 0x539): never captured.
pub const OWN_MARK: u32 = 0x539;
/// Diverted to the node: what leaves a workload, and answers to a client whose address the node took on.
pub const OUT_MARK: u32 = 0x111;
/// Diverted to the node: what enters a workload from its own machine.
pub const IN_MARK: u32 = 0x112;
/// Of a connection: it leaves by the node, down to the last packet.
pub const LEFT_MARK: u32 = 0x113;
/// Of a connection: begun by a user who is left alone.
pub const PASSED_MARK: u32 = 0x114;

/// The part of a mark that capture looks at.
#[must_use]
pub fn own_bits(mark: u32) -> u32 {
    mark & MARK_MASK
}
