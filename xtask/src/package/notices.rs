//! The licences of what is linked into the program, in full: most of them ask that their text goes along.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result, ensure};

use super::sbom::Components;

/// Beginnings of the names of files that hold such texts.
const FILES: [&str; 6] = [
    "LICENSE",
    "LICENCE",
    "UNLICENSE",
    "COPYING",
    "COPYRIGHT",
    "NOTICE",
];

/// Each text once, with the crates that it is of.
pub(crate) fn notices(components: &Components) -> Result<String> {
    let (_, others) = components.0.split_first().context("no components")?;
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut out = String::from(
        "Software that is linked into ringgate, with its licence. Where there is a choice, ringgate takes Apache-2.0.\n\
         The texts that the authors ship follow below.\n\n",
    );
    for component in others {
        let named = format!("{} {}", component.name, component.version);
        let license = component.license.as_deref();
        out.push_str(&format!("{named}: {}\n", license.unwrap_or("see its text")));
        for entry in fs::read_dir(&component.directory)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_file()
                && FILES
                    .iter()
                    .any(|start| name.to_uppercase().starts_with(start))
            {
                let text = String::from_utf8_lossy(&fs::read(&path)?).replace('\r', "");
                texts
                    .entry(text.trim().to_owned())
                    .or_default()
                    .push(named.clone());
            }
        }
    }
    ensure!(
        !texts.is_empty(),
        "not one licence was found: is the source of the crates there?"
    );
    let mut texts: Vec<_> = texts.into_iter().collect();
    texts.sort_by(|(_, one), (_, other)| one.cmp(other));
    for (text, mut of) in texts {
        of.dedup();
        out.push_str(&format!(
            "\n{}\n{}\n\n{text}\n",
            "=".repeat(100),
            of.join(", ")
        ));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_c_libraries_are_there() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let components = Components::of(&root, "x86_64-unknown-linux-gnu").expect("metadata");
        let text = notices(&components).expect("notices");
        // Each text has the crates that it is of above it.
        let line = "=".repeat(100);
        let mut texts = text.split(&line).skip(1);
        let own = texts.find(|text| text.trim_start().starts_with("aws-lc-sys "));
        let own = own.expect("a text of aws-lc-sys");
        assert!(
            own.contains("Redistribution and use") || own.contains("Apache License"),
            "{own}"
        );
    }
}
