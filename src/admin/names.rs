//! What people type for a workload, a service or a host, looked up in a policy.

use ripstop_config::{HostName, Port, ServiceId, WorkloadId, suggest::nearest, units::UnitError};
use ripstop_policy::Policy;

/// Why a text names nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// Nothing has that name.
    #[error("the graph has no {kind} `{text}`; {hint}")]
    Unknown {
        /// `workload`, `service` or `host`.
        kind: &'static str,
        /// What was typed.
        text: String,
        /// The name that is near, or the names there are.
        hint: String,
    },
    /// Several tenants have one.
    #[error("`{text}` is a {kind} of several tenants; say which: {found}")]
    Ambiguous {
        /// `workload` or `service`.
        kind: &'static str,
        /// What was typed.
        text: String,
        /// The names it could mean.
        found: String,
    },
    /// Not a port.
    #[error(transparent)]
    Port(#[from] UnitError),
}

/// Names listed in an error at most: more is no help.
const KNOWN_MAX: usize = 20;

/// Who calls what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The calling workload.
    pub who: WorkloadId,
    /// The service.
    pub service: ServiceId,
    /// The port, or every port of the service.
    pub port: Option<Port>,
}

/// Looks up `WHO` and `SERVICE[:PORT]`. A bare service name is looked for in the caller's tenant first.
///
/// # Errors
/// [`LookupError`] when one of them names nothing.
pub fn call(policy: &Policy, who: &str, target: &str) -> Result<Call, LookupError> {
    let who = workload(policy, who)?;
    let (name, port) = split_port(target)?;
    let service = service(policy, name, Some(&who))?;
    Ok(Call { who, service, port })
}

fn split_port(target: &str) -> Result<(&str, Option<Port>), LookupError> {
    match target.rsplit_once(':') {
        // Several colons are an IPv6 address, which is never followed by a port here.
        Some((name, port)) if !name.contains(':') => Ok((name, Some(port.parse()?))),
        Some(_) | None => Ok((target, None)),
    }
}

/// Looks up a workload: `TENANT/NAME`, or a bare name that only one tenant has.
///
/// # Errors
/// [`LookupError`] when it names none, or several.
pub fn workload(policy: &Policy, text: &str) -> Result<WorkloadId, LookupError> {
    let all: Vec<_> = policy.workloads().map(|ix| policy.workload_entry(ix).id.clone()).collect();
    pick("workload", text, &all, |id| id.name.as_str(), None)
}

/// Looks up a service: `TENANT/NAME`, its DNS name, its virtual address, or a bare name that only one tenant has; of
/// several, the caller's own tenant's.
///
/// # Errors
/// [`LookupError`] when it names none, or several.
pub fn service(policy: &Policy, text: &str, caller: Option<&WorkloadId>) -> Result<ServiceId, LookupError> {
    if let Some(ix) = text.parse().ok().and_then(|ip| policy.service_at(ip)) {
        return Ok(policy.service_entry(ix).id.clone());
    }
    let all: Vec<_> = policy.services().map(|ix| policy.service_entry(ix).id.clone()).collect();
    let dns = text.strip_suffix('.').unwrap_or(text);
    let named = |id: &&ServiceId| {
        id.dns_name(policy.fabric()) == dns || format!("{}.{}", id.name, id.tenant.dns_labels()) == dns
    };
    if let Some(id) = all.iter().find(named) {
        return Ok(id.clone());
    }
    let own = caller.and_then(|who| all.iter().find(|id| id.tenant == who.tenant && id.name.as_str() == text));
    pick("service", text, &all, |id| id.name.as_str(), own)
}

/// Looks up a host.
///
/// # Errors
/// [`LookupError`] when there is none of that name.
pub fn host<'p>(policy: &'p Policy, text: &str) -> Result<&'p HostName, LookupError> {
    let all: Vec<_> = policy.graph().hosts.keys().collect();
    let found = all.iter().find(|host| host.as_str() == text);
    let unknown =
        || LookupError::Unknown { kind: "host", text: text.into(), hint: hint(text, &all, |host| host.as_str()) };
    found.copied().ok_or_else(unknown)
}

/// A qualified name must exist; a bare one must be of one tenant, unless one is preferred.
fn pick<Id>(
    kind: &'static str,
    text: &str,
    all: &[Id],
    name: impl Fn(&Id) -> &str,
    preferred: Option<&Id>,
) -> Result<Id, LookupError>
where
    Id: Clone + ToString,
{
    if let Some(id) = preferred {
        return Ok(id.clone());
    }
    let found: Vec<&Id> = all.iter().filter(|id| id.to_string() == text || name(id) == text).collect();
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(LookupError::Unknown { kind, text: text.into(), hint: hint(text, all, name) }),
        several => Err(LookupError::Ambiguous { kind, text: text.into(), found: list(&mut several.iter().copied()) }),
    }
}

fn hint<Id: ToString>(text: &str, all: &[Id], name: impl Fn(&Id) -> &str) -> String {
    let names = all.iter().flat_map(|id| [id.to_string(), name(id).to_owned()]);
    match nearest(text, names) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("it has: {}", list(&mut all.iter())),
    }
}

fn list<Id: ToString>(ids: &mut dyn ExactSizeIterator<Item = &Id>) -> String {
    let left_out = ids.len().saturating_sub(KNOWN_MAX);
    let mut names: Vec<String> = ids.take(KNOWN_MAX).map(ToString::to_string).collect();
    if left_out > 0 {
        names.push(format!("and {left_out} more"));
    }
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::server::tests::policy;

    #[test]
    fn services_are_found_by_every_name_they_have() {
        let policy = policy();
        let api: ServiceId = "shop/api".parse().unwrap();
        let address = policy.service_entry(policy.service(&api).unwrap()).v4.to_string();
        for text in ["api", "shop/api", "api.shop", "api.shop.shop.example", "api.shop.shop.example.", &address] {
            assert_eq!(service(&policy, text, None).unwrap(), api, "{text}");
        }
        let call = call(&policy, "web", "api:8080").unwrap();
        assert_eq!((call.who.to_string().as_str(), call.port), ("shop/web", Some("8080/tcp".parse().unwrap())));
    }

    #[test]
    fn mistakes_say_what_there_is() {
        let policy = policy();
        let error = workload(&policy, "wbe").unwrap_err().to_string();
        assert!(error.contains("no workload `wbe`; did you mean `web`?"), "{error}");
        let error = workload(&policy, "frontend").unwrap_err().to_string();
        assert!(error.contains("it has: ops/log, shop/api, shop/db, shop/web"), "{error}");
        assert!(call(&policy, "web", "api:0").is_err());
        let error = service(&policy, "log", None).unwrap_err().to_string();
        assert!(error.contains("ops/log") && error.contains("shop/log"), "{error}");
        let web = "shop/web".parse().unwrap();
        assert_eq!(service(&policy, "log", Some(&web)).unwrap().to_string(), "shop/log");
    }
}
