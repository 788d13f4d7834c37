//! TLS that an egress gateway originates, one configuration for each outside service. Roots are read again when their file
//! changes; a file that cannot be used leaves the last good roots in place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use crate::config::checked::{Mesh, Service, Subject, UpstreamTls};
use crate::control::http_client::SYSTEM_ROOTS;
use crate::control::named_file::FileProblem;
use crate::control::snapshot::SnapshotError;
use crate::identity::{outside, pem};
use crate::role::egress;
use crate::vocab::resource::ResourceName;

#[derive(Debug)]
struct Made {
    path: PathBuf,
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
    problems: Vec<FileProblem>,
}

impl Originations {
    /// The configuration of one service, by the protocol that is spoken inside; `None` if none is originated for it.
    #[must_use]
    pub fn get(&self, service: &ResourceName, h2: bool) -> Option<&Arc<ClientConfig>> {
        let made = self.made.get(service)?;
        Some(if h2 { &made.h2 } else { &made.h1 })
    }

    /// Files that could not be used, in whose place what they held before is believed.
    #[must_use]
    pub fn problems(&self) -> &[FileProblem] {
        &self.problems
    }

    /// Whether another one believes the same and has the same problems.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        let all = |of: &Self| -> Vec<_> { of.made.values().map(Arc::as_ptr).collect() };
        self.problems == other.problems && all(self) == all(other)
    }

    /// Makes them for a mesh. Those whose roots and names are as before are kept, and with them the pooled connections
    /// that were made by them.
    ///
    /// # Errors
    /// `SnapshotError::File` for roots that cannot be read or used and were not before, or a name that is none.
    pub fn renew(&self, mesh: &Mesh) -> Result<Self, SnapshotError> {
        let mut new = Self::default();
        for (service, tls) in originated(mesh) {
            let path = roots_path(tls);
            let names = egress::subject_alt_names(service, tls).to_vec();
            let known = self.made.get(&service.name);
            let made = match read(&path) {
                Ok(roots) => one(&path, roots, names.clone(), known),
                Err(problem) => Err(problem),
            };
            let last = known.filter(|known| known.path == path);
            let made = match (made, last) {
                (Ok(made), _) => made,
                (Err(problem), Some(last)) => {
                    let again = one(&path, last.roots.clone(), names, known);
                    let made = again.map_err(SnapshotError::File)?;
                    if !new.problems.contains(&problem) {
                        new.problems.push(problem);
                    }
                    made
                }
                (Err(problem), None) => return Err(SnapshotError::File(problem)),
            };
            new.made.insert(service.name.clone(), made);
        }
        Ok(new)
    }
}

/// Every problem of the roots that a mesh names.
#[must_use]
pub fn inspect(mesh: &Mesh) -> Vec<FileProblem> {
    let mut problems = Vec::new();
    for (service, tls) in originated(mesh) {
        let path = roots_path(tls);
        let names = egress::subject_alt_names(service, tls).to_vec();
        let made = read(&path).and_then(|roots| one(&path, roots, names, None));
        problems.extend(made.err().filter(|problem| !problems.contains(problem)));
    }
    problems
}

/// Every file of roots that is read for a mesh.
#[must_use]
pub fn paths(mesh: &Mesh) -> Vec<PathBuf> {
    originated(mesh).map(|(_, tls)| roots_path(tls)).collect()
}

/// The outside services that TLS is originated for.
fn originated(mesh: &Mesh) -> impl Iterator<Item = (&Service, &UpstreamTls)> {
    let services = mesh.services.iter().enumerate();
    services.filter_map(|(at, service)| match egress::tls_rule(mesh, at)? {
        UpstreamTls::Disable => None,
        rule @ UpstreamTls::Simple { .. } => Some((service, rule)),
    })
}

fn roots_path(tls: &UpstreamTls) -> PathBuf {
    let written = match tls {
        UpstreamTls::Simple {
            ca_certificates, ..
        } => ca_certificates.clone(),
        UpstreamTls::Disable => None,
    };
    written.unwrap_or_else(|| PathBuf::from(SYSTEM_ROOTS))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the control thread reads files, the cores do not"
)]
fn read(path: &Path) -> Result<Vec<u8>, FileProblem> {
    std::fs::read(path).map_err(|error| FileProblem::unread(path, &error))
}

fn one(
    path: &Path,
    roots: Vec<u8>,
    names: Vec<String>,
    known: Option<&Arc<Made>>,
) -> Result<Arc<Made>, FileProblem> {
    let same =
        |known: &&Arc<Made>| known.path == path && known.roots == roots && known.names == names;
    if let Some(known) = known.filter(same) {
        return Ok(Arc::clone(known));
    }
    Ok(Arc::new(Made {
        path: path.to_owned(),
        h1: config(path, &roots, &names, b"http/1.1")?,
        h2: config(path, &roots, &names, b"h2")?,
        roots,
        names,
    }))
}

fn config(
    path: &Path,
    roots: &[u8],
    names: &[String],
    protocol: &[u8],
) -> Result<Arc<ClientConfig>, FileProblem> {
    let unusable = |what: String| FileProblem::unusable(Subject::Path(path.to_owned()), what);
    let found = pem::certificates(roots).map_err(|error| {
        unusable(match error {
            pem::PemError::Syntax(_) => "is not readable as PEM".to_owned(),
            pem::PemError::Empty => "holds no certificate".to_owned(),
        })
    })?;
    let mut store = RootCertStore::empty();
    let (added, _ignored) = store.add_parsable_certificates(found);
    if added == 0 {
        return Err(unusable("holds no usable root certificate".to_owned()));
    }
    outside::client_config(Arc::new(store), names, &[protocol])
        .map_err(|error| unusable(format!("cannot be used: {error}")))
}
