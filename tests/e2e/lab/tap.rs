//! The packets that a place sees.

use super::Place;
use nix::sys::socket::{LinkAddr, recvfrom};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    net::IpAddr,
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Bytes of a packet that are kept, for people.
const KEPT: usize = 96;
/// So that nothing is lost in a burst, while a machine is busy.
const BUFFER: usize = 16 << 20;

/// Packets of a place's devices that somebody wants to know of, without their link's header, until it is ended.
pub struct Tap {
    stop: Arc<AtomicBool>,
    found: Arc<Mutex<Vec<Vec<u8>>>>,
    listening: Option<JoinHandle<()>>,
}

impl Tap {
    /// Listens on these devices of a place, or on all of them.
    pub fn on(place: &Place, devices: &[&str], wanted: impl Fn(&[u8]) -> bool + Send + 'static) -> Self {
        // ETH_P_ALL, in network byte order as packet(7) wants it; DGRAM leaves the link's header out.
        let all = Protocol::from(i32::from(3_u16.to_be()));
        let (socket, devices) = place.inside(|| {
            let index = |name: &&str| nix::net::if_::if_nametoindex(*name).unwrap() as usize;
            let devices: Vec<usize> = devices.iter().map(index).collect();
            (Socket::new(Domain::PACKET, Type::DGRAM, Some(all)).unwrap(), devices)
        });
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        socket.set_recv_buffer_size(BUFFER).unwrap();
        let (stop, found) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, finds) = (Arc::clone(&stop), Arc::clone(&found));
        let listening = thread::spawn(move || {
            let mut packet = vec![0; 65_536];
            // Looked at after each packet: where somebody sends all the time there is no pause.
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut packet) else { continue };
                let by = from.map_or(0, |from| from.ifindex());
                if (devices.is_empty() || devices.contains(&by)) && wanted(&packet[..length]) {
                    finds.lock().unwrap().push(packet[..length.min(KEPT)].to_vec());
                }
            }
        });
        Self { stop, found, listening: Some(listening) }
    }

    /// What was found by now.
    pub fn end(mut self) -> Vec<Vec<u8>> {
        self.stop();
        std::mem::take(&mut *self.found.lock().unwrap())
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A packet's destination, and of TCP and UDP without extension headers the destination port.
pub fn destination(packet: &[u8]) -> Option<(IpAddr, Option<u16>)> {
    let port = |protocol: u8, at: usize| {
        let bytes = packet.get(at + 2..at + 4).filter(|_| protocol == 6 || protocol == 17)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    match packet.first()? >> 4 {
        4 => {
            let to: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            Some((IpAddr::from(to), port(packet[9], usize::from(packet[0] & 15) * 4)))
        }
        6 => {
            let to: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            Some((IpAddr::from(to), port(packet[6], 40)))
        }
        _ => None,
    }
}
