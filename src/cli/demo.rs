//! `ringgate demo`: the whole mesh on loopback addresses, in one process, as an ordinary user.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::apps::{self, Selection};
use super::layout::{Layout, host};
use super::material::{self, PARTNER, PORTAL};
use super::os;
use super::stop::Stop;

/// Arguments of `ringgate demo`.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Directory of the configuration, keys and logs; a configuration that is there is kept.
    #[arg(long, value_name = "DIR", default_value = "ringgate-demo")]
    pub dir: PathBuf,
    /// First three octets of the addresses; for a new directory only.
    #[arg(long, value_name = "OCTETS", default_value = "127.0.10")]
    pub subnet: String,
    /// Driver of the data cores, for a new directory only.
    #[arg(long, value_enum, default_value_t = Io::Auto)]
    pub io: Io,
    /// Start the applications of that directory without the mesh.
    #[arg(long, value_name = "DIR", hide = true)]
    pub apps_only: Option<PathBuf>,
    /// Which applications.
    #[arg(long, value_enum, default_value_t = Selection::All, hide = true)]
    pub apps: Selection,
}

/// `process.io`.
#[expect(
    clippy::enum_variant_names,
    reason = "the names are those of the kernel interfaces"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Io {
    /// `io_uring`, or epoll where the kernel refuses it.
    Auto,
    /// `io_uring`.
    #[value(name = "io_uring")]
    IoUring,
    /// `epoll`.
    Epoll,
}

impl Io {
    /// The value in the configuration.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

/// Runs the command until SIGINT or SIGTERM.
///
/// # Errors
/// If the directory cannot be written, an address cannot be bound, or the mesh does not start.
pub fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let dir = args.apps_only.as_deref().unwrap_or(&args.dir);
    if args.apps == Selection::Outside {
        return serve_apps(&Layout::new(dir, &args.subnet)?, args.apps);
    }
    let layout = prepare(dir, &args.subnet, args.io)?;
    if args.apps_only.is_some() {
        return serve_apps(&layout, args.apps);
    }
    let _apps = apps::start(&layout, args.apps)?;
    super::run_mesh(&layout.config(), || os::say(&guide(&layout)))
}

/// The applications without a mesh, until SIGINT or SIGTERM.
fn serve_apps(layout: &Layout, selection: Selection) -> anyhow::Result<ExitCode> {
    let stop = Stop::on_signals()?;
    let _apps = apps::start(layout, selection)?;
    os::say(&format!("apps listen on {}.0/24", layout.subnet));
    while !os::wait_until(Duration::from_secs(3600), || stop.is_set()) {}
    Ok(ExitCode::SUCCESS)
}

/// Writes what is missing in `dir`; a configuration that is there decides the addresses.
fn prepare(dir: &Path, subnet: &str, io: Io) -> anyhow::Result<Layout> {
    let config = dir.join("ringgate.toml");
    let layout = if config.exists() {
        Layout::of_config(&config)?
    } else {
        Layout::new(dir, subnet)?
    };
    material::write(&layout, io.word())?;
    Ok(layout)
}

/// Where everything listens and what to try.
fn guide(layout: &Layout) -> String {
    let dir = layout.dir.display();
    let ip = |host| layout.ip(host);
    let frontend = ip(host::FRONTEND);
    let reviews = ip(host::REVIEWS);
    let customer = ip(host::CUSTOMER_API);
    let waypoint = ip(host::WAYPOINT);
    let ingress = ip(host::INGRESS);
    let egress = ip(host::EGRESS);
    let partner = ip(host::PARTNER);
    let idp = ip(host::IDP);
    let admin = layout.at(host::CONTROL, 15000);
    let stolen = format!("{dir}/stolen/reviews-service");
    format!(
        "configuration {dir}/ringgate.toml (edit it while this runs), records {dir}/log/decisions.jsonl
frontend-service  {frontend}   node: HBONE :15008, inbound :8080, SOCKS5 :15080; app :18080
reviews-service   {reviews}   node: HBONE :15008, inbound :8080, SOCKS5 :15080; app :18080
customer-api      {customer}   node: HBONE :15008, inbound :8080 and :8443; app :18080
waypoint          {waypoint}  HBONE :15008, direct mTLS :8443
ingress           {ingress}  https://{PORTAL}:8443
egress            {egress}  HBONE :15008, forward proxy :15081
outside           {partner}  https://{PARTNER}:8443; identity provider {idp}:18081
admin             http://{admin}/readyz /generation /config/problems

Try:
  as frontend, allowed:
    curl --socks5-hostname {frontend}:15080 http://customer-api/api/v1/users/export
  as reviews, 403:
    curl -i --socks5-hostname {reviews}:15080 http://customer-api/api/v1/users/export
  without the mesh, connection reset:
    curl --interface {reviews} --connect-to customer-api:80:{customer}:8080 http://customer-api/api/v1/users/export
  with stolen identity files, 403:
    curl -i --connect-to customer-api:443:{waypoint}:8443 --cacert {stolen}/istio/root-ca.crt --cert {stolen}/istio/cert-chain.pem --key {stolen}/istio/key.pem -H \"Authorization: Bearer $(cat {stolen}/tokens/istio-token)\" https://customer-api/api/v1/users/export
  at the edge without a token, 403:
    curl -i --cacert {dir}/state/ingress/ca.pem --resolve {PORTAL}:8443:{ingress} https://{PORTAL}:8443/api/v1/users/7
  to the partner as frontend, allowed; any other query, path, method or caller is not:
    curl --socks5-hostname {frontend}:15080 'http://{PARTNER}/v1/rates?currency=eur'
  all of it:
    ringgate drill --config {dir}/ringgate.toml
"
    )
}
