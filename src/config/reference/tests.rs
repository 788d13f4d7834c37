//! What the reference says is what is read, and what holds without a key is what it says.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Item, header_line, reference, walk};
use crate::config::document::Document;
use crate::config::place::{Place, Problems};
use crate::config::raw::File;
use crate::config::read::Read as _;
use crate::config::shape::{KeyShape, Shape, TableShape};
use crate::config::{self, Options};

/// The reference with every setting in force.
fn settings() -> String {
    let line = |line: &str| {
        let setting = line.strip_prefix('#').filter(|rest| !rest.starts_with(' '));
        format!("{}\n", setting.unwrap_or(line))
    };
    reference().lines().map(line).collect()
}

#[test]
fn every_setting_is_read() {
    let text = settings().replace(".NAME]", ".8080]");
    let mut out = Problems::default();
    let document = Document::toml(0, &text, &mut out);
    let file = File::read(&document.root, &Place::top(0), &mut out);
    let found = out.located(&[("reference.toml".into(), text)]);
    assert_eq!(found.errors, []);
    assert!(file.is_some());
}

#[test]
fn a_setting_of_the_wrong_type_is_seen() {
    let text = settings().replace("drain = \"5s\"", "drain = 5");
    let mut out = Problems::default();
    let document = Document::toml(0, &text, &mut out);
    assert!(File::read(&document.root, &Place::top(0), &mut out).is_some());
    assert!(out.count() > 0);
}

#[test]
fn every_key_has_a_sentence_and_a_sample() {
    walk(&mut |item| match item {
        Item::Table { path, key, .. } => {
            assert!(key.sentence().ends_with('.'), "{path}: {}", key.sentence());
        }
        Item::Key(key) => {
            let sentence = key.sentence();
            assert!(sentence.ends_with('.'), "{}: `{sentence}`", key.key);
            let sample = key.sample();
            assert!(
                !sample.is_empty() && !sample.contains("\"\""),
                "{}",
                key.key
            );
        }
    });
}

/// One name, one table: the schema has one definition for it.
#[test]
fn names_of_tables_are_their_own() {
    fn visit<'s>(shape: &'s Shape, seen: &mut BTreeMap<&'static str, &'s TableShape>) {
        match shape {
            Shape::Table(table) => {
                let first = *seen.entry(table.name).or_insert(table);
                assert_eq!(first, table.as_ref());
                table.keys.iter().for_each(|key| visit(&key.shape, seen));
            }
            Shape::List { item, .. } => visit(item, seen),
            Shape::Map(value) => visit(value, seen),
            Shape::Either(all) => all.iter().for_each(|one| visit(one, seen)),
            Shape::Any => panic!("a key of which nothing is known"),
            Shape::Text { .. } | Shape::Integer { .. } | Shape::Boolean | Shape::Words(_) => {}
        }
    }
    let file = File::shape();
    let mut seen = BTreeMap::new();
    visit(&file, &mut seen);
    assert!(seen.len() > 60, "{}", seen.len());
}

