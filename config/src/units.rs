//! Quantities with their units: rates, spans of time, ports, protocols.

mod share;
mod span;

pub use share::Share;
pub use span::Span;

use std::{fmt, num::NonZeroU64, str::FromStr};

/// A rate of payload bytes. Written in bits per second (`64 kbit/s`, `50 mbit/s`, `1.5 gbit/s`) or bytes per second
/// (`2 MB/s`); kept as bytes per second, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteRate(NonZeroU64);

impl ByteRate {
    /// A rate of so many bytes per second; `None` for zero.
    #[must_use]
    pub fn per_second(bytes: u64) -> Option<Self> {
        NonZeroU64::new(bytes).map(Self)
    }

    /// Bytes per second.
    #[must_use]
    pub fn bytes_per_second(self) -> u64 {
        self.0.get()
    }
}

/// A rate of new sessions, written `100/s`; never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpenRate(std::num::NonZeroU32);

impl OpenRate {
    /// A rate of so many new sessions per second; `None` for zero.
    #[must_use]
    pub fn per_second(sessions: u32) -> Option<Self> {
        std::num::NonZeroU32::new(sessions).map(Self)
    }

    /// New sessions per second.
    #[must_use]
    pub fn sessions_per_second(self) -> std::num::NonZeroU32 {
        self.0
    }
}

/// What a session speaks below the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP (RFC 9293).
    Tcp,
    /// UDP (RFC 768).
    Udp,
}

impl Protocol {
    /// `tcp` or `udp`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A port of a service: number and protocol, written `8080/tcp`, or `8080` for TCP. Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port {
    /// The port number, 1 to 65535.
    pub number: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

impl serde::Serialize for Port {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Port {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for ByteRate {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl serde::Serialize for OpenRate {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {form}")]
pub struct UnitError {
    text: String,
    form: &'static str,
}

impl UnitError {
    pub(crate) fn new(text: &str, form: &'static str) -> Self {
        Self { text: text.into(), form }
    }
}

/// How a rate of bytes is written, for messages.
const BYTE_RATE_FORM: &str =
    "a rate: write bits as in `64 kbit/s`, `50 mbit/s`, `1.5 gbit/s`, or bytes as in `2 MB/s`; at least 8 bit/s";
/// Units of rates in bits, in the order in which a rate looks for the one that suits it.
const BIT_UNITS: [(&str, u128); 4] = [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1_000), ("bit", 1)];
/// Digits after the point that a rate may have: enough for a bit per second in the largest unit.
const FRACTION_MAX: usize = 9;

impl fmt::Display for ByteRate {
    /// In bits per second, in the largest unit in which it is exact with three digits after the point.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = u128::from(self.0.get()) * 8;
        let suits = |(_, unit): &(&str, u128)| bits >= *unit && bits * 1000 % unit == 0;
        let (name, unit) = BIT_UNITS.into_iter().find(suits).unwrap_or(("bit", 1));
        let thousandths = bits * 1000 % (unit * 1000) / unit;
        let fraction = if thousandths == 0 { String::new() } else { format!(".{thousandths:03}") };
        write!(f, "{}{} {name}/s", bits / unit, fraction.trim_end_matches('0'))
    }
}

impl FromStr for ByteRate {
    type Err = UnitError;
    /// Rounds down to whole bytes per second.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError::new(text, BYTE_RATE_FORM);
        let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').ok_or_else(wrong)?;
        let (number, unit) = text.split_at(end);
        let unit = unit.trim().strip_suffix("/s").and_then(|unit| bits_in(unit.trim_end())).ok_or_else(wrong)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if whole.is_empty() || fraction.is_empty() || fraction.contains('.') || fraction.len() > FRACTION_MAX {
            return Err(wrong());
        }
        let scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| wrong())?);
        let whole: u64 = whole.parse().map_err(|_| wrong())?;
        let fraction: u64 = fraction.parse().map_err(|_| wrong())?;
        let bits = u128::from(whole) * unit + u128::from(fraction) * unit / scale;
        u64::try_from(bits / 8).ok().and_then(Self::per_second).ok_or_else(wrong)
    }
}

