//! The TUN device: the one door through which packets of workloads come and go, and the one file with `unsafe`.
#![expect(unsafe_code, reason = "three ioctls, and descriptors that are handed over raw")]

use netlink_sys::{Socket, TokioSocket};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use rustix::buffer::spare_capacity;
use std::{
    fs::File,
    io::{self, IoSlice, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd},
};
use tokio::io::{Interest, unix::AsyncFd};

/// Bytes of the virtio network header in front of every packet, read or written (`struct virtio_net_hdr`).
pub const VNET_HEADER: usize = 10;
/// Queues of a device at most: one for each data thread, of which an agent has no more. The kernel would take 256.
pub const QUEUES_MAX: u8 = 16;

/// What makes TUN devices.
const MAKER: &str = "/dev/net/tun";

/// `TUN_F_CSUM`: packets come with their checksum left out.
const TUN_F_CSUM: u64 = 0x01;
/// `TUN_F_TSO4`: and as IPv4 segments of up to 64 KiB.
const TUN_F_TSO4: u64 = 0x02;
/// `TUN_F_TSO6`: and as IPv6 segments of up to 64 KiB.
const TUN_F_TSO6: u64 = 0x04;
/// What every kernel has that we run on.
const TUN_F_SEGMENTS: u64 = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
/// `TUN_F_USO4` and `TUN_F_USO6`, only to be had together: and several datagrams as one packet (Linux 6.2).
const TUN_F_USO: u64 = 0x20 | 0x40;

mod request {
    // Numbered as if it took an `int`; it takes the whole, and writes the name back.
    nix::ioctl_readwrite_bad!(tun_set_iff, nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()), libc::ifreq);
    nix::ioctl_write_int!(tun_set_offload, b'T', 208);
    nix::ioctl_write_ptr!(tun_set_vnet_hdr_size, b'T', 216, libc::c_int);
}

/// A TUN device, or one queue of it where it has several: the kernel spreads flows over those by a hash that is the same
/// both ways, and moves one to the queue by which a packet of it was last written. Closing the last one removes the
/// interface; closing another hands its flows to the others, without what waited in it. Never blocks.
#[derive(Debug)]
pub struct Tun {
    file: File,
    name: String,
    has_v6: bool,
    several: bool,
}

impl Tun {
    /// One queue of what [`create`] has made, wherever that is, or another agent of this host, which may have it, too.
    pub fn of(device: OwnedFd, name: &str, has_v6: bool) -> Self {
        let file = File::from(device);
        let several = set_offloads(&file, TUN_F_SEGMENTS | TUN_F_USO).is_ok();
        Self { file, name: name.to_owned(), has_v6, several }
    }

