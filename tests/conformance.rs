//! Conformance: the cases of `tests/data/conformance` and `tests/data/cases` through the library and through
//! `ringgate policy test`, and the tests of the demo's policies.
//!
//! A case that fails must stand in `tests/data/known-gaps.toml` with its reason, and one that stands there must fail.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test program: a broken case file ends it"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ringgate::cli::cases::{self, Gaps, Options, Report, Status};
use serde_json::Value;

const GAPS: &str = "tests/data/known-gaps.toml";

fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").unwrap().into()
}

/// Every file of both directories, the key set and the trust bundles among them.
fn files() -> Vec<PathBuf> {
    let mut all = Vec::new();
    for dir in ["tests/data/conformance", "tests/data/cases"] {
        for entry in std::fs::read_dir(root().join(dir)).unwrap() {
            all.push(Path::new(dir).join(entry.unwrap().file_name()));
        }
    }
    all.sort();
    all
}

fn gaps() -> Gaps {
    Gaps::parse(&std::fs::read_to_string(root().join(GAPS)).unwrap()).unwrap()
}

fn run(files: &[PathBuf], gaps: Option<&Gaps>) -> Report {
    let files: Vec<PathBuf> = files.iter().map(|f| root().join(f)).collect();
    cases::run(&files, &Options::default(), gaps).unwrap()
}

