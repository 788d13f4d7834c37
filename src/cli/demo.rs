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
#[command(after_help = "Examples:
  ringgate demo
  ringgate demo --dir other-demo --subnet 127.0.11  # a second one beside the first")]
pub struct DemoArgs {
    /// Directory of the configuration, keys and logs; a configuration that is there is kept.
    #[arg(long, value_name = "DIR", default_value = "ringgate-demo")]
    pub dir: PathBuf,
    /// First three octets of the addresses, within 127.0.0.0/8 [default: 127.0.10]; for a new directory only.
    #[arg(long, value_name = "OCTETS")]
    pub subnet: Option<String>,
    /// Driver of the data cores [default: auto]; for a new directory only.
    #[arg(long, value_enum)]
    pub io: Option<Io>,
    /// Start the applications of that directory without the mesh.
    #[arg(long, value_name = "DIR", hide = true)]
    pub apps_only: Option<PathBuf>,
    /// Which applications.
    #[arg(long, value_enum, default_value_t = Selection::All, hide = true)]
    pub apps: Selection,
}

/// Addresses of a demo that names no others.
const SUBNET: &str = "127.0.10";
const CONFIG: &str = "ringgate.toml";

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
        let subnet = args.subnet.as_deref().unwrap_or(SUBNET);
        return serve_apps(&Layout::new(dir, subnet)?, args.apps);
    }
    let is_new = !dir.join(CONFIG).exists();
    let layout = prepare(dir, args)?;
    if args.apps_only.is_some() {
        return serve_apps(&layout, args.apps);
    }
    let _apps = apps::start(&layout, args.apps).map_err(|error| {
        if is_new {
            // The next attempt may choose other addresses for the same directory.
            os::ignore(std::fs::remove_file(layout.config()));
        }
        error.context(format!(
            "is another demo running on {}.0/24? choose other addresses, such as --subnet 127.0.11, and a directory of \
             their own with --dir",
            layout.subnet
        ))
    })?;
    // Process 1 of a machine runs no demo.
    let contained = std::process::id() == 1;
    super::run_mesh(&layout.config(), || os::say(&guide(&layout, contained)))
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
fn prepare(dir: &Path, args: &DemoArgs) -> anyhow::Result<Layout> {
    let config = dir.join(CONFIG);
    let io = args.io.unwrap_or(Io::Auto);
    if !config.exists() {
        let subnet = args.subnet.as_deref().unwrap_or(SUBNET);
        anyhow::ensure!(
            subnet.starts_with("127."),
            "`--subnet {subnet}` is not on loopback, expected 127.X.Y"
        );
        let layout = Layout::new(dir, subnet)?;
        material::write(&layout, io.word())?;
        return Ok(layout);
    }
    let layout = Layout::of_config(&config)?;
    let file = config.display();
    let kept = "edit it there, or choose another directory with --dir";
    if let Some(subnet) = args.subnet.as_ref().filter(|s| **s != layout.subnet) {
        anyhow::bail!(
            "`{file}` is kept and has the subnet {}, not {subnet}; {kept}",
            layout.subnet
        );
    }
    if let Some(io) = args.io {
        let line = format!("io = \"{}\"", io.word());
        let is_so = os::read_text(&config)?
            .lines()
            .any(|l| l.starts_with(&line));
        anyhow::ensure!(is_so, "`{file}` is kept and has not {line}; {kept}");
    }
    material::write(&layout, io.word())?;
    Ok(layout)
}

/// What comes before the guide in a container: nobody who reads it can use paths as they are inside.
fn preface(dir: &Path) -> String {
    let inside = dir.display();
    format!(
        "This is process 1 of a container, and $D below is {inside}, inside of it. The image has no curl: run
the commands on the machine, as root, with
    PID=$(docker inspect --format '{{{{.State.Pid}}}}' NAME)      # or podman inspect, of this container
    D=/proc/$PID/root{inside}
and, where the container has a network of its own, `nsenter --net --target $PID` in front of each. The log
names files as they are inside, too.

"
    )
}

/// Where everything listens and what to try. `contained`: this is process 1 of a container.
fn guide(layout: &Layout, contained: bool) -> String {
    let (preface, dir, program) = if contained {
        let program = PathBuf::from("ringgate");
        (preface(&layout.dir), "$D".to_owned(), program)
    } else {
        let program = std::env::current_exe().unwrap_or_else(|_unknown| "ringgate".into());
        let dir = layout.dir.display().to_string();
        (String::new(), dir, program)
    };
    let program = program.display();
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
        "{preface}configuration {dir}/ringgate.toml (edit it while this runs), records {dir}/log/decisions.jsonl
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
    {program} drill --config {dir}/ringgate.toml

Stop with Ctrl-C; the directory is kept.
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_told_of_paths_as_the_machine_has_them() {
        let layout = Layout::new(Path::new("ringgate-demo"), SUBNET).unwrap();
        let dir = layout.dir.display().to_string();
        let plain = guide(&layout, false);
        assert!(plain.starts_with(&format!("configuration {dir}/ringgate.toml ")));
        assert!(!plain.contains("$D") && !plain.contains("container"));
        let contained = guide(&layout, true);
        assert!(contained.starts_with("This is process 1 of a container"));
        let set = format!("D=/proc/$PID/root{dir}\n");
        assert!(contained.contains(&set), "{contained}");
        assert!(contained.contains("'{{.State.Pid}}'"), "{contained}");
        // Beside those of the preface, every path is one of the machine.
        let (_, rest) = contained.split_once("\n\n").unwrap();
        let program = std::env::current_exe().unwrap();
        let program = program.display().to_string();
        let expected = plain.replace(&program, "ringgate").replace(&dir, "$D");
        assert_eq!(rest, expected);
    }
}
