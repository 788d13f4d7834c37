//! `ringgate explain`: golden files of the talk's story, and the edits it tells, written into the configuration.
//!
//! The first line of a golden file is the command, the rest is what it prints, and its exit code. A new case is a file with
//! its first line; `RINGGATE_REGENERATE=1` writes the rest of all of them anew.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test ends by panicking, and reads files"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringgate");
const CASES: &str = "tests/data/explain";
const PROMPT: &str = "$ ringgate explain ";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn explain(args: &[String]) -> Output {
    Command::new(PROGRAM)
        .arg("explain")
        .args(args)
        .current_dir(root())
        .output()
        .unwrap()
}

/// Splits a command line at spaces outside single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    assert!(!quoted, "an open quote in {line}");
    words
}

/// The golden files and their commands.
fn cases() -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(root().join(CASES)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = paths
        .filter(|p| p.extension().is_some_and(|e| e == "txt"))
        .collect();
    paths.sort();
    assert!(paths.len() >= 30, "golden files are missing: {paths:?}");
    let command = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let first = text.lines().next().unwrap().to_owned();
        assert!(first.starts_with(PROMPT), "{}: {first}", path.display());
        (path, first)
    };
    paths.into_iter().map(command).collect()
}

#[test]
fn golden_files() {
    let regenerate = std::env::var("RINGGATE_REGENERATE").is_ok_and(|v| v == "1");
    let mut wrong = Vec::new();
    for (path, command) in cases() {
        let output = explain(&words(command.strip_prefix(PROMPT).unwrap()));
        let got = format!(
            "{command}\n{}{}exit code {}\n",
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
            output.status.code().unwrap()
        );
        if regenerate {
            fs::write(&path, &got).unwrap();
        }
        let want = fs::read_to_string(&path).unwrap();
        if got != want {
            wrong.push(format!(
                "{}:\n--- is\n{got}\n--- should be\n{want}",
                path.display()
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{}\nif that is meant: RINGGATE_REGENERATE=1 cargo test --test explain, and read the difference",
        wrong.join("\n")
    );
}

/// A directory that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ringgate-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Where a table of the top level begins: `[[x]]` or `[x]`, but not a rule of a policy.
fn begins_resource(line: &str) -> bool {
    line.starts_with('[') && !line.starts_with("[[authorizationPolicy.rules]]")
}

/// The lines of an authorization policy, from its table on.
fn section(lines: &[String], name: &str) -> (usize, usize) {
    let (namespace, name) = name.split_once('/').unwrap();
    let own = |start: usize, end: usize| {
        let has =
            |key: &str, value: &str| lines[start..end].contains(&format!("{key} = \"{value}\""));
        lines[start] == "[[authorizationPolicy]]"
            && has("name", name)
            && has("namespace", namespace)
    };
    let starts = (0..lines.len()).filter(|at| begins_resource(&lines[*at]));
    let starts: Vec<usize> = starts.chain([lines.len()]).collect();
    let found = starts.windows(2).find(|w| own(w[0], w[1]));
    let found = found.unwrap_or_else(|| panic!("no policy {namespace}/{name}"));
    (found[0], found[1])
}

/// Writes an edit into a configuration as its words say.
fn apply(config: &str, edit: &Value) -> String {
    let mut lines: Vec<String> = config.lines().map(str::to_owned).collect();
    let what = edit["edit"].as_str().unwrap();
    let what = what.split(" (").next().unwrap();
    let toml = edit["toml"].as_str().unwrap().lines().map(str::to_owned);
    if let Some(policy) = what.strip_prefix("add a rule to authorizationPolicy ") {
        let (_, end) = section(&lines, policy);
        lines.splice(end..end, toml);
    } else if let Some(rest) = what.strip_prefix("in authorizationPolicy ") {
        let (policy, rule) = rest.split_once(", write instead of rule ").unwrap();
        let (start, end) = section(&lines, policy);
        let is_rule = |at: &usize| lines[*at].starts_with("[[authorizationPolicy.rules]]");
        let rules: Vec<usize> = (start..end).filter(is_rule).chain([end]).collect();
        let at: usize = rule.parse().unwrap();
        lines.splice(rules[at]..rules[at + 1], toml);
    } else if let Some(policy) = what.strip_prefix("remove authorizationPolicy ") {
        let (start, end) = section(&lines, policy);
        lines.drain(start..end);
    } else {
        assert!(what.starts_with("add "), "{what}");
        lines.extend(toml);
    }
    lines.join("\n") + "\n"
}

/// Every list of edits that a golden file tells is complete: with it, the same call is allowed.
#[test]
fn edits_allow() {
    let dir = Dir::new("explain-edits");
    let mut tried = 0;
    for (path, command) in cases() {
        let args = words(command.strip_prefix(PROMPT).unwrap());
        let json = [args.clone(), vec!["--output".to_owned(), "json".to_owned()]].concat();
        let output = explain(&json);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let allowed = report["verdict"] == "allow";
        assert_eq!(output.status.code(), Some(i32::from(!allowed)), "{command}");
        assert!(!allowed || report["edits"] == json!([]), "{command}");
        for edits in report["edits"].as_array().unwrap() {
            let at = args.iter().position(|a| a == "--config").unwrap() + 1;
            let mut config = fs::read_to_string(root().join(&args[at])).unwrap();
            for edit in edits.as_array().unwrap() {
                config = apply(&config, edit);
            }
            let file = dir.0.join("edited.toml");
            fs::write(&file, &config).unwrap();
            let mut again = args.clone();
            again[at] = file.to_str().unwrap().to_owned();
            let output = explain(&again);
            let text = String::from_utf8_lossy(&output.stdout);
            let problems = String::from_utf8_lossy(&output.stderr);
            assert_eq!(
                output.status.code(),
                Some(0),
                "{}: {edits:#}\n{text}{problems}",
                path.display()
            );
            tried += 1;
        }
    }
    assert!(tried >= 20, "only {tried} lists of edits");
}

/// A key set and a token that one of its keys signed.
fn signed(claims: &Value) -> (String, String) {
    let pair = KeyPair::generate().unwrap();
    let (x, y) = pair.der_bytes()[1..].split_at(32);
    let keys = json!({"keys": [{
        "kty": "EC", "crv": "P-256", "alg": "ES256",
        "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
    }]});
    let key = EncodingKey::from_ec_der(&pair.serialize_der());
    let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), claims, &key).unwrap();
    (keys.to_string(), token)
}

#[test]
fn tokens_are_verified() {
    let dir = Dir::new("explain-tokens");
    let claims = json!({
        "iss": "https://auth.example.test", "sub": "user-7", "groups": ["staff"], "exp": 1_795_608_000,
    });
    let (keys, token) = signed(&claims);
    let (other, _) = signed(&claims);
    for (keys, time, want) in [
        (&keys, "2026-11-25T11:00:00Z", "allow"),
        (&keys, "2026-11-25T12:30:00Z", "401 Jwt is expired"),
        (&other, "2026-11-25T11:00:00Z", "401 Jwt verification fails"),
    ] {
        let file = dir.0.join("jwks.json");
        fs::write(&file, keys).unwrap();
        let args = [
            "--config",
            "tests/data/explain/staff.toml",
            "--from",
            "default/frontend-service",
            "--to",
            "customer-api",
            "--path",
            "/api/v1/users/7",
            "--output",
            "json",
            "--time",
            time,
            "--token",
            &token,
            "--jwks",
            file.to_str().unwrap(),
        ];
        let output = explain(&args.map(str::to_owned));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let got = if want == "allow" {
            &report["verdict"]
        } else {
            &report["answer"]
        };
        assert_eq!(got, want, "{report:#}");
        assert!(!report.to_string().contains(&token), "the token is told");
    }
}

/// A provider's no in a mesh in dry run is told of and not enforced, a login is, as on the data path.
/// Whose plaintext is refused by now is not told of the token that was refused before.
#[test]
fn a_refused_token_is_not_what_ends_it_where_plaintext_does() {
    let dir = Dir::new("explain-strict");
    let main = dir.0.join("strict.toml");
    let strict = "[[peerAuthentication]]\nname = \"strict\"\nnamespace = \"istio-system\"\nmtls.mode = \"STRICT\"\n";
    let open = fs::read_to_string(root().join("tests/data/explain/token.toml")).unwrap();
    let record = json!({
        "time": "2026-11-27T03:00:00.000Z", "generation": 4, "role": "node", "instance": "default/api", "kind": "request",
        "source": {"principal": null, "address": "10.0.0.1:40001"},
        "destination": {"service": "default/api", "workload": "default/api", "address": "10.0.0.10", "port": 80},
        "user": {"principal": null}, "request": {"method": "GET", "host": "api", "path": "/v1/users"},
        "verdict": "deny", "policy": null, "rule": null, "reason": "token: token audience is not allowed",
        "status": 403, "event": "close", "close": "token",
    });
    let token = "403 token audience is not allowed";
    for (config, want, decision) in [
        (open.clone(), token, token),
        (
            format!("{open}\n{strict}"),
            "connection reset",
            "connection closed",
        ),
    ] {
        fs::write(&main, config).unwrap();
        let args = [
            "--config",
            main.to_str().unwrap(),
            "--record",
            &record.to_string(),
            "--output",
            "json",
        ];
        let output = explain(&args.map(str::to_owned));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["answer"], want, "{report:#}");
        let decision = format!("decision: DENY, {decision}");
        assert_eq!(report["steps"][4], decision.as_str(), "{report:#}");
        assert_eq!(report["record"]["withClaims"], false, "{report:#}");
    }
}

