//! Files of the laboratory: what the apps serve, one configuration for each process, the mesh they share.

use anyhow::Context;
use serde_json::json;

use super::net::{MARK, VMS, Vm};
use super::{SUBNET, VIRTUAL};
use crate::cli::demo::Io;
use crate::cli::layout::{Layout, host};
use crate::cli::os;

/// Size of the download that does not end within a drill; the file is sparse.
const ENDLESS_BYTES: u64 = 8 << 30;
/// Identities and service names that each machine's join token stands for.
const GRANTS: [(&str, &[&str], &[&str]); 6] = [
    (
        "frontend",
        &["default/sa/frontend-service"],
        &["frontend-service"],
    ),
    (
        "reviews",
        &["default/sa/reviews-service"],
        &["reviews-service"],
    ),
    (
        "customer-api",
        &["default/sa/customer-api", "default/sa/reviews-service"],
        &["customer-api", "reviews-service"],
    ),
    (
        "waypoint",
        &["default/sa/customer-api-waypoint"],
        &["customer-api"],
    ),
    ("ingress", &["edge/sa/ingress"], &["public"]),
    ("egress", &["egress/sa/egress"], &["egress"]),
];

/// What the unmodified file servers serve.
///
/// # Errors
/// If a file cannot be written.
pub fn write_apps(layout: &Layout) -> anyhow::Result<()> {
    let www = layout.file("www");
    let users = www.join("customer-api/api/v1/users");
    for dir in [
        "",
        "frontend-service",
        "reviews-service",
        "customer-api",
        "customer-api/api",
        "customer-api/api/v1",
        "customer-api/api/v1/users",
    ] {
        os::make_dir(&www.join(dir), 0o755)?;
    }
    let ada = json!({"id": 7, "name": "Ada", "email": "ada@example.test"});
    os::write(&users.join("7"), ada.to_string().as_bytes(), 0o644)?;
    let export = json!({"users": [ada]});
    os::write(&users.join("export"), export.to_string().as_bytes(), 0o644)?;
    let endless = www.join("customer-api/endless");
    os::write(&endless, b"", 0o644)?;
    let file = std::fs::OpenOptions::new().write(true).open(&endless)?;
    file.set_len(ENDLESS_BYTES)
        .context("the download cannot be made")
}

/// One configuration for each process, and `mesh.d/mesh.toml`. `mesh_keys` is the key set of workload tokens,
/// once the authority has told it.
///
/// # Errors
/// If a file cannot be written.
pub fn write_processes(layout: &Layout, io: Io, mesh_keys: Option<&str>) -> anyhow::Result<()> {
    let first = mesh_keys.is_none();
    let mut tokens = String::new();
    for vm in VMS.iter().filter(|vm| vm.mesh) {
        let dir = layout.dir.join(vm.name);
        os::make_dir(&dir, 0o755)?;
        os::make_dir(&dir.join("log"), 0o755)?;
        os::write(
            &dir.join("ringgate.toml"),
            process(layout, vm, io)?.as_bytes(),
            0o644,
        )?;
        if first && vm.name != "authority" {
            let token = os::hex(&os::random::<32>()?);
            tokens.push_str(&join_line(vm, &token)?);
            os::write(&dir.join("join-token"), token.as_bytes(), 0o600)?;
        }
    }
    if first {
        os::write(
            &layout.file("authority/join-tokens"),
            tokens.as_bytes(),
            0o600,
        )?;
    }
    os::make_dir(&layout.file("mesh.d"), 0o755)?;
    os::write(
        &layout.file("mesh.d/mesh.toml"),
        mesh(layout, mesh_keys)?.as_bytes(),
        0o644,
    )
}

/// A line of the authority's token file: the token, the identities and the service names that it may join as.
fn join_line(vm: &Vm, token: &str) -> anyhow::Result<String> {
    let (_, ids, services) = GRANTS
        .iter()
        .find(|(name, _, _)| *name == vm.name)
        .with_context(|| format!("no grant for `{}`", vm.name))?;
    let mut words = vec![token.to_owned()];
    words.extend(
        ids.iter()
            .map(|id| format!("spiffe://cluster.local/ns/{id}")),
    );
    for service in *services {
        words.extend([
            format!("dns:{service}"),
            format!("dns:{service}.default.svc.cluster.local"),
        ]);
    }
    Ok(words.join(" ") + "\n")
}

fn process(layout: &Layout, vm: &Vm, io: Io) -> anyhow::Result<String> {
    let identity = if vm.name == "authority" {
        authority(layout)
    } else {
        let address = layout.at(host::CONTROL, 15012);
        format!(
            "[identity]
address = \"https://{address}\"
rootCa = \"../authority/state/ca/root.pem\"
token = \"file:join-token\"
"
        )
    };
    Ok(format!(
        "[process]
name = \"{}\"
io = \"{}\"
cores = 1
meshDir = \"../mesh.d\"

[records]
path = \"log/decisions.jsonl\"

[admin]
listen = \"127.0.0.1:15000\"

{identity}
{}",
        vm.name,
        io.word(),
        roles(layout, vm)?
    ))
}

fn authority(layout: &Layout) -> String {
    let address = layout.at(host::CONTROL, 15012);
    let mut text = format!(
        "[authority]
stateDir = \"state\"
svidTtl = \"24h\"
listen = \"{address}\"
joinTokens = \"file:join-tokens\"
"
    );
    for workload in ["reviews-service", "frontend-service"] {
        text.push_str(&format!(
            "
[[identityFiles]]
workload = \"default/{workload}\"
dir = \"../stolen/{workload}\"
audience = \"customer-api\"
"
        ));
    }
    text
}

