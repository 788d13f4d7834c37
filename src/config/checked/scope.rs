//! What follows from the mesh's own settings and a workload's identity.

use crate::config::checked::{Mesh, Workload};
use crate::policy::Scope;
use crate::vocab::resource::ResourceName;

impl Mesh {
    /// What a policy applies to in this mesh.
    #[must_use]
    pub fn scope(&self) -> Scope<'_> {
        Scope {
            root_namespace: &self.root_namespace,
            gateway_name_selector: self.gateway_name_selector,
            gateway_selectors: self.gateway_selectors,
        }
    }
}

impl Workload {
    /// `namespace/serviceAccount` that it runs as.
    #[must_use]
    pub fn account(&self) -> Option<ResourceName> {
        self.id
            .k8s()
            .map(|(namespace, account)| ResourceName::new(namespace, account))
    }
}
