//! What the settings come to, and what is said of those that make no sense.

use super::*;
use crate::config::{self, Config, ConfigErrors};

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    let file = (PathBuf::from("life.toml"), text.to_owned());
    config::parse(&[file], std::path::Path::new("/etc/ringgate"))
}

fn text(process: &str, tables: &str) -> String {
    format!(
        "[process]\n{process}\n[identity]\nfiles = [\"certs\"]\n{tables}\n[mesh]\n[[workloadEntry]]\nname = \"a\"\n\
         namespace = \"shop\"\nserviceAccount = \"a\"\naddress = \"10.0.0.1\"\n"
    )
}

fn good(process: &str, tables: &str) -> Config {
    parse(&text(process, tables)).unwrap_or_else(|e| panic!("{e}"))
}

fn node(lines: &str) -> String {
    format!(
        "[[node]]\nname = \"n\"\n[[node.workload]]\nname = \"shop/a\"\nhbone = \"10.0.0.1:15008\"\n{lines}"
    )
}

#[test]
fn what_is_not_said_is_sane() {
    let process = good("", &node("")).process;
    assert_eq!(process.drain_ms, 5000);
    assert_eq!(process.handover, None);
    assert_eq!(process.limits, Limits::default());
    assert_eq!(process.tcp, TcpOptions::default());
    assert_eq!(process.nodes[0].workloads[0].limits, Limits::default());
}