fn roles(layout: &Layout, vm: &Vm) -> anyhow::Result<String> {
    if !vm.workloads.is_empty() {
        return Ok(node(layout, vm));
    }
    let role = match vm.name {
        "authority" => String::new(),
        "waypoint" => format!(
            "[[waypoint]]\ngateway = \"default/customer-api\"\nhbone = \"{}\"\nmtls = \"{}\"\n",
            layout.at(host::WAYPOINT, 15008),
            layout.at(host::WAYPOINT, 8443)
        ),
        "ingress" => format!(
            "[[ingress]]\ngateway = \"edge/public\"\n\n[[ingress.listener]]\naddress = \"{}\"\n\
             certificate = \"../state/ingress/cert.pem\"\nkey = \"file:../state/ingress/key.pem\"\n",
            layout.at(host::INGRESS, 8443)
        ),
        "egress" => format!(
            "[[egress]]\ngateway = \"egress/egress\"\nhbone = \"{}\"\nproxy = \"{}\"\n",
            layout.at(host::EGRESS, 15008),
            layout.at(host::EGRESS, 15081)
        ),
        other => anyhow::bail!("no role for `{other}`"),
    };
    Ok(role)
}

fn node(layout: &Layout, vm: &Vm) -> String {
    let mut text = format!(
        "[[node]]\nname = \"{}\"\ninbound = [\"0.0.0.0:15006\"]\nmark = {MARK}\n",
        vm.name
    );
    for workload in vm.workloads {
        let app = layout.at(workload.host, 8080);
        text.push_str(&format!(
            "
[[node.workload]]
name = \"default/{}\"
hbone = \"{}\"
outbound = \"127.0.0.1:{}\"
app = {{ \"8080\" = \"{app}\", \"8443\" = \"{app}\" }}
",
            workload.name,
            layout.at(workload.host, 15008),
            workload.capture_port
        ));
    }
    text
}

/// The demo's mesh resources with this laboratory's addresses. Differences: services have virtual addresses,
/// since clients are captured by address; key sets are inline, since plain HTTP to another machine is refused.
fn mesh(layout: &Layout, mesh_keys: Option<&str>) -> anyhow::Result<String> {
    let whole = layout.render("auto");
    let start = whole
        .find("\n[mesh]\n")
        .context("the demo has no `[mesh]`")?;
    let mut text = whole.get(start..).unwrap_or_default().to_owned();
    for (name, host) in [
        ("frontend-service", host::FRONTEND),
        ("reviews-service", host::REVIEWS),
        ("customer-api", host::CUSTOMER_API),
    ] {
        let hosts = format!("hosts = [\"{name}\", \"{name}.default.svc.cluster.local\"]\n");
        text = replace(
            &text,
            &hosts,
            &format!("{hosts}addresses = [\"{VIRTUAL}.{host}\"]\n"),
            1,
        )?;
    }
    let partner = "hosts = [\"partner.example.test\"]\n";
    text = replace(
        &text,
        partner,
        &format!("{partner}addresses = [\"{VIRTUAL}.{}\"]\n", host::PARTNER),
        1,
    )?;
    let ca = layout.file("state/partner/ca.pem");
    text = replace(
        &text,
        "\"state/partner/ca.pem\"",
        &format!("\"{}\"", ca.display()),
        1,
    )?;
    let users = os::read_text(&layout.file("state/idp/jwks.json"))?;
    let uri = format!(
        "jwksUri = \"http://{SUBNET}.{}:18081/jwks.json\"",
        host::IDP
    );
    text = replace(&text, &uri, &format!("jwks = '{users}'"), 2)?;
    let uri = format!(
        "jwksUri = \"http://{SUBNET}.{}:15000/jwks.json\"",
        host::CONTROL
    );
    // Until the authority has told its keys no token of it is believed.
    let keys = mesh_keys.unwrap_or("{\"keys\": []}");
    replace(&text, &uri, &format!("jwks = '{keys}'"), 1)
}

/// Replaces `from`, which must stand in the text exactly `count` times.
fn replace(text: &str, from: &str, to: &str, count: usize) -> anyhow::Result<String> {
    let found = text.matches(from).count();
    anyhow::ensure!(
        found == count,
        "the demo has `{from}` {found} times, expected {count}"
    );
    Ok(text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::drill::Scratch;
    use crate::cli::material;

    /// Every configuration that the laboratory and the demo write is one that `check` accepts.
    #[test]
    fn configurations_are_accepted() {
        let dir = Scratch::new(false).unwrap();
        let demo = Layout::new(&dir.path, "127.7.9").unwrap();
        material::write(&demo, "epoll").unwrap();
        let mut files = vec![demo.config()];
        let layout = Layout::new(&dir.path, SUBNET).unwrap();
        write_processes(&layout, Io::Epoll, None).unwrap();
        write_processes(&layout, Io::Epoll, Some("{\"keys\": []}")).unwrap();
        files.extend(
            VMS.iter()
                .filter(|vm| vm.mesh)
                .map(|vm| layout.dir.join(vm.name).join("ringgate.toml")),
        );
        for file in files {
            if let Err(errors) = crate::config::load(&file) {
                panic!("{}:\n{errors}", file.display());
            }
        }
    }
}
