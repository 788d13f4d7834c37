//! ztunnel as a peer: the environment and the local configuration of one that carries one workload.
//!
//! It is started by whoever owns the network namespace: 15001, 15006 and 15008 are constants of it, so that each
//! needs a namespace of its own. Its certificate comes from an authority that serves `CreateCertificate`.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;

/// The environment variable that names the binary. Without one, nothing here can run.
pub const BINARY: &str = "RINGGATE_ZTUNNEL";

/// A workload, as ztunnel's local configuration describes it.
#[derive(Clone, Copy, Debug)]
pub struct Workload<'a> {
    /// Name, and name of its service account; in namespace `default` of `cluster.local`.
    pub name: &'a str,
    /// Address.
    pub address: IpAddr,
    /// `NODE_NAME` of the ztunnel that carries it.
    pub node: &'a str,
}

/// One ztunnel in dedicated mode.
#[derive(Clone, Copy, Debug)]
pub struct Instance<'a> {
    /// What it carries.
    pub workload: Workload<'a>,
    /// File with what [`local`] wrote.
    pub local: &'a Path,
    /// `https://IP:port` of the certificate service.
    pub authority: &'a str,
    /// The authority's root, a PEM file.
    pub root: &'a Path,
    /// Bearer token for the certificate service.
    pub token: &'a str,
    /// `SO_MARK` of its own connections, which capture rules let pass.
    pub mark: u32,
    /// `RUST_LOG`; the product's default is `info`, with a line for each connection.
    pub log: &'a str,
}

impl Instance<'_> {
    /// What its environment has to be; nothing else may be in it.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let Workload { name, node, .. } = self.workload;
        let root = self.root.display().to_string();
        vec![
            ("XDS_ADDRESS", String::new()),
            ("LOCAL_XDS_PATH", self.local.display().to_string()),
            ("PROXY_MODE", "dedicated".to_owned()),
            ("PROXY_WORKLOAD_INFO", format!("default/{name}/{name}")),
            ("NODE_NAME", node.to_owned()),
            ("CA_ADDRESS", self.authority.to_owned()),
            ("CA_ROOT_CA", root.clone()),
            ("XDS_ROOT_CA", root),
            ("AUTH_TOKEN", self.token.to_owned()),
            ("PACKET_MARK", self.mark.to_string()),
            ("ENABLE_ORIG_SRC", "false".to_owned()),
            ("RUST_LOG", self.log.to_owned()),
        ]
    }
}

/// The local configuration: `workloads` that speak HBONE, and a policy in namespace `default` that allows `callers`
/// (service accounts) and nobody else. No callers, no policy.
pub fn local(workloads: &[Workload<'_>], callers: &[&str]) -> String {
    let mut text = String::from("workloads:\n");
    for Workload {
        name,
        address,
        node,
    } in workloads
    {
        // The trust domain has no default here, and `services` is mandatory.
        writeln!(
            text,
            "- uid: local//v1/Pod/default/{name}
  name: {name}
  namespace: default
  serviceAccount: {name}
  trustDomain: cluster.local
  workloadIps: [\"{address}\"]
  protocol: HBONE
  node: {node}
  network: \"\"
  services: {{}}"
        )
        .expect("a string takes text");
    }
    if !callers.is_empty() {
        let principals: Vec<String> = callers
            .iter()
            .map(|name| format!("!Exact cluster.local/ns/default/sa/{name}"))
            .collect();
        writeln!(
            text,
            "policies:
- name: callers
  namespace: default
  scope: Namespace
  action: Allow
  dryRun: false
  rules: [[[{{principals: [{}]}}]]]",
            principals.join(", ")
        )
        .expect("a string takes text");
    }
    text.push_str("services: []\n");
    text
}