fn command(args: &[&str], files: &[PathBuf]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringgate"));
    command.current_dir(root()).args(["policy", "test"]);
    command.args(args).args(files).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn through_the_library() {
    let report = run(&files(), Some(&gaps()));
    let failures: Vec<String> = report.failures().collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(report.notes, Vec::<String>::new(), "gaps without a case");
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for case in report.cases.iter().filter(|c| c.status == Status::Passed) {
        *kinds.entry(&case.kind).or_default() += 1;
    }
    // At least so many of each: files that are gone or not read are not cases that pass.
    for (kind, least) in [
        ("authz", 1150),
        ("normalize", 110),
        ("validate", 150),
        ("attach", 45),
        ("egress", 23),
        ("peerauthn", 18),
        ("san", 14),
        ("td_expand", 14),
        ("match", 5),
        ("jwt", 140),
        ("id", 55),
        ("cert", 60),
        ("jwt-svid", 15),
    ] {
        let got = kinds.get(kind).copied().unwrap_or_default();
        assert!(got >= least, "{got} cases of kind {kind}: {kinds:?}");
    }
}

#[test]
fn through_the_command() {
    let output = command(&["--known-gaps", GAPS], &files());
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    let summary = run(&files(), Some(&gaps())).summary();
    assert_eq!(stdout.lines().collect::<Vec<_>>(), [summary.as_str()]);
    assert_eq!(stderr, "");
    // One object per case, and nothing else.
    let output = command(&["--known-gaps", GAPS, "--output", "json"], &files());
    let objects: Vec<Value> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(objects.len(), run(&files(), None).cases.len());
    let passed = objects.iter().filter(|o| o["result"] == "passed").count();
    assert!(summary.starts_with(&format!("{passed} passed, 0 failed")));
}

/// A case whose expectation is turned round fails: none passes whatever is judged.
#[test]
fn every_case_can_fail() {
    let mut out = tempfile::Builder::new()
        .suffix(".jsonl")
        .tempfile()
        .unwrap();
    let mut turned = 0;
    for file in files() {
        if file.extension().is_none_or(|e| e != "jsonl") {
            continue;
        }
        for line in std::fs::read_to_string(root().join(&file)).unwrap().lines() {
            let mut case: Value = serde_json::from_str(line).unwrap();
            if case.get("also_ok").is_none() && turn(&mut case) {
                turned += 1;
                std::io::Write::write_all(&mut out, format!("{case}\n").as_bytes()).unwrap();
            }
        }
    }
    let options = Options {
        jwks: Some(root().join("tests/data/conformance/jwks.json")),
        bundle: Some(root().join("tests/data/conformance/spiffe_bundle.json")),
        ..Options::default()
    };
    let report = cases::run(&[out.path().to_owned()], &options, None).unwrap();
    assert!(turned > 1500, "only {turned}");
    let passed = report.cases.iter().filter(|c| c.status == Status::Passed);
    let names: Vec<&str> = passed.map(|c| c.name.as_str()).collect();
    assert_eq!(names, Vec::<&str>::new(), "of {turned}");
    assert_eq!(report.count(Status::Failed), turned);
}

/// Turns the expectation of a case round.
fn turn(case: &mut Value) -> bool {
    let turned = |value: &Value| match value {
        Value::Bool(flag) => Value::Bool(!flag),
        Value::String(text) => match text.as_str() {
            "allow" => "deny".into(),
            "accept" => "reject".into(),
            "reject" | "anonymous" => "accept".into(),
            "deny" | "401" | "403" | "400" | "431" => "allow".into(),
            other => format!("{other}x").into(),
        },
        Value::Array(_) => Value::Array(Vec::new()),
        Value::Object(_) => serde_json::json!({ "mode": "OTHER" }),
        Value::Null | Value::Number(_) => Value::Null,
    };
    for key in ["expect", "valid", "accept"] {
        if let Some(value) = case.get(key) {
            case[key] = turned(value);
            return true;
        }
    }
    false
}

#[test]
fn tests_of_the_demo() {
    let demo = [PathBuf::from("config/demo.tests.toml")];
    let output = command(&[], &demo);
    let stdout = text(&output.stdout);
    assert!(output.status.success(), "{stdout}{}", text(&output.stderr));
    assert!(stdout.ends_with(" passed, 0 failed\n"), "{stdout}");
    // The same tests against a mesh in which the policy lets everybody in.
    let config = std::fs::read_to_string(root().join("config/demo.toml")).unwrap();
    let narrow =
        "from = [{ source.principals = [\"cluster.local/ns/default/sa/frontend-service\"] }]";
    assert!(config.contains(narrow));
    let wide = config.replacen(narrow, "from = [{ source.principals = [\"*\"] }]", 1);
    let dir = tempfile::tempdir().unwrap();
    let open = dir.path().join("open.toml");
    std::fs::write(&open, wide).unwrap();
    let output = command(&["--config", open.to_str().unwrap()], &demo);
    let stdout = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{stdout}");
    let failed = "reviews does not, although it is in the mesh: expected deny, got allow";
    assert!(stdout.contains(failed), "{stdout}");
}

/// Runs a file of this content; exit code, and what is printed, with `FILE` for its name.
fn check(name: &str, content: &str, code: i32, want: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    let output = command(&[], std::slice::from_ref(&path));
    let stdout = text(&output.stdout).replace(path.to_str().unwrap(), "FILE");
    assert_eq!(output.status.code(), Some(code), "{name}: {stdout}");
    assert!(stdout.contains(want), "{name}: {stdout}");
}

#[test]
fn mistakes_in_cases() {
    let case = r#"{"kind":"match","id":"m","pattern":"a","value":"a","expect":"#;
    check(
        "good.jsonl",
        &format!("{case}true}}"),
        0,
        "1 passed, 0 failed\n",
    );
    let want = "FILE:2: m: expected false, got true\n0 passed, 1 failed\n";
    check("bad.jsonl", &format!("\n{case}false}}\n"), 1, want);
    let want = "FILE: file: expected at least one case, got no cases\n";
    check("empty.jsonl", "\n", 1, want);
    check("text.md", "# no case\n", 1, "no cases");
    let want = "FILE:1: unnamed: not JSON";
    check("broken.jsonl", "{\"kind\":\n", 1, want);
    let want = "`what` is not a kind of case";
    check("kind.jsonl", r#"{"kind":"what"}"#, 1, want);
    check("none.jsonl", r#"{"a":1}"#, 1, "no kind");
    let want = "`autz` is not a kind of case, did you mean `authz`?";
    check("near.jsonl", r#"{"kind":"autz"}"#, 1, want);
    // Without its policies the case would be allowed.
    let case = r#"{"kind":"authz","polices":[],"expect":"allow"}"#;
    let want = "`polices`: unknown key, did you mean `policies`?";
    check("misspelt.jsonl", case, 1, want);
    let case = r#"{"kind":"authz","request":{"metod":"PUT"},"expect":"allow"}"#;
    let want = "`metod`: unknown key, did you mean `method`?";
    check("request.jsonl", case, 1, want);
    let case = r#"{"kind":"match","pattern":"a","value":"a"}"#;
    check("expect.jsonl", case, 1, "`expect` is missing");
    let absent = [root().join("tests/data/cases/absent.jsonl")];
    assert_eq!(command(&[], &absent).status.code(), Some(2));
    assert_eq!(command(&[], &[]).status.code(), Some(2));
    assert_eq!(command(&["--frobnicate"], &absent).status.code(), Some(2));
}

#[test]
fn mistakes_in_tests() {
    let demo = root().join("config/demo.toml");
    let config = format!("config = {:?}\n", demo.to_str().unwrap());
    let caller = "[[test]]\nname = \"t\"\nfrom = \"anonymous\"\n";
    let to = |name: &str, rest: &str| format!("{config}{caller}to = \"{name}\"\n{rest}\n");
    let api = |rest: &str| to("customer-api", rest);
    let deny = "expect = \"deny\"";
    check("good.toml", &api(deny), 0, "1 passed, 0 failed\n");
    let want = "FILE: file: a configuration, and no tests of one";
    check("main.toml", "[process]\nname = \"x\"\n", 1, want);
    let want = "`custom`: there is no extensionProvider `opa`";
    let custom = format!("{deny}\ncustom = {{ opa = \"deny\" }}");
    check("custom.toml", &api(&custom), 1, want);
    let want = "FILE:7: test[0].pth: unknown key, did you mean `path`?";
    check("key.toml", &api(&format!("{deny}\npth = \"/\"")), 1, want);
    check(
        "word.toml",
        &api("expect = \"dny\""),
        1,
        "did you mean `deny`?",
    );
    check(
        "status.toml",
        &api("expect = 200"),
        1,
        "not a status that is answered here",
    );
    let want = "expected one of `to`, `workload`, `gateway`";
    check(
        "two.toml",
        &api(&format!("{deny}\nworkload = \"a/b\"")),
        1,
        want,
    );
    check(
        "near.toml",
        &to("customer-apo", deny),
        1,
        "did you mean `customer-api`?",
    );
    let reason = api(&format!("{deny}\nreason = \"moon\""));
    check("reason.toml", &reason, 1, "expected a reason with `moon`");
    let policy = api(&format!("{deny}\npolicy = \"a/b\""));
    check("policy.toml", &policy, 1, "expected policy `a/b`");
    let bytes = api(&format!("{deny}\nhttp = false\npath = \"/\""));
    check("bytes.toml", &bytes, 1, "`http = false` leaves no");
    let alone = api(deny).replacen(&config, "", 1);
    check("alone.toml", &alone, 1, "no configuration");
    let gone = alone.replacen("[[test]]", "config = \"absent.toml\"\n[[test]]", 1);
    check("gone.toml", &gone, 1, "absent.toml");
}

/// A caller's own short name for a service, as its node takes it, and what a route answers itself.
#[test]
fn short_names_and_redirects() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("mesh.toml");
    let mesh = r#"
[authority]
[[gateway]]
name = "public"
namespace = "edge"
gatewayClassName = "ringgate-ingress"
address = "10.0.0.20"
[[workloadEntry]]
name = "web-1"
namespace = "shop"
serviceAccount = "web"
address = "10.0.0.1"
labels = { app = "web" }
[[workloadEntry]]
name = "till"
namespace = "shop"
serviceAccount = "till"
address = "10.0.0.2"
[[serviceEntry]]
name = "web"
namespace = "shop"
hosts = ["web.shop.svc.cluster.local"]
ports = [{ number = 8000, name = "http", protocol = "HTTP" }]
location = "MESH_INTERNAL"
resolution = "STATIC"
workloadSelector.labels = { app = "web" }
[[httpRoute]]
name = "old"
namespace = "edge"
parentRefs = [{ name = "public" }]
hostnames = ["old.example.test"]
rules = [{ filters = [{ type = "RequestRedirect", requestRedirect = { hostname = "new.example.test", statusCode = 301 } }] }]
"#;
    std::fs::write(&config, mesh).unwrap();
    let start = format!("config = {:?}\n", config.to_str().unwrap());
    let till = |to: &str| {
        format!(
            "{start}[[test]]\nname = \"t\"\nfrom = \"shop/till\"\nto = \"{to}\"\nexpect = \"allow\"\n"
        )
    };
    // Its port is the service's, not 80.
    check("short.toml", &till("web"), 0, "1 passed, 0 failed\n");
    let near = "no service has host `wbe`, did you mean `web`?";
    check("near.toml", &till("wbe"), 1, near);
    let old = |expect: &str| {
        format!(
            "{start}[[test]]\nname = \"t\"\nfrom = \"anonymous\"\ngateway = \"edge/public\"\nhost = \"old.example.test\"\nexpect = {expect}\n"
        )
    };
    check("redirect.toml", &old("301"), 0, "1 passed, 0 failed\n");
    check("allow.toml", &old("\"allow\""), 0, "1 passed, 0 failed\n");
    check("other.toml", &old("302"), 1, "expected 302, got allow");
}

/// A listed case that fails is known, one that passes fails the run, and the count of gaps is told where they are given.
#[test]
fn known_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let case = |id: &str, expect: bool| {
        format!(
            "{{\"kind\":\"match\",\"id\":\"{id}\",\"pattern\":\"a\",\"value\":\"a\",\"expect\":{expect}}}\n"
        )
    };
    let cases = file(
        "cases.jsonl",
        &(case("a/fails", false) + &case("b/passes", true)),
    );
    let list = |cases: &str| {
        file(
            "gaps.toml",
            &format!("[[gap]]\ncases = \"{cases}\"\nreason = \"why\"\n"),
        )
    };
    let run = |gaps: &Path| {
        let output = command(
            &["--known-gaps", gaps.to_str().unwrap()],
            std::slice::from_ref(&cases),
        );
        (output.status.code(), text(&output.stdout))
    };
    let (code, stdout) = run(&list("a/*"));
    assert_eq!(
        (code, stdout.as_str()),
        (Some(0), "1 passed, 0 failed, 1 known gaps\n")
    );
    let (code, stdout) = run(&list("b/passes"));
    assert_eq!(code, Some(1), "{stdout}");
    assert!(
        stdout.contains("passes, but is listed as a known gap: why"),
        "{stdout}"
    );
    assert!(
        stdout.ends_with("0 passed, 2 failed, 0 known gaps\n"),
        "{stdout}"
    );
    let (code, _) = run(&file("bad.toml", "[[gap]]\ncases = \"a\"\n"));
    assert_eq!(code, Some(2));
}