#[test]
fn guards_are_what_is_said() {
    let tables = "[limits]\nmaxConnectionsPerSource = 7\nmaxRequestsPerConnection = 8\nmaxRequestBodyBytes = 9\n\
                  maxMemoryMib = 64\nrequestHeadersTimeout = \"2s\"\nrequestBodyTimeout = \"5s\"\nresponseReadTimeout = \"90s\"\nstreamIdleTimeout = \"5m\"\n";
    let limits = good("", &format!("{tables}{}", node(""))).process.limits;
    assert_eq!((limits.per_source, limits.requests), (7, Some(8)));
    assert_eq!((limits.body, limits.memory), (Some(9), Some(64 << 20)));
    assert_eq!((limits.head_ms, limits.stream_idle_ms), (2000, 300_000));
    assert_eq!((limits.body_ms, limits.read_ms), (5000, 90_000));
    for (line, key, expected) in [
        (
            "maxConnectionsPerSource = 0",
            "maxConnectionsPerSource",
            "at least 1",
        ),
        (
            "maxRequestsPerConnection = 0",
            "maxRequestsPerConnection",
            "at least 1",
        ),
        ("maxMemoryMib = 15", "maxMemoryMib", "at least 16"),
        (
            "requestHeadersTimeout = \"0s\"",
            "requestHeadersTimeout",
            "100ms to 24h",
        ),
        (
            "streamIdleTimeout = \"25h\"",
            "streamIdleTimeout",
            "100ms to 24h",
        ),
    ] {
        let file = text("", &format!("[limits]\n{line}\n{}", node("")));
        let said = parse(&file).unwrap_err().to_string();
        assert!(said.contains(&format!("limits.{key}")), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn what_is_said_holds() {
    let tables = "[limits]\nmaxConnections = 10\nmaxInboundConnections = 7\nmaxOutboundConnections = 8\n\
                  [tcp]\ntcpKeepalive = { time = \"30s\", interval = \"10s\", probes = 4 }\n";
    let tables = format!("{tables}{}", node("maxOutboundConnections = 3"));
    let config = good(
        "drain = \"90s\"\nhandover = \"/run/ringgate/handover.sock\"",
        &tables,
    );
    let process = config.process;
    assert_eq!(process.drain_ms, 90_000);
    let path = process.handover.unwrap();
    assert_eq!(path.to_str(), Some("/run/ringgate/handover.sock"));
    assert_eq!(process.limits.connections, Some(10));
    let own = process.nodes[0].workloads[0].limits;
    assert_eq!((own.inbound, own.outbound), (7, 3));
    // As long as all probes take.
    assert_eq!(process.tcp.user_timeout_ms, 70_000);
    let written = good("", &format!("[tcp]\nuserTimeout = \"0s\"\n{}", node("")));
    assert_eq!(written.process.tcp.user_timeout_ms, 0);
}

#[test]
fn a_reload_does_not_change_them() {
    let with =
        |process: &str, tables: &str| good(process, &format!("{tables}{}", node(""))).process;
    let plain = with("", "");
    for (process, tables, table) in [
        ("drain = \"1s\"", "", "[process]"),
        ("handover = \"/run/h\"", "", "[process]"),
        ("", "[limits]\nmaxConnections = 10\n", "[limits]"),
        // Workloads have it of the whole process.
        ("", "[limits]\nmaxRequestBodyBytes = 1000\n", "[limits]"),
        ("", "[limits]\nmaxInboundConnections = 10\n", "[limits]"),
        ("", "[tcp]\nuserTimeout = \"300s\"\n", "[tcp]"),
    ] {
        assert_eq!(with(process, tables).differences(&plain), [table]);
    }
}

#[test]
fn what_makes_no_sense_is_said_with_its_place() {
    for (process, tables, key, word) in [
        ("drain = \"2h\"", "", "process.drain", "0s to 1h"),
        ("drain = 5", "", "process.drain", "a duration"),
        (
            "",
            "[limits]\nmaxConnections = 0\n",
            "limits.maxConnections",
            "at least 1",
        ),
        (
            "",
            "[limits]\nmaxConnection = 1\n",
            "limits.maxConnection",
            "maxConnections",
        ),
        (
            "",
            "[tcp]\nuserTimeout = \"10ms\"\n",
            "tcp.userTimeout",
            "1s to 24h",
        ),
        (
            "",
            "[tcp]\ntcpKeepalive.time = \"1500ms\"\n",
            "tcp.tcpKeepalive.time",
            "whole seconds",
        ),
        (
            "",
            "[tcp]\ntcpKeepalive.probes = 0\n",
            "tcp.tcpKeepalive.probes",
            "1 to 127",
        ),
    ] {
        let tables = format!("{tables}{}", node(""));
        let errors = parse(&text(process, &tables)).unwrap_err();
        let told = errors.to_string();
        assert!(told.contains(key) && told.contains(word), "{key}: {told}");
        assert!(told.contains("life.toml:"), "{told}");
    }
    let long = format!("handover = \"/run/{}\"", "x".repeat(120));
    let errors = parse(&text(&long, &node(""))).unwrap_err();
    assert!(errors.to_string().contains("100 bytes"), "{errors}");
    let both =
        |state: &str| format!("[process]\nhandover = \"/run/h\"\n[authority]\n{state}\n[mesh]\n");
    let errors = parse(&both("")).unwrap_err();
    assert!(
        errors.to_string().contains("expected `stateDir`"),
        "{errors}"
    );
    parse(&both("stateDir = \"state\"")).unwrap();
    let peers = "[limits]\nmaxConnectionsPerPeer = 5\n";
    let hosts = text("", &format!("{peers}{}", node("")));
    for (file, warns) in [
        (hosts, false),
        (format!("{peers}[authority]\n[mesh]\n"), true),
    ] {
        let config = parse(&file).unwrap_or_else(|e| panic!("{e}"));
        let mut warnings = config.warnings.iter().map(ToString::to_string);
        let warned =
            warnings.any(|w| w.contains("maxConnectionsPerPeer") && w.contains("[[node]]"));
        assert_eq!(warned, warns, "{:?}", config.warnings);
    }
    let config = good("", &format!("[tcp]\nuserTimeout = \"60s\"\n{}", node("")));
    let warned = config
        .warnings
        .iter()
        .any(|w| w.to_string().contains("one lost probe"));
    assert!(warned, "{:?}", config.warnings);
}
