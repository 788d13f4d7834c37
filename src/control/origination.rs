//! TLS that an egress gateway originates, one configuration for each outside service.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use crate::config::checked::{Mesh, UpstreamTls};
use crate::control::http_client::SYSTEM_ROOTS;
use crate::control::snapshot::SnapshotError;
use crate::identity::{outside, pem};
use crate::role::egress;
use crate::vocab::resource::ResourceName;

#[derive(Debug)]
struct Made {
    roots: Vec<u8>,
    names: Vec<String>,
    /// Offers `http/1.1`.
    h1: Arc<ClientConfig>,
    /// Offers `h2`.
    h2: Arc<ClientConfig>,
}

/// The configurations by service.
#[derive(Debug, Default)]
pub struct Originations {
    made: BTreeMap<ResourceName, Arc<Made>>,
}

impl Originations {
    /// The configuration of one service, by the protocol that is spoken inside; `None` if none is originated for it.
    #[must_use]
    pub fn get(&self, service: &ResourceName, h2: bool) -> Option<&Arc<ClientConfig>> {
        let made = self.made.get(service)?;
        Some(if h2 { &made.h2 } else { &made.h1 })
    }

    /// Makes them for a mesh. Those whose roots and names are as before are kept, and with them the pooled connections
    /// that were made by them.
    ///
    /// # Errors
    /// `SnapshotError::File` for roots that cannot be read or used, or a name that is none.
    #[expect(
        clippy::disallowed_methods,
        reason = "the control thread reads files, the cores do not"
    )]
    pub fn renew(&self, mesh: &Mesh) -> Result<Self, SnapshotError> {
        let mut made = BTreeMap::new();
        for (at, service) in mesh.services.iter().enumerate() {
            let Some(
                rule @ UpstreamTls::Simple {
                    ca_certificates, ..
                },
            ) = egress::tls_rule(mesh, at)
            else {
                continue;
            };
            let path = ca_certificates
                .clone()
                .unwrap_or_else(|| PathBuf::from(SYSTEM_ROOTS));
            let roots = std::fs::read(&path).map_err(|e| SnapshotError::file(&path, e))?;
            let names = egress::subject_alt_names(service, rule).to_vec();
            let kept = self
                .made
                .get(&service.name)
                .filter(|known| known.roots == roots && known.names == names);
            let one = match kept {
                Some(known) => Arc::clone(known),
                None => Arc::new(Made {
                    h1: config(&path, &roots, &names, b"http/1.1")?,
                    h2: config(&path, &roots, &names, b"h2")?,
                    roots,
                    names,
                }),
            };
            made.insert(service.name.clone(), one);
        }
        Ok(Self { made })
    }
}

fn config(
    path: &Path,
    roots: &[u8],
    names: &[String],
    protocol: &[u8],
) -> Result<Arc<ClientConfig>, SnapshotError> {
    let found = pem::certificates(roots).map_err(|e| SnapshotError::file(path, e))?;
    let mut store = RootCertStore::empty();
    let (added, _ignored) = store.add_parsable_certificates(found);
    if added == 0 {
        return Err(SnapshotError::file(
            path,
            "holds no usable root certificate",
        ));
    }
    outside::client_config(Arc::new(store), names, &[protocol])
        .map_err(|e| SnapshotError::file(path, e))
}