/// Bits in a unit of data; `None` for one that is not known, or as ambiguous as `Mb`.
fn bits_in(unit: &str) -> Option<u128> {
    Some(match unit {
        "bit" => 1,
        "kbit" | "Kbit" => 1_000,
        "mbit" | "Mbit" => 1_000_000,
        "gbit" | "Gbit" => 1_000_000_000,
        "B" => 8,
        "kB" | "KB" => 8_000,
        "MB" => 8_000_000,
        "GB" => 8_000_000_000,
        "KiB" => 8 << 10,
        "MiB" => 8 << 20,
        "GiB" => 8 << 30,
        _ => return None,
    })
}

impl fmt::Display for OpenRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.0)
    }
}

impl FromStr for OpenRate {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError::new(text, "a rate of new sessions: write `100/s`, at least `1/s`");
        let number = text.strip_suffix("/s").ok_or_else(wrong)?.trim_end();
        if !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        number.parse().ok().and_then(Self::per_second).ok_or_else(wrong)
    }
}

impl FromStr for Port {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError::new(text, "a port: write 8080/tcp or 53/udp, with a number from 1 to 65535");
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(wrong()),
        };
        if !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        match number.parse() {
            Ok(0) | Err(_) => Err(wrong()),
            Ok(number) => Ok(Self { number, protocol }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rates_are_read_in_bits_and_bytes() {
        for (text, bytes, shown) in [
            ("50 mbit/s", 6_250_000, "50 mbit/s"),
            ("64 kbit/s", 8_000, "64 kbit/s"),
            ("1.5 gbit/s", 187_500_000, "1.5 gbit/s"),
            ("1.5gbit/s", 187_500_000, "1.5 gbit/s"),
            ("2 MB/s", 2_000_000, "16 mbit/s"),
            ("1 KiB/s", 1024, "8.192 kbit/s"),
            ("9 bit/s", 1, "8 bit/s"),
            ("0.064 mbit/s", 8_000, "64 kbit/s"),
        ] {
            let rate: ByteRate = text.parse().expect(text);
            assert_eq!((rate.bytes_per_second(), rate.to_string().as_str()), (bytes, shown), "{text}");
        }
        for bad in [
            "",
            "50",
            "50 mbit",
            "mbit/s",
            "7 bit/s",
            "0 mbit/s",
            "50 Mb/s",
            "-1 mbit/s",
            "1.2.3 mbit/s",
            "1. mbit/s",
            ".5 mbit/s",
            "1e3 kbit/s",
            "99999999999999999999 GB/s",
            "18446744073709551615 GB/s",
            "1 mbit/h",
            "0.1234567891 gbit/s",
        ] {
            assert!(bad.parse::<ByteRate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn open_rates_and_ports_are_strict() {
        assert_eq!("100/s".parse::<OpenRate>().map(|rate| rate.to_string()), Ok("100/s".into()));
        for bad in ["0/s", "100", "+1/s", "-1/s", "/s", "1.5/s", "4294967296/s"] {
            assert!(bad.parse::<OpenRate>().is_err(), "{bad}");
        }
        for (text, shown) in [("8080", "8080/tcp"), ("8080/tcp", "8080/tcp"), ("53/udp", "53/udp")] {
            assert_eq!(text.parse::<Port>().map(|port| port.to_string()), Ok(shown.into()));
        }
        for bad in ["0", "65536", "+80", "80/sctp", "80/", "", "/tcp", "80/TCP"] {
            assert!(bad.parse::<Port>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn rates_round_trip(bytes in 1..=u64::MAX, shift in 0..64_u32) {
            let rate = ByteRate::per_second((bytes >> shift).max(1)).expect("not zero");
            prop_assert_eq!(rate.to_string().parse::<ByteRate>(), Ok(rate));
        }

        #[test]
        fn no_text_makes_a_quantity_panic(text in "[0-9.]{0,24} ?[kMGm]?(bit|B|iB)?/?s?") {
            let _ = (text.parse::<ByteRate>(), text.parse::<OpenRate>(), text.parse::<Port>());
        }
    }
}
