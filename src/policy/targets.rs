//! Which policies may apply at an enforcement point, without a look at all of them.

use rustc_hash::FxHashMap;

use crate::policy::attach::{GATEWAY_NAME_LABEL, Point};
use crate::policy::model::{AuthorizationPolicy, Target, TargetKind};

/// Policies by what they are attached to. It only proposes: `attaches` decides.
#[derive(Debug, Default)]
pub(super) struct Targets<'m> {
    by: FxHashMap<(&'m str, By<'m>), Vec<usize>>,
}

/// What stands in a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum By<'m> {
    /// No name and no label.
    Namespace,
    /// A label.
    Label(&'m str, &'m str),
    /// A gateway.
    Gateway(&'m str),
    /// A class of gateways.
    Class,
    /// A service or service entry.
    Service(&'m str),
    /// A service account.
    Account(&'m str),
}

impl<'m> Targets<'m> {
    /// Of policies in their order.
    pub(super) fn new(policies: impl Iterator<Item = &'m AuthorizationPolicy>) -> Self {
        let mut out = Self::default();
        for (at, policy) in policies.enumerate() {
            let namespace = policy.name.namespace.as_str();
            let mut put = |by| out.by.entry((namespace, by)).or_default().push(at);
            match &policy.target {
                Target::Namespace => put(By::Namespace),
                Target::Selector(labels) => {
                    // One label is enough to find it by; it may also name a gateway.
                    match labels.iter().next() {
                        Some((key, value)) => put(By::Label(key, value)),
                        None => put(By::Namespace),
                    }
                    if let Some(gateway) = labels.get(GATEWAY_NAME_LABEL) {
                        put(By::Gateway(gateway));
                    }
                }
                Target::Refs(refs) => {
                    for target in refs {
                        put(match target.kind {
                            TargetKind::Gateway => By::Gateway(&target.name),
                            TargetKind::GatewayClass => By::Class,
                            TargetKind::ServiceAccount => By::Account(&target.name),
                            TargetKind::Service | TargetKind::ServiceEntry => {
                                By::Service(&target.name)
                            }
                        });
                    }
                }
            }
        }
        out
    }

    /// Calls `each` with the positions of policies that may apply, perhaps more than once.
    pub(super) fn candidates(&self, point: &Point, root: &str, mut each: impl FnMut(usize)) {
        let mut get = |namespace: &str, by: By<'_>| {
            let found = self.by.get(&(namespace, by));
            found.into_iter().flatten().copied().for_each(&mut each);
        };
        for namespace in [point.namespace.as_str(), root] {
            get(namespace, By::Namespace);
            get(namespace, By::Class);
            for (key, value) in &point.labels {
                get(namespace, By::Label(key, value));
            }
            if let Some(gateway) = &point.gateway {
                get(namespace, By::Gateway(gateway));
            }
        }
        for (_, service) in &point.services {
            get(&service.namespace, By::Service(&service.name));
        }
        for account in &point.accounts {
            get(&account.namespace, By::Account(&account.name));
        }
    }
}
