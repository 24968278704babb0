//! Services that are named in a program's environment: a hint at whom it calls, never a permission.

/// Words in a variable's name that make its whole value a host's name.
const HOST_WORDS: [&str; 9] = ["HOST", "ADDR", "URL", "URI", "SERVER", "ENDPOINT", "SERVICE", "BROKER", "UPSTREAM"];
/// Values that are looked at: an address is shorter.
const VALUE_MAX: usize = 4096;
/// Names of one value: a list of brokers has fewer.
const NAMES_MAX: usize = 32;

/// What in a variable's value stands where a host's name does: behind `//`, `@`, a comma or a blank, or at the beginning, and
/// before `:PORT`, `/`, a comma or the end. A value that is nothing else needs a variable that is called so.
pub(super) fn hosts<'v>(variable: &str, value: &'v str) -> Vec<&'v str> {
    let value = value.trim();
    if value.len() > VALUE_MAX {
        return Vec::new();
    }
    let variable = variable.to_ascii_uppercase();
    let called_so = HOST_WORDS.iter().any(|word| variable.contains(word));
    let parts = value.split([',', ' ', ';']).take(NAMES_MAX);
    parts.filter_map(|part| host(part, called_so)).collect()
}

fn host(part: &str, called_so: bool) -> Option<&str> {
    let behind_scheme = part.split_once("://").map(|(_, rest)| rest);
    let rest = behind_scheme.unwrap_or(part);
    let authority = rest.split(['/', '?', '#']).next()?;
    // Whatever is before it is a name and a password.
    let authority = authority.rsplit('@').next()?;
    let (name, port) = match authority.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (authority, None),
    };
    let is_port = port.is_some_and(|port| port.parse::<u16>().is_ok());
    let stands_so = behind_scheme.is_some() || is_port || (port.is_none() && called_so);
    let is_name = name.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter));
    (stands_so && is_name && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_stand_where_hosts_stand() {
        for (variable, value, expected) in [
            ("DB_HOST", "db", &["db"][..]),
            ("POSTGRES_USER", "db", &[]),
            ("X", "postgres://u:secret@db:5432/app", &["db"]),
            ("X", "http://api/v1", &["api"]),
            ("BROKERS", "a:9092,b:9092", &["a", "b"]),
            ("CART_SERVICE_ADDR", "cart.shop.svc:7070", &["cart.shop.svc"]),
            ("X", "a sentence about db", &[]),
            ("DB_HOST", "", &[]),
        ] {
            assert_eq!(hosts(variable, value), expected, "{variable}={value}");
        }
    }
}
