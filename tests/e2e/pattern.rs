//! A stream of bytes in which every word tells its place: a byte lost, doubled, moved or changed is found where it is.

use std::io::{ErrorKind, Read, Write};

/// Bytes that are made and compared at a time.
const BLOCK: usize = 64 * 1024;

fn word(number: u64, seed: u64) -> [u8; 8] {
    (number ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29).to_le_bytes()
}

/// What the stream has from `offset` on. Tests are built without optimisation: word by word, and no more than is asked for.
fn fill(bytes: &mut [u8], offset: u64, seed: u64) {
    let (first, skip) = (offset / 8, (offset % 8) as usize);
    let (begun, whole) = bytes.split_at_mut(bytes.len().min(8 - skip));
    begun.copy_from_slice(&word(first, seed)[skip..skip + begun.len()]);
    for (bytes, number) in whole.chunks_mut(8).zip(first + 1..) {
        bytes.copy_from_slice(&word(number, seed)[..bytes.len()]);
    }
}

/// Writes `length` bytes of the stream `seed`.
pub fn write(mut to: impl Write, length: u64, seed: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; BLOCK];
    let mut offset = 0;
    while offset < length {
        let size = usize::try_from((length - offset).min(BLOCK as u64)).unwrap();
        fill(&mut buffer[..size], offset, seed);
        to.write_all(&buffer[..size])?;
        offset += size as u64;
    }
    Ok(())
}

/// Reads to the end of the stream and checks every byte; returns how many there were.
pub fn read_to_end(from: impl Read, seed: u64) -> std::io::Result<u64> {
    read(from, u64::MAX, seed)
}

/// Reads at most `length` bytes and checks every one; returns how many there were.
pub fn read(mut from: impl Read, length: u64, seed: u64) -> std::io::Result<u64> {
    let (mut buffer, mut expected) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut offset = 0;
    while offset < length {
        let want = usize::try_from((length - offset).min(BLOCK as u64)).unwrap();
        let got = match from.read(&mut buffer[..want]) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        fill(&mut expected[..got], offset, seed);
        if buffer[..got] != expected[..got] {
            let at = (0..got).find(|at| buffer[*at] != expected[*at]).unwrap_or(0);
            panic!("the stream differs at byte {} of a read of {got} at {offset}", offset + at as u64);
        }
        offset += got as u64;
    }
    Ok(offset)
}

#[test]
fn it_is_the_same_wherever_it_is_read_from() {
    let mut all = [0; 100];
    fill(&mut all, 0, 7);
    for from in 0..40 {
        for length in 0..60 {
            let mut part = vec![0; length];
            fill(&mut part, from as u64, 7);
            assert_eq!(part, all[from..from + length], "{length} from {from}");
        }
    }
}

#[test]
fn a_changed_byte_is_found() {
    let mut bytes = Vec::new();
    write(&mut bytes, 200_001, 7).unwrap();
    assert_eq!(read_to_end(&bytes[..], 7).unwrap(), 200_001);
    bytes[150_000] ^= 1;
    let broken = std::panic::catch_unwind(|| read_to_end(&bytes[..], 7));
    assert!(broken.is_err());
}
