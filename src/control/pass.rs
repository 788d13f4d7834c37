//! Descriptors over a unix socket (`SCM_RIGHTS`), in batches: a count, then one byte for each batch with the descriptors
//! attached to it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Descriptors of one message; the kernel's bound is 253 (`SCM_MAX_FD`).
pub(crate) const BATCH: usize = 64;
/// What the descriptors are attached to.
const CARRIER: u8 = b'F';

/// Sends one batch of at most `BATCH` descriptors without waiting.
///
/// # Errors
/// As `sendmsg(2)`; `WouldBlock` if there is no room now.
pub(crate) fn send(socket: impl AsFd, batch: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(BATCH))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(batch)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match sendmsg(socket, &[IoSlice::new(&[CARRIER])], &mut control, flags)? {
        1 => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Receives one batch, and waits for it as the socket is told to.
///
/// # Errors
/// As `recvmsg(2)`; `UnexpectedEof` if the other end is closed, `InvalidData` if what came is no batch.
pub(crate) fn receive(socket: impl AsFd) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(BATCH))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut carrier = [0];
    let mut into = [IoSliceMut::new(&mut carrier)];
    let got = recvmsg(socket, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut batch = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            batch.extend(descriptors);
        }
    }
    if got.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if got.bytes != 1 || carrier != [CARRIER] || batch.is_empty() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(batch)
}