#[test]
fn provider_in_dry_run() {
    let dir = Dir::new("explain-dry-run");
    let file = dir.0.join("mesh.toml");
    let text = fs::read_to_string(root().join(CASES).join("staff.toml")).unwrap();
    let dry = text.replacen("[mesh]\n", "[mesh]\ndangerous_dryRun = true\n", 1);
    assert_ne!(text, dry);
    let opa = r#"
[[serviceEntry]]
name = "opa"
namespace = "edge"
hosts = ["opa.example.test"]
ports = [{ number = 9191, name = "grpc", protocol = "GRPC" }]
location = "MESH_EXTERNAL"
resolution = "STATIC"
endpoints = [{ address = "10.0.0.50" }]

[[extensionProvider]]
name = "opa"
envoyExtAuthzGrpc = { service = "edge/opa.example.test", port = 9191 }

[[authorizationPolicy]]
name = "ask-opa"
namespace = "default"
targetRefs = [{ group = "gateway.networking.k8s.io", kind = "Gateway", name = "customer-api" }]
action = "CUSTOM"
provider.name = "opa"
rules = [{}]
"#;
    fs::write(&file, dry + opa).unwrap();
    let case = fs::read_to_string(root().join(CASES).join("provider-says-no.txt")).unwrap();
    let command = case.lines().next().unwrap().strip_prefix(PROMPT).unwrap();
    let config = format!("{CASES}/staff.toml");
    let command = command.replace(&config, &file.display().to_string());
    assert_eq!(explain(&words(&command)).status.code(), Some(1), "a login");
    let config = file.display().to_string();
    let call = [
        "--config",
        &config,
        "--to",
        "customer-api",
        "--custom",
        "opa=deny",
    ];
    let from = ["--from", "cluster.local/ns/default/sa/frontend-service"];
    let output = explain(
        &[&call[..], &from]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>(),
    );
    let told = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}{error}");
    assert!(
        told.contains("ALLOWED in dry run, would be denied at"),
        "{told}"
    );
    assert!(told.contains("it would be DENY, what provider"), "{told}");
}

