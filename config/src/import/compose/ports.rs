//! Ports: as Compose writes them, and those that well-known images are known to listen on.

use crate::{Port, Protocol};

/// Ports of one range: a service of the graph lists each.
const RANGE_MAX: usize = 256;

/// The ports of the container in `[[IP:]HOST:]CONTAINER[/PROTOCOL]`, each of which may be a range. Second, whether the host's
/// ports are given as well.
///
/// # Errors
/// What is wrong with it.
pub(super) fn short(text: &str) -> Result<(Vec<Port>, bool), String> {
    let (ports, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
    let published = ports.contains(':');
    // An IPv6 address has colons too, but stands before the last one.
    let container = ports.rsplit(':').next().unwrap_or_default();
    Ok((range(container, protocol)?, published))
}

/// `80` or `80-82`, with a protocol.
///
/// # Errors
/// What is wrong with it.
pub(super) fn range(text: &str, protocol: &str) -> Result<Vec<Port>, String> {
    let protocol = match protocol.trim().to_ascii_lowercase().as_str() {
        "tcp" | "" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        other => return Err(format!("the fabric carries tcp and udp, not {other}")),
    };
    let number = |text: &str| text.trim().parse::<u16>().ok().filter(|number| *number > 0);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (Some(first), Some(last)) = (number(first), number(last)) else {
        return Err(format!("`{text}` is no port"));
    };
    if first > last || usize::from(last - first) >= RANGE_MAX {
        return Err(format!("`{text}` is no range of at most {RANGE_MAX} ports"));
    }
    Ok((first..=last).map(|number| Port { number, protocol }).collect())
}

/// What images of well-known servers listen on, by the last part of their names, as their own documentation says.
const IMAGES: [(&str, u16); 28] = [
    ("adminer", 8080),
    ("caddy", 80),
    ("cassandra", 9042),
    ("consul", 8500),
    ("couchdb", 5984),
    ("eclipse-mosquitto", 1883),
    ("elasticsearch", 9200),
    ("etcd", 2379),
    ("grafana", 3000),
    ("httpd", 80),
    ("influxdb", 8086),
    ("kibana", 5601),
    ("mariadb", 3306),
    ("memcached", 11211),
    ("minio", 9000),
    ("mongo", 27017),
    ("mysql", 3306),
    ("nats", 4222),
    ("nginx", 80),
    ("postgis", 5432),
    ("postgres", 5432),
    ("prometheus", 9090),
    ("rabbitmq", 5672),
    ("redis", 6379),
    ("valkey", 6379),
    ("vault", 8200),
    ("wordpress", 80),
    ("zookeeper", 2181),
];

/// The port that a well-known image listens on: `postgres:16`, `docker.io/bitnami/redis@sha256:…`.
pub(super) fn of_image(image: &str) -> Option<Port> {
    let name = image.rsplit('/').next()?.split([':', '@']).next()?;
    let found = IMAGES.iter().find(|(known, _)| *known == name);
    found.map(|(_, number)| Port { number: *number, protocol: Protocol::Tcp })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_containers_port_is_the_last() {
        for (text, ports, published) in [
            ("80", "80/tcp", false),
            ("8080:80", "80/tcp", true),
            ("127.0.0.1:8080:80/udp", "80/udp", true),
            ("[::1]:8080:80", "80/tcp", true),
            ("127.0.0.1::80", "80/tcp", true),
            ("3000-3002", "3000/tcp 3001/tcp 3002/tcp", false),
            ("9090-9091:8080-8081", "8080/tcp 8081/tcp", true),
        ] {
            let (found, is_published) = short(text).unwrap();
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            assert_eq!((found.join(" ").as_str(), is_published), (ports, published), "{text}");
        }
        for bad in ["", "x", "0", "80-70", "1-60000", "80/sctp", "99999"] {
            assert!(short(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn images_are_known_by_their_last_name() {
        for image in ["postgres", "postgres:16-alpine", "docker.io/library/postgres@sha256:abc", "h:5000/x/postgres:1"]
        {
            assert_eq!(of_image(image).map(|port| port.number), Some(5432), "{image}");
        }
        assert_eq!(of_image("mypostgres"), None);
    }
}