/// Configurations that end with a table to which its keys are added.
const ENDS: &[(&str, &str)] = &[
    ("process", ""),
    ("limits", ""),
    ("tcp.tcpKeepalive", ""),
    ("tcp", ""),
    ("authority", ""),
    ("mesh", ""),
    ("records", "[records]\npath = \"stdout\"\n"),
    ("mesh.compat", ""),
    ("node", NODE),
    ("node.capture", NODE),
    (
        "ingress.listener",
        "[[gateway]]\nname = \"e\"\ngatewayClassName = \"ringgate-ingress\"\naddress = \"10.1.0.9\"\n[[ingress]]\ngateway = \"default/e\"\n[[ingress.listener]]\naddress = \"10.1.0.9:443\"\ncertificate = \"c.pem\"\nkey = \"file:k.pem\"\n",
    ),
    (
        "workloadApi",
        "[workloadApi]\nsocket = \"/s\"\nentry = [{ workload = \"default/web\", match.uid = 7 }]\n",
    ),
    (
        "gateway",
        "[[gateway]]\nname = \"w\"\ngatewayClassName = \"istio-waypoint\"\naddress = \"10.1.0.9\"\n",
    ),
    (
        "workloadEntry",
        "[[workloadEntry]]\nname = \"x\"\nserviceAccount = \"x\"\naddress = \"10.1.0.8\"\n",
    ),
    ("serviceEntry", OUTSIDE),
    (
        "destinationRule.trafficPolicy.loadBalancer.localityLbSetting",
        RULE,
    ),
    ("destinationRule.trafficPolicy.outlierDetection", RULE),
    (
        "destinationRule.trafficPolicy.healthCheck",
        "[[destinationRule]]\nname = \"d\"\nhost = \"web.example\"\n[destinationRule.trafficPolicy.healthCheck]\ntcpHealthCheck = {}\n",
    ),
    (
        "destinationRule.trafficPolicy.healthCheck.httpHealthCheck",
        "[[destinationRule]]\nname = \"d\"\nhost = \"web.example\"\n[destinationRule.trafficPolicy.healthCheck.httpHealthCheck]\npath = \"/healthz\"\n",
    ),
    (
        "extensionProvider.oidc",
        "[[extensionProvider]]\nname = \"login\"\n[extensionProvider.oidc]\nissuer = \"https://a.example\"\nclientId = \"c\"\n",
    ),
    (
        "extensionProvider.envoyExtAuthzGrpc",
        "[[extensionProvider]]\nname = \"opa\"\n[extensionProvider.envoyExtAuthzGrpc]\nservice = \"web.example\"\nport = 80\n",
    ),
    (
        "extensionProvider.envoyExtAuthzHttp",
        "[[extensionProvider]]\nname = \"opa\"\n[extensionProvider.envoyExtAuthzHttp]\nservice = \"web.example\"\nport = 80\n",
    ),
    ("metrics", "[metrics]\nlisten = \"127.0.0.1:15020\"\n"),
    (
        "peerAuthentication",
        "[[peerAuthentication]]\nname = \"p\"\n",
    ),
    (
        "requestAuthentication.jwtRules",
        "[[requestAuthentication]]\nname = \"r\"\n[[requestAuthentication.jwtRules]]\nissuer = \"https://a.example\"\n",
    ),
    (
        "authorizationPolicy",
        "[[authorizationPolicy]]\nname = \"p\"\n",
    ),
    (
        "httpRoute",
        "[[httpRoute]]\nname = \"r\"\nparentRefs = [{ kind = \"Service\", name = \"web\" }]\nrules = [{ backendRefs = [{ name = \"web\", port = 80 }] }]\n",
    ),
    (
        "httpRoute.rules.retry",
        "[[httpRoute]]\nname = \"r\"\nparentRefs = [{ kind = \"Service\", name = \"web\" }]\n[[httpRoute.rules]]\nbackendRefs = [{ name = \"web\", port = 80 }]\n",
    ),
    (
        "rateLimit.tokenBucket",
        "[[rateLimit]]\nname = \"l\"\n[rateLimit.tokenBucket]\nmaxTokens = 9\nfillInterval = \"1s\"\n",
    ),
];

const NODE: &str = "[[node]]\nname = \"n\"\nhbone = \"[::]:15008\"\noutbound = \"[::]:15001\"\ninbound = [\"[::]:15006\"]\n[[node.workload]]\nname = \"default/web\"\nmatch.uid = 7\n";
const OUTSIDE: &str = "[[serviceEntry]]\nname = \"o\"\nhosts = [\"o.example\"]\nports = [{ number = 80, name = \"http\", protocol = \"HTTP\" }]\nresolution = \"DNS\"\n";
const RULE: &str = "[[destinationRule]]\nname = \"d\"\nhost = \"web.example\"\n";

/// What all of them have: a service with a waypoint, its workload, and a node.
const BASE: &str = "\
[[gateway]]\nname = \"waypoint\"\ngatewayClassName = \"istio-waypoint\"\naddress = \"10.1.0.10\"\n\
[[workloadEntry]]\nname = \"web\"\nserviceAccount = \"web\"\naddress = \"10.1.0.3\"\nlabels = { app = \"web\" }\n\
[[serviceEntry]]\nname = \"web\"\nhosts = [\"web.example\"]\nlocation = \"MESH_INTERNAL\"\nresolution = \"STATIC\"\n\
labels = { \"istio.io/use-waypoint\" = \"waypoint\" }\nworkloadSelector.labels = { app = \"web\" }\n\
ports = [{ number = 80, name = \"http\", protocol = \"HTTP\" }]\n";