/// What cannot be explained is neither allowed nor denied.
#[test]
fn usage_errors() {
    let demo = ["--config", "config/demo.toml"];
    for (args, want) in [
        (vec!["--from", "anonymous"], "--to"),
        (vec!["--to", "customer-api"], "--from"),
        (
            vec!["--from", "default/nobody", "--to", "customer-api"],
            "no workload or gateway",
        ),
        (
            vec!["--from", "spiffe://UP/x", "--to", "customer-api"],
            "SPIFFE ID",
        ),
        (
            vec!["--from", "anonymous", "--to", "no/where"],
            "no workload, service or gateway",
        ),
        (vec!["--from", "anonymous", "--to", "edge/public"], "--host"),
        // A terminal obeys nothing of a record.
        (
            vec![
                "--record",
                r#"{"verdict":"deny","role":"node","destination":{"workload":"a/b\u001b[2J"}}"#,
            ],
            "workload `a/b\\u{1b}[2J`",
        ),
        (
            vec!["--from", "anonymous", "--to", "partner.example.test"],
            "does not pass this mesh",
        ),
        (
            vec![
                "--from",
                "anonymous",
                "--to",
                "customer-api",
                "--custom",
                "x",
            ],
            "NAME=deny",
        ),
        (
            vec![
                "--from",
                "anonymous",
                "--to",
                "customer-api",
                "--time",
                "noon",
            ],
            "`--time noon`: expected seconds since 1970",
        ),
        (vec!["--record", "{}"], "`verdict`"),
        (vec!["--record", "x"], "not JSON"),
        (vec!["--log", "/nowhere", "--id", "1/1"], "cannot be read"),
        (
            vec!["--log", "tests/data/explain/token.jsonl", "--id", "4"],
            "has `4` as its `id` or `request.id`",
        ),
    ] {
        let args: Vec<String> = demo.iter().chain(&args).map(|a| (*a).to_owned()).collect();
        let output = explain(&args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
        assert!(error.contains(want), "{args:?}: {error}");
    }
    let broken =
        explain(&["--config", "/nowhere", "--from", "anonymous", "--to", "x"].map(str::to_owned));
    assert_eq!(broken.status.code(), Some(2));
}

/// A name that is nearly right is told.
#[test]
fn near_names() {
    let refused = |line: &str, want: &str| {
        let output = explain(&words(&format!("--config config/demo.toml {line}")));
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{line}: {error}");
        assert!(error.contains(want), "{line}: {error}");
    };
    let reviews = "did you mean `default/reviews-service`?";
    refused("--from reviews-service --to customer-api", reviews);
    refused("--from default/reviews-servic --to customer-api", reviews);
    let api = "did you mean `default/customer-api`?";
    refused("--from anonymous --to default/customer-apo", api);
    let host = "no service has this host, did you mean `customer-api`?";
    refused("--from default/frontend-service --to customer-apo", host);
    let opa = "there is no extensionProvider `opa`";
    refused("--from anonymous --to customer-api --custom opa=deny", opa);
}

/// What a route answers itself is not told as forwarded to nobody.
#[test]
fn redirects() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mesh.toml");
    let mesh = r#"
[authority]
[[gateway]]
name = "public"
namespace = "edge"
gatewayClassName = "ringgate-ingress"
address = "10.0.0.20"
[[httpRoute]]
name = "old"
namespace = "edge"
parentRefs = [{ name = "public" }]
rules = [{ filters = [{ type = "RequestRedirect", requestRedirect = { hostname = "new.example.test", statusCode = 301 } }] }]
"#;
    fs::write(&file, mesh).unwrap();
    let line = "--from anonymous --to edge/public --host old.example.test";
    let output = explain(&words(&format!("--config {} {line}", file.display())));
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("redirected, 301"), "{told}");
    assert!(told.contains("route edge/old/0, which redirects"), "{told}");
    assert!(
        !told.contains("forwarded") && !told.contains("unknown"),
        "{told}"
    );
}
