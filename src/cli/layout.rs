//! Where everything of a demo system stands: its directory and its loopback addresses.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::Context;

use super::os;

/// The configuration that `demo` writes out, with its own subnet.
const TEMPLATE: &str = include_str!("../../config/demo.toml");
/// Subnet of the template.
const TEMPLATE_SUBNET: &str = "127.0.10";

/// Last octets of the addresses in the template.
pub mod host {
    /// frontend-service.
    pub const FRONTEND: u8 = 1;
    /// reviews-service.
    pub const REVIEWS: u8 = 2;
    /// customer-api.
    pub const CUSTOMER_API: u8 = 3;
    /// Second replica of reviews-service, on customer-api's node.
    pub const REVIEWS_2: u8 = 4;
    /// Admin listener and authority.
    pub const CONTROL: u8 = 9;
    /// Waypoint of customer-api.
    pub const WAYPOINT: u8 = 13;
    /// Ingress.
    pub const INGRESS: u8 = 20;
    /// Egress gateway.
    pub const EGRESS: u8 = 30;
    /// The partner, outside the mesh.
    pub const PARTNER: u8 = 40;
    /// The identity provider, outside the mesh.
    pub const IDP: u8 = 41;
}

/// A demo system's directory and addresses.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Directory with `ringgate.toml`, absolute.
    pub dir: PathBuf,
    /// First three octets.
    pub subnet: String,
}

impl Layout {
    /// A layout in `dir` on `subnet` (three octets, such as `127.0.10`).
    ///
    /// # Errors
    /// If `subnet` is not three octets.
    pub fn new(dir: &Path, subnet: &str) -> anyhow::Result<Self> {
        let octets = subnet.split('.').filter(|part| part.parse::<u8>().is_ok());
        anyhow::ensure!(
            octets.count() == 3 && subnet.split('.').count() == 3,
            "subnet `{subnet}`: expected three octets such as `127.0.10`"
        );
        let dir = std::path::absolute(dir)
            .with_context(|| format!("`{}` is no usable path", dir.display()))?;
        Ok(Self {
            dir,
            subnet: subnet.to_owned(),
        })
    }

    /// The layout of a system that is described by `config`, by its `admin.listen`.
    ///
    /// # Errors
    /// If the file cannot be read or does not follow the demo's layout.
    pub fn of_config(config: &Path) -> anyhow::Result<Self> {
        let text = os::read_text(config)?;
        let table: toml::Table =
            toml::from_str(&text).with_context(|| format!("`{}`", config.display()))?;
        let listen = table
            .get("admin")
            .and_then(|admin| admin.get("listen"))
            .and_then(toml::Value::as_str)
            .with_context(|| format!("`{}` has no `admin.listen`", config.display()))?;
        let suffix = format!(".{}:15000", host::CONTROL);
        let subnet = listen.strip_suffix(&suffix).with_context(|| {
            format!(
                "`{}`: admin.listen is `{listen}`; a demo system has it at `SUBNET{suffix}`",
                config.display()
            )
        })?;
        let dir = config.parent().unwrap_or_else(|| Path::new("."));
        Self::new(dir, subnet)
    }

    /// Address of a host of this system.
    #[must_use]
    pub fn ip(&self, host: u8) -> String {
        format!("{}.{host}", self.subnet)
    }

    /// Address and port.
    #[must_use]
    pub fn at(&self, host: u8, port: u16) -> String {
        format!("{}.{host}:{port}", self.subnet)
    }

    /// A file below the directory.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// `ringgate.toml`.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.file("ringgate.toml")
    }

    /// The demo's configuration with this layout's addresses and the given `process.io`.
    #[must_use]
    pub fn render(&self, io: &str) -> String {
        TEMPLATE
            .replace(&format!("{TEMPLATE_SUBNET}."), &format!("{}.", self.subnet))
            .replace("io = \"auto\"", &format!("io = \"{io}\""))
    }
}

/// Second and third octet of a loopback subnet that nobody else is likely to use, and that this process gives out
/// once; 127.0 is left to the machine.
///
/// # Errors
/// If the system gives no random bytes.
pub fn free_octets() -> anyhow::Result<[u8; 2]> {
    static BASE: OnceLock<[u8; 2]> = OnceLock::new();
    static GIVEN: AtomicU8 = AtomicU8::new(0);
    let fresh = os::random::<2>()?;
    let [x, y] = *BASE.get_or_init(|| fresh);
    let given = GIVEN.fetch_add(1, Ordering::Relaxed);
    let y = (u16::from(y) + u16::from(given)) % 254 + 1;
    Ok([x.clamp(1, 254), u8::try_from(y)?])
}

/// As [`free_octets`], the first three octets as text.
///
/// # Errors
/// If the system gives no random bytes.
pub fn free_subnet() -> anyhow::Result<String> {
    let [x, y] = free_octets()?;
    Ok(format!("127.{x}.{y}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_follows_the_layout() {
        let layout = Layout::new(Path::new("/x"), "127.7.9").unwrap();
        let text = layout.render("epoll");
        assert!(!text.contains("127.0.10"));
        assert!(text.contains("io = \"epoll\""));
        for (host, port) in [
            (host::FRONTEND, 18080),
            (host::REVIEWS, 18080),
            (host::CUSTOMER_API, 18080),
            (host::REVIEWS_2, 18080),
            (host::CONTROL, 15000),
            (host::WAYPOINT, 8443),
            (host::INGRESS, 8443),
            (host::EGRESS, 15081),
            (host::IDP, 18081),
        ] {
            let address = layout.at(host, port);
            assert!(text.contains(&address), "{address} is not in the template");
        }
        toml::from_str::<toml::Table>(&text).unwrap();
    }

    #[test]
    fn a_subnet_is_three_octets() {
        for bad in ["", "127", "127.0.0.1", "127.0.300", "127.0.x"] {
            assert!(Layout::new(Path::new("/x"), bad).is_err(), "{bad}");
        }
    }
}
