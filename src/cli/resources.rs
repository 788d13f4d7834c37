//! `ringgate check FILE..`: mesh resources as an operator keeps them, TOML or Istio's YAML and JSON, without the process
//! that will enforce them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;

use crate::cli::os;
use crate::config::checked::Mesh;
use crate::config::{self, ConfigErrors, Depth, Options, Resources};
use crate::role::attached::{attached, nothing_to_attach_to};

/// Places that are named of one resource.
const PLACES: usize = 8;

/// What to do with files of resources.
#[derive(Debug, clap::Args)]
pub struct ResourceArgs {
    /// Files or directories of mesh resources (*.toml, *.yaml, *.yml, *.json); the first may be a main configuration,
    /// and the others are then added to its mesh.
    #[arg(value_name = "FILE", conflicts_with = "config")]
    pub files: Vec<PathBuf>,
    /// Print the resources in another dialect instead of checking where they hold.
    #[arg(long = "as", value_enum, value_name = "DIALECT", requires = "files")]
    pub dialect: Option<Dialect>,
    /// Refuse resources of kinds that are not read, instead of listing them in a warning.
    #[arg(long)]
    pub strict_import: bool,
}

/// A dialect of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dialect {
    /// The tables of this program.
    Toml,
}

impl ResourceArgs {
    /// How files are taken.
    #[must_use]
    pub fn options(&self) -> Options {
        Options {
            strict_import: self.strict_import,
            partial: false,
            lints: Depth::Full,
        }
    }

    /// The main configuration, if the first file is one.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn main(&self) -> Result<Option<&Path>, ConfigErrors> {
        let Some(first) = self.files.first().filter(|first| !first.is_dir()) else {
            return Ok(None);
        };
        let read = config::read_files(std::slice::from_ref(first))?;
        Ok(read
            .iter()
            .any(|(path, text)| config::is_main(path, text))
            .then_some(first.as_path()))
    }
}

/// Prints `args.files` in another dialect.
#[must_use]
pub fn convert(args: &ResourceArgs) -> ExitCode {
    let done = config::read_files(&args.files).and_then(|files| {
        let options = Options {
            partial: true,
            lints: Depth::Single,
            ..args.options()
        };
        config::to_toml(&files, options)
    });
    match done {
        Ok(text) => {
            os::say(text.trim_end());
            ExitCode::SUCCESS
        }
        Err(errors) => {
            os::complain(&errors.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Reads `args.files`, none of which is a main configuration; what to say of where its resources hold.
///
/// # Errors
/// Every problem of the files.
pub fn read(args: &ResourceArgs) -> Result<(Resources, Vec<String>), ConfigErrors> {
    let files = config::read_files(&args.files)?;
    let whole = args.options();
    let part = |lints| Options {
        partial: true,
        lints,
        ..whole
    };
    let read = |options| config::parse_resources(&files, Path::new(""), options);
    if nothing_to_attach_to(&read(part(Depth::Single))?.mesh) {
        let said = "nothing in these files to attach to: references were not followed; check them with the mesh they belong to";
        return Ok((read(part(Depth::Full))?, vec![said.to_owned()]));
    }
    let read = read(whole)?;
    let said = where_attached(&read.mesh);
    Ok((read, said))
}

/// Where each resource of a mesh holds, one a line.
#[must_use]
pub fn where_attached(mesh: &Mesh) -> Vec<String> {
    let mut out = Vec::new();
    for one in attached(mesh) {
        let mut places = one
            .places
            .iter()
            .take(PLACES)
            .cloned()
            .collect::<Vec<_>>()
            .join(", ");
        if places.is_empty() {
            "nowhere".clone_into(&mut places);
        }
        let more = one.places.len().saturating_sub(PLACES);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        out.push(format!("{}: {places}{more}", one.resource));
    }
    out
}
