//! Values and references: from `raw` to `checked`. Nothing stops at the first problem.

mod address;
mod authn;
mod authorizer;
mod capture;
mod condition;
mod destination;
mod identity;
mod labels;
mod life;
mod listeners;
mod locate;
mod mesh;
mod names;
mod policy;
mod process;
mod provider;
mod rate_limit;
mod revocation;
mod route;
mod route_bound;
mod route_filter;
mod service;
mod serving;
mod target;
mod traffic;
mod url;
mod values;
mod waypoint;
mod workload_api;

use std::path::PathBuf;

use crate::config::Options;
pub(crate) use crate::config::check::names::DEFAULT_NAMESPACE;
use crate::config::check::names::Known;
use crate::config::checked::{Mesh, Process, Secret, Subject};
use crate::config::document::Document;
use crate::config::place::{At, Place, Problems};
use crate::config::raw::{File, PROCESS_KEYS};
use crate::config::read::Read;

/// What every check needs.
#[derive(Debug)]
pub(crate) struct Context<'o> {
    /// Directory of each file, for relative paths.
    dirs: Vec<PathBuf>,
    /// Names that are written, whether or not the rest of the resource is valid.
    known: Known,
    /// What the files refer to may stand elsewhere (`Options::partial`).
    partial: bool,
    pub(crate) out: &'o mut Problems,
}

impl Context<'_> {
    /// A path; a relative one starts at the directory of the file that it is written in.
    fn path(&self, written: &At<String>) -> PathBuf {
        self.relative(&written.place, &written.value)
    }

    /// As `path`, of a file that is read: what is wrong with it is told with the place where it is named.
    fn file(&mut self, written: &At<String>) -> PathBuf {
        let path = self.path(written);
        let subject = Subject::Path(path.clone());
        self.out.name_file(&written.place, subject);
        path
    }

    fn relative(&self, place: &Place, path: &str) -> PathBuf {
        self.dirs
            .get(place.file)
            .map_or_else(|| PathBuf::from(path), |dir| dir.join(path))
    }

    /// A secret by reference. What is written is never repeated in the message: it may be the secret.
    fn secret(&mut self, written: &At<String>) -> Option<Secret> {
        let secret = match written.split_once(':') {
            Some(("file", path)) if !path.is_empty() => {
                Some(Secret::File(self.relative(&written.place, path)))
            }
            Some(("env", name)) if variable(name) => Some(Secret::Env(name.to_owned())),
            Some(("cred", name)) if file_name(name) => Some(Secret::Credential(name.to_owned())),
            Some(_) | None => None,
        };
        match &secret {
            Some(secret) => {
                let subject = Subject::Secret(secret.clone());
                self.out.name_file(&written.place, subject);
            }
            None => self.out.error(
                &written.place,
                "a secret is never written here, expected `file:PATH`, `env:NAME` or `cred:NAME`",
            ),
        }
        secret
    }
}

fn variable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn file_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains('/')
}

/// Reads and checks every file; the first is the main file. `None` after a problem that leaves nothing to return.
pub(crate) fn check(
    documents: &[Document],
    dirs: Vec<PathBuf>,
    options: Options,
    out: &mut Problems,
) -> Option<(Process, Mesh)> {
    for document in documents.iter().filter(|d| d.file > 0) {
        refuse_process_keys(
            document,
            "belongs in the main file; a mesh file holds mesh resources only",
            out,
        );
    }
    let (files, mut cx) = read(documents, dirs, options, out);
    let mesh = mesh::mesh(&files, &mut cx)?;
    let process = process::process(files.first()?, &mesh, &mut cx);
    if let Some(process) = &process {
        destination::too_many_checks(&files, process, &mesh, &mut cx);
    }
    Some((process?, mesh))
}

/// As `check`, where no file is a main file.
pub(crate) fn check_resources(
    documents: &[Document],
    dirs: Vec<PathBuf>,
    options: Options,
    out: &mut Problems,
) -> Option<Mesh> {
    for document in documents {
        refuse_process_keys(
            document,
            "describes a process; only mesh resources are read here, a main configuration is given as the first file",
            out,
        );
    }
    let (files, mut cx) = read(documents, dirs, options, out);
    mesh::mesh(&files, &mut cx)
}

fn read<'o>(
    documents: &[Document],
    dirs: Vec<PathBuf>,
    options: Options,
    out: &'o mut Problems,
) -> (Vec<File>, Context<'o>) {
    let file = |d: &Document| File::read(&d.root, &Place::top(d.file), out);
    let files: Vec<File> = documents.iter().filter_map(file).collect();
    names::duplicates(&files, out);
    let cx = Context {
        dirs,
        known: Known::new(documents, options.partial),
        partial: options.partial,
        out,
    };
    (files, cx)
}

fn refuse_process_keys(document: &Document, message: &str, out: &mut Problems) {
    for key in PROCESS_KEYS {
        if let Some(entry) = document.root.entry(key) {
            let place = Place::top(document.file).key(key, entry.offset);
            out.error(&place, message);
        }
    }
}
