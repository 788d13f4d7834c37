//! The archive, and what it has in common with the other formats.

use anyhow::Result;

use super::archive::{self, Tree};
use super::material::Material;

/// Units, as they are installed.
pub(crate) const UNITS: [&str; 3] = ["ringgate.service", "ringgate@.service", "ringgate.socket"];

/// Read me, licence, changes, documents, example configurations, licences of others, components; below `at`.
pub(crate) fn documents(material: &Material, tree: &mut Tree, at: &str) -> Result<()> {
    tree.file(format!("{at}/README.md"), material.file("README.md")?);
    for (name, text) in material.files("docs", ".md")? {
        tree.file(format!("{at}/docs/{name}"), text);
    }
    tree.file(format!("{at}/sbom.cdx.json"), material.sbom.clone());
    Ok(())
}

/// Configurations and the rest that is to be looked at and copied.
pub(crate) fn examples(material: &Material, tree: &mut Tree, at: &str) -> Result<()> {
    for end in [".toml", ".yaml"] {
        for (name, text) in material.files("config", end)? {
            tree.file(format!("{at}/{name}"), text);
        }
    }
    let schema = material.file("config/ringgate.schema.json")?;
    tree.file(format!("{at}/ringgate.schema.json"), schema);
    tree.file(
        format!("{at}/seccomp.json"),
        material.file("images/seccomp.json")?,
    );
    Ok(())
}

/// Program, units, completions, manual pages, documents: to be copied below /usr/local.
pub(crate) fn tarball(material: &Material) -> Result<Vec<u8>> {
    let mut tree = Tree::default();
    let top = material.stem();
    tree.program(format!("{top}/bin/ringgate"), material.program.clone());
    for unit in UNITS {
        // They name the program of the Debian package.
        let text = material.text(&format!("systemd/{unit}"))?;
        let text = text.replace("/usr/bin/ringgate", "/usr/local/bin/ringgate");
        tree.file(format!("{top}/lib/systemd/system/{unit}"), text);
    }
    completions(material, &mut tree, &format!("{top}/share"));
    for (name, page) in &material.pages {
        tree.file(format!("{top}/share/man/{name}"), page.clone());
    }
    let doc = format!("{top}/share/doc/ringgate");
    documents(material, &mut tree, &doc)?;
    for name in ["LICENSE", "CHANGELOG.md"] {
        tree.file(format!("{doc}/{name}"), material.file(name)?);
    }
    tree.file(
        format!("{doc}/third-party-licenses.txt"),
        material.notices.clone(),
    );
    examples(material, &mut tree, &format!("{doc}/examples"))?;
    archive::gzip(&tree.tar(material.time)?)
}

/// Each where its shell looks, below the directory `share` of a prefix.
pub(crate) fn completions(material: &Material, tree: &mut Tree, share: &str) {
    for (shell, text) in &material.completions {
        let path = match *shell {
            "bash" => "bash-completion/completions/ringgate",
            "zsh" => "zsh/vendor-completions/_ringgate",
            _ => "fish/vendor_completions.d/ringgate.fish",
        };
        tree.file(format!("{share}/{path}"), text.clone());
    }
}
