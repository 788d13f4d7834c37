//! The image: one layer with the program, roots of the web, two users and a first configuration, and nothing else. As an
//! OCI layout (image-spec 1.0) and as what `docker save` writes, whose manifest is Docker's (version 2, schema 2).

#![expect(
    clippy::indexing_slicing,
    reason = "what a JSON value does not have is null"
)]

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::archive::{self, Tree, gzip, sha256};
use super::material::{Material, rfc3339};

/// Whoever runs it: no user of any machine.
const USER: u64 = 65532;
/// Where Debian's package has the roots, without those that an administrator adds to a machine.
const ROOTS: &str = "/usr/share/ca-certificates/mozilla";
/// Where `ringgate` looks for them.
const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";

/// The image in both formats.
#[derive(Debug)]
pub(crate) struct Image {
    /// The layer as tar, and compressed.
    layer: Vec<u8>,
    packed: Vec<u8>,
    config: Vec<u8>,
    manifest: Vec<u8>,
    /// `1.2.3`.
    tag: String,
    platform: Value,
    time: u64,
}

impl Image {
    /// Builds it.
    pub(crate) fn build(material: &Material) -> Result<Self> {
        let layer = root(material)?.tar(material.time)?;
        Self::of(material, layer)
    }

    fn of(material: &Material, layer: Vec<u8>) -> Result<Self> {
        let packed = gzip(&layer)?;
        let labels = labels(material);
        let platform = json!({ "architecture": material.architecture.name, "os": "linux" });
        let created = rfc3339(material.time);
        let config = json!({
            "architecture": material.architecture.name,
            "os": "linux",
            "created": created,
            "config": {
                "User": format!("{USER}:{USER}"),
                "Entrypoint": ["/usr/bin/ringgate"],
                "Cmd": ["run", "--config", "/etc/ringgate/ringgate.toml"],
                "Env": ["PATH=/usr/bin"],
                "WorkingDir": "/var/lib/ringgate",
                "StopSignal": "SIGTERM",
                "Labels": labels,
            },
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
            "history": [{ "created": created, "created_by": "cargo xtask package" }],
        });
        let config = serde_json::to_vec(&config)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &packed)],
            "annotations": labels,
        });
        Ok(Self {
            manifest: serde_json::to_vec(&manifest)?,
            layer,
            packed,
            config,
            tag: material.version.clone(),
            platform,
            time: material.time,
        })
    }

    /// What registries know it by.
    pub(crate) fn digest(&self) -> String {
        digest(&self.manifest)
    }

    /// The OCI layout, as tar.
    pub(crate) fn oci_archive(&self) -> Result<Vec<u8>> {
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &self.manifest);
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": self.tag });
        entry["platform"] = self.platform.clone();
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry],
        });
        let mut tree = Tree::default();
        tree.file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
        tree.file("index.json", serde_json::to_vec(&index)?);
        for blob in [&self.packed, &self.config, &self.manifest] {
            tree.file(format!("blobs/sha256/{}", sha256(blob)), blob.clone());
        }
        tree.tar(self.time)
    }

    /// What `docker load` reads.
    pub(crate) fn docker_archive(&self) -> Result<Vec<u8>> {
        let (config, layer) = (sha256(&self.config), sha256(&self.layer));
        let manifest = json!([{
            "Config": format!("{config}.json"),
            "RepoTags": [format!("ringgate:{}", self.tag)],
            "Layers": [format!("{layer}.tar")],
        }]);
        let mut tree = Tree::default();
        tree.file("manifest.json", serde_json::to_vec(&manifest)?);
        tree.file(format!("{config}.json"), self.config.clone());
        tree.file(format!("{layer}.tar"), self.layer.clone());
        tree.tar(self.time)
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", sha256(bytes))
}

fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() })
}

/// The keys of image-spec's annotations.
fn labels(material: &Material) -> Value {
    json!({
        "org.opencontainers.image.created": rfc3339(material.time),
        "org.opencontainers.image.description": "Zero trust from the edge to the outside, in one program",
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.revision": material.commit,
        "org.opencontainers.image.title": "ringgate",
        "org.opencontainers.image.version": material.version,
    })
}

/// The root of the container.
fn root(material: &Material) -> Result<Tree> {
    let mut tree = Tree::default();
    for mount in ["dev", "proc", "sys"] {
        tree.directory(mount, 0o755, 0);
    }
    tree.directory("tmp", 0o1777, 0);
    for own in ["run/ringgate", "var/lib/ringgate", "var/log/ringgate"] {
        tree.directory(own, 0o700, USER);
    }
    tree.file(
        "etc/passwd",
        format!("root:x:0:0:root:/:/sbin/nologin\nringgate:x:{USER}:{USER}:ringgate:/var/lib/ringgate:/sbin/nologin\n"),
    );
    tree.file("etc/group", format!("root:x:0:\nringgate:x:{USER}:\n"));
    tree.file(
        "etc/ringgate/ringgate.toml",
        material.file("packaging/ringgate.toml")?,
    );
    tree.file(BUNDLE, roots(Path::new(ROOTS))?);
    tree.program("usr/bin/ringgate", material.program.clone());
    let doc = "usr/share/doc/ringgate";
    tree.file(format!("{doc}/LICENSE"), material.file("LICENSE")?);
    tree.file(format!("{doc}/sbom.cdx.json"), material.sbom.clone());
    let notices = archive::gzip(material.notices.as_bytes())?;
    tree.file(format!("{doc}/third-party-licenses.txt.gz"), notices);
    Ok(tree)
}

/// All roots of a directory in one file.
fn roots(directory: &Path) -> Result<Vec<u8>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| {
        format!(
            "no `{}`, of Debian's package ca-certificates",
            directory.display()
        )
    })? {
        files.push(entry?.path());
    }
    files.sort();
    ensure!(!files.is_empty(), "`{}` is empty", directory.display());
    let mut bundle = Vec::new();
    for file in files {
        bundle.extend(fs::read(&file)?);
        if bundle.last() != Some(&b'\n') {
            bundle.push(b'\n');
        }
    }
    Ok(bundle)
}