    /// The same queue of the same device, for another agent.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.file.as_fd().try_clone_to_owned()
    }

    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the interface was given an IPv6 address: not where IPv6 is switched off.
    #[must_use]
    pub fn has_v6(&self) -> bool {
        self.has_v6
    }

    /// Whether several datagrams of one flow come and go as one packet.
    #[must_use]
    pub fn is_several(&self) -> bool {
        self.several
    }

    /// Reads one packet that the workload sent, [`VNET_HEADER`] first, behind what the buffer has; give it room for 65 535 +
    /// [`VNET_HEADER`] bytes.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; anything else means that the interface is gone.
    pub fn recv(&self, buffer: &mut Vec<u8>) -> io::Result<()> {
        rustix::io::read(&self.file, spare_capacity(buffer))?;
        Ok(())
    }

    /// Registers the device with the runtime, to wait for packets.
    ///
    /// # Errors
    /// When the runtime cannot watch another descriptor.
    pub fn watch(&self) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
        // SAFETY: the borrow keeps the descriptor open, and the same one, for as long as the registration lives.
        let registered = unsafe { AsyncFd::register_with_interest(self.as_fd(), Interest::READABLE) };
        registered.map_err(io::Error::from)
    }

    /// Writes one packet to the workload, [`VNET_HEADER`] first, from several pieces.
    ///
    /// # Errors
    /// `WouldBlock` or `ENOBUFS` when the kernel does not take it, `EINVAL` when the header does not fit the packet.
    pub fn send(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        (&self.file).write_vectored(pieces)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Creates a device of so many queues in the calling thread's namespace, down and without addresses; one descriptor for
/// each queue, non-blocking.
pub(super) fn create(name: &str, queues: u8) -> io::Result<Vec<OwnedFd>> {
    let files = if queues > 1 { open_several(name, queues)? } else { vec![open_only(name)?] };
    // Both are set for the whole device, by its first queue: this fails if somebody has removed that device meanwhile, so
    // that the others have made one of their own.
    set_header(&files[0])?;
    set_offloads(&files[0], TUN_F_SEGMENTS)?;
    for file in &files {
        fcntl(file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    Ok(files.into_iter().map(OwnedFd::from).collect())
}

/// A device of one queue, which takes no other.
fn open_only(name: &str) -> io::Result<File> {
    let mut configuration = tun::Configuration::default();
    configuration.tun_name(name).platform_config(|platform| {
        platform.vnet_hdr(true);
    });
    let device = tun::create(&configuration).map_err(into_io)?;
    // SAFETY: `into_raw_fd` gives up the descriptor, which is open, and this is its only owner from here on.
    Ok(unsafe { File::from_raw_fd(device.into_raw_fd()) })
}

/// A device of several queues, none of which joins one that is there.
fn open_several(name: &str, queues: u8) -> io::Result<Vec<File>> {
    let kinds = [Queue::First].into_iter().chain((1..queues).map(|_| Queue::Further));
    kinds.map(|kind| open_queue(name, kind)).collect()
}

/// What a queue is to a device of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queue {
    /// With it the device is made; refused when there is an interface of this name.
    First,
    /// It joins the device; refused when that is of one queue, or no TUN device. Where none is, it makes another.
    Further,
}

/// Makes a device of several queues with its first, or gives it another; with the header of [`VNET_HEADER`].
pub(super) fn open_queue(name: &str, kind: Queue) -> io::Result<File> {
    let exclusive = match kind {
        Queue::First => libc::IFF_TUN_EXCL,
        Queue::Further => 0,
    };
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE | exclusive;
    let ifru_flags = (flags as u16).cast_signed();
    let mut request = libc::ifreq { ifr_name: name_of(name)?, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags } };
    let file = File::options().read(true).write(true).open(MAKER)?;
    // SAFETY: the descriptor is open for the call's duration; the kernel reads and writes one `ifreq` through the pointer,
    // which points to a live one that nothing else refers to.
    unsafe { request::tun_set_iff(file.as_raw_fd(), &raw mut request) }?;
    Ok(file)
}

/// A name as the kernel takes it, with a zero at its end.
fn name_of(name: &str) -> io::Result<[libc::c_char; libc::IFNAMSIZ]> {
    let mut bytes = [0; libc::IFNAMSIZ];
    if name.is_empty() || name.len() >= bytes.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an interface's name is 1 to 15 bytes"));
    }
    for (to, from) in bytes.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(bytes)
}

/// A netlink socket that somebody else has opened.
pub(super) fn adopt(socket: OwnedFd) -> Socket {
    // SAFETY: `into_raw_fd` gives up the descriptor, which is open, and this is its only owner from here on.
    unsafe { Socket::from_raw_fd(socket.into_raw_fd()) }
}

/// The same, non-blocking and registered with the runtime that this is called in.
pub(super) fn adopt_async(socket: OwnedFd) -> TokioSocket {
    // SAFETY: as above.
    unsafe { TokioSocket::from_raw_fd(socket.into_raw_fd()) }
}

fn set_header(file: &File) -> io::Result<()> {
    let size = VNET_HEADER as libc::c_int;
    // SAFETY: the descriptor is open for the call's duration; the kernel reads one `int` through the pointer, which points
    // to a live one.
    unsafe { request::tun_set_vnet_hdr_size(file.as_raw_fd(), &raw const size) }?;
    Ok(())
}

fn set_offloads(file: &File, offloads: u64) -> io::Result<()> {
    // SAFETY: the descriptor is open for the call's duration; the kernel takes the mask by value.
    unsafe { request::tun_set_offload(file.as_raw_fd(), offloads) }?;
    Ok(())
}

fn into_io(error: tun::Error) -> io::Error {
    match error {
        tun::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}