/// Tables whose defaults are shown elsewhere, or hold only where more is configured.
const NOT_TRIED: &[&str] = &[
    // Their keys are judged together with what they belong to.
    "destinationRule.trafficPolicy.loadBalancer.consistentHash.ringHash",
    "destinationRule.trafficPolicy.loadBalancer.consistentHash.maglev",
    "extensionProvider.envoyExtAuthzHttp.includeRequestBodyInCheck",
    "extensionProvider.envoyExtAuthzGrpc.includeRequestBodyInCheck",
    "serviceEntry.endpoints",
    "httpRoute.parentRefs",
    "httpRoute.rules.matches.path",
    "httpRoute.rules.matches.headers",
    "httpRoute.rules.matches.queryParams",
    "httpRoute.rules.filters.requestRedirect",
    "httpRoute.rules.filters.requestMirror",
    "httpRoute.rules.filters.requestMirror.backendRef",
    "httpRoute.rules.filters.requestMirror.fraction",
    "httpRoute.rules.backendRefs",
    "peerAuthentication.mtls",
    "peerAuthentication.portLevelMtls",
    // `namespace` of these is that of what they name.
    "serviceAccount",
    "destinationRule",
    "requestAuthentication",
    "rateLimit",
];

/// The text before `key` of the table at `path`, with the header of that table last.
fn before(path: &str, end: &str) -> String {
    let last = end.lines().rfind(|line| line.starts_with('['));
    let header = header_line(super::Header::Single, path);
    let list = format!("[{header}]");
    let open = last == Some(header.as_str()) || last == Some(list.as_str());
    let process = if path == "authority" {
        ""
    } else {
        "[authority]\n"
    };
    let header = if open {
        String::new()
    } else {
        format!("{header}\n")
    };
    format!("{process}{BASE}{end}{header}")
}

fn loaded(text: &str) -> String {
    let files = [("f.toml".into(), text.to_owned())];
    match config::parse_with(&files, Path::new("/etc/ringgate"), Options::default()) {
        Ok(config) => format!("{:?}\n{:?}", config.process, config.mesh),
        Err(errors) => format!("{text}\n{errors}"),
    }
}

#[test]
fn defaults_are_what_holds_without_the_key() {
    let (mut tried, mut wrong) = (0, Vec::new());
    let mut path_now = String::new();
    walk(&mut |item| match item {
        Item::Table { path, .. } => path_now = path.to_owned(),
        Item::Key(key) => match same(&path_now, key) {
            None => {}
            Some(Ok(())) => tried += 1,
            Some(Err(why)) => wrong.push(why),
        },
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried > 70, "{tried}");
}

/// Whether a key with its default means what the configuration without it means; nothing if that cannot be tried here.
fn same(path: &str, key: &KeyShape) -> Option<Result<(), String>> {
    let value = key.default_value().filter(|_| !key.required)?;
    let Some((_, end)) = ENDS.iter().find(|(of, _)| *of == path) else {
        let known = NOT_TRIED.contains(&path);
        return (!known).then(|| Err(format!("nothing to try {path}.{} in", key.key)));
    };
    let (without, with) = if path == "node" {
        // Keys of a node stand before its workloads.
        let text = before("process", end).replace("[process]\n", "");
        let with = format!("{} = {value}\n[[node.workload]]", key.key);
        (text.clone(), text.replace("[[node.workload]]", &with))
    } else {
        let text = before(path, end);
        let with = format!("{text}{} = {value}\n", key.key);
        (text, with)
    };
    let (without, with) = (loaded(&without), loaded(&with));
    let fine = without == with && without.starts_with("Process");
    let why = || {
        format!(
            "{path}.{} = {value}\nwithout: {without}\nwith: {with}\n",
            key.key
        )
    };
    Some(if fine { Ok(()) } else { Err(why()) })
}
