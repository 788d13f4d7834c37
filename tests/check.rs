//! `ringgate check` as a program: what it prints, in which order, and its exit code.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test reports by panicking"
)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

fn check(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringgate"))
        .arg("check")
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap()
}

fn lines(output: &Output) -> Vec<String> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// The demo's policies mean what they say; that two of its workloads have none is worth a note.
#[test]
fn the_demo_is_clean() {
    let output = check(&["--config", "config/demo.toml"]);
    assert!(output.status.success(), "{output:?}");
    let lines = lines(&output);
    let told: Vec<&String> = lines.iter().filter(|l| l.ends_with(']')).collect();
    assert_eq!(told.len(), 1, "{lines:#?}");
    assert!(told[0].starts_with("note: ") && told[0].ends_with("[uncovered]"));
}

const MESH: &str = r#"
[[workloadEntry]]
name = "a"
serviceAccount = "a"
address = "10.0.0.1"

[[authorizationPolicy]]
name = "wide"
[[authorizationPolicy.rules]]
from = [{ source.namespaces = ["default"] }]

[[authorizationPolicy]]
name = "narrow"
[[authorizationPolicy.rules]]
from = [{ source.principals = ["cluster.local/ns/default/sa/a"] }]

[[authorizationPolicy]]
name = "guard"
action = "DENY"
[[authorizationPolicy.rules]]
to = [{ operation.methods = ["DELETE"] }]
"#;

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    // A key that everybody may read would be a warning of its own.
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&path, mode).unwrap();
    path.display().to_string()
}

#[test]
fn warnings_then_notes_then_the_count() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "mesh.toml", MESH);
    let output = check(&[&file]);
    assert!(output.status.success(), "{output:?}");
    let found = lines(&output);
    let warning = format!(
        "warning: {file}:14:1: authorizationPolicy[1].rules[0]: changes nothing: rule 0 of `default/wide` matches whatever this rule matches [shadowed-rule] (see {file}:9:1)"
    );
    assert_eq!(found[0], warning, "{found:#?}");
    assert!(found[1].starts_with("note: ") && found[1].contains("[deny-inside-allow]"));
    assert_eq!(found[2], "1 warning, 1 note");
    assert_eq!(found.last().unwrap(), "resources are good");

    assert_eq!(check(&[&file, "--deny-warnings"]).status.code(), Some(1));
    let ignored = MESH.replace(
        "name = \"narrow\"",
        "name = \"narrow\"\nannotations = { \"ringgate.dev/lint-ignore\" = \"shadowed-rule\" }",
    );
    let quiet = write(dir.path(), "quiet.toml", &ignored);
    let output = check(&[&quiet, "--deny-warnings"]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn json() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "mesh.toml", MESH);
    let output = check(&[&file, "--output", "json"]);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["good"], true);
    let warning = &found["warnings"][0];
    assert_eq!(
        (&warning["code"], &warning["line"]),
        (&"shadowed-rule".into(), &14.into())
    );
    assert_eq!(warning["other"]["line"], 9);
    assert_eq!(found["notes"][0]["code"], "deny-inside-allow");
    let broken = write(
        dir.path(),
        "broken.toml",
        "[[authorizationPolicy]]\nname = \"x\"\nrule = []\n",
    );
    let output = check(&[&broken, "--output", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["good"], false);
    assert_eq!(found["errors"][0]["line"], 3, "{found}");
}

/// The same in Istio's own words: the annotation is metadata, the place is the one in the YAML.
#[test]
fn yaml() {
    let policy = |annotations: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: open\n{annotations}spec:\n  rules:\n  - {{}}\n"
        )
    };
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "open.yaml", &policy(""));
    let output = check(&[&file, "--deny-warnings"]);
    assert_eq!(output.status.code(), Some(1));
    let found = lines(&output);
    assert!(
        found[0].starts_with(&format!("warning: {file}:7:"))
            && found[0].contains("spec.rules[0]: an empty rule"),
        "{found:#?}"
    );
    let silenced = "  annotations:\n    ringgate.dev/lint-ignore: wide-open\n";
    let file = write(dir.path(), "silenced.yaml", &policy(silenced));
    let output = check(&[&file, "--deny-warnings"]);
    assert!(output.status.success(), "{output:?}");
}

const INGRESS: &str = r#"
[authority]
[[gateway]]
name = "public"
gatewayClassName = "ringgate-ingress"
address = "10.0.0.1"
[[ingress]]
gateway = "default/public"
[[ingress.listener]]
address = "10.0.0.1:443"
certificate = "cert.pem"
key = "file:key.pem"
"#;

/// A gate that lets a start through which is known to fail is none; what a machine does not have is no mistake.
#[test]
fn files_that_a_start_would_fail_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "main.toml", INGRESS);
    let told = |output: &Output| {
        let mut text = String::from_utf8(output.stdout.clone()).unwrap();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        text
    };
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();

    let output = check(&["--config", &file]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let place = format!("{file}:11:15: ingress[0].listener[0].certificate: ");
    assert!(told(&output).contains(&place), "{output:?}");
    assert!(
        told(&output).contains("1 error, 1 warning, 0 notes"),
        "{output:?}"
    );

    // The key alone is kept from whoever checks.
    write(dir.path(), "cert.pem", &certificate);
    let output = check(&["--config", &file]);
    assert!(output.status.success(), "{output:?}");
    let place = format!("warning: {file}:12:7: ingress[0].listener[0].key: ");
    assert!(told(&output).contains(&place), "{output:?}");
    let denied = check(&["--config", &file, "--deny-warnings"]);
    assert_eq!(denied.status.code(), Some(1), "{denied:?}");

    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    for (text, want) in [
        ("junk", "holds no private key"),
        (other.as_str(), "is not the key of the certificate in"),
    ] {
        write(dir.path(), "key.pem", text);
        let output = check(&["--config", &file]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let told = told(&output);
        assert!(told.contains(&format!("{file}:12:7: ")), "{told}");
        assert!(told.contains(want) && !told.contains("good"), "{told}");
    }
    write(dir.path(), "key.pem", &key.serialize_pem());
    let output = check(&["--config", &file, "--deny-warnings"]);
    assert!(output.status.success(), "{output:?}");

    // The directory is another machine's.
    let elsewhere = INGRESS.replace("cert.pem", "tls/cert.pem");
    let file = write(dir.path(), "elsewhere.toml", &elsewhere);
    let output = check(&["--config", &file]);
    assert!(output.status.success(), "{output:?}");
    assert!(
        told(&output).contains("a start here would fail"),
        "{output:?}"
    );
}

/// A key may be that of several certificates: the one that it does not fit is told at its own place.
#[test]
fn a_key_that_fits_only_one_of_its_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let pair = |file: &str, name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        write(dir.path(), file, &params.self_signed(&key).unwrap().pem());
        key
    };
    let key = pair("cert.pem", "a.test");
    write(dir.path(), "key.pem", &key.serialize_pem());
    let _other = pair("more.pem", "b.test");
    let text = format!(
        "{INGRESS}[[ingress.listener.certificates]]\ncertificate = \"more.pem\"\nkey = \"file:key.pem\"\n"
    );
    let file = write(dir.path(), "main.toml", &text);
    let output = check(&["--config", &file]);
    let told = String::from_utf8_lossy(&output.stderr);
    let want = format!(
        "{file}:15:7: ingress[0].listener[0].certificates[0].key: `{}` is not the key of the certificate in `{}`",
        dir.path().join("key.pem").display(),
        dir.path().join("more.pem").display()
    );
    assert_eq!(told.lines().collect::<Vec<_>>(), [want], "{output:?}");
}

/// Which names certificates are for is in their files: what does not fit is told with the place where it is written.
#[test]
fn names_that_certificates_do_not_have() {
    let dir = tempfile::tempdir().unwrap();
    for (file, names) in [
        ("cert", &["a.test", "both.test"][..]),
        ("more", &["b.test", "both.test"]),
    ] {
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = rcgen::CertificateParams::new(names).unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        write(dir.path(), &format!("{file}.pem"), &certificate);
        let place = if file == "cert" {
            "key.pem"
        } else {
            "more.key"
        };
        write(dir.path(), place, &key.serialize_pem());
        std::fs::set_permissions(
            dir.path().join(place),
            std::os::unix::fs::PermissionsExt::from_mode(0o600),
        )
        .unwrap();
    }
    let config = |names: &str, hosts: &str| {
        format!(
            "{INGRESS}[[ingress.listener.certificates]]\ncertificate = \"more.pem\"\nkey = \"file:more.key\"\n{names}\n\
             [[httpRoute]]\nname = \"r\"\nparentRefs = [{{ name = \"public\" }}]\nhostnames = [{hosts}]\n\
             rules = [{{ filters = [{{ type = \"RequestRedirect\", requestRedirect.hostname = \"a.test\" }}] }}]\n"
        )
    };
    let told = |text: &str| {
        let file = write(dir.path(), "main.toml", text);
        let output = check(&["--config", &file]);
        let mut told = String::from_utf8(output.stdout.clone()).unwrap();
        told.push_str(&String::from_utf8_lossy(&output.stderr));
        (output.status.code(), told.replace(&file, "main.toml"))
    };
    // Line 16 is that of the names, line 20 that of the route's hosts.
    let (code, text) = told(&config(
        "hostnames = [\"b.test\", \"c.test\"]",
        "\"a.test\"",
    ));
    let more = dir.path().join("more.pem");
    let want = format!(
        "main.toml:16:24: ingress[0].listener[0].certificates[0].hostnames[1]: `c.test` is no name of the certificate in `{}`",
        more.display()
    );
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&want), "{text}");

    let (code, text) = told(&config("", "\"a.test\", \"b.test\", \"c.test\""));
    assert_eq!(code, Some(0), "{text}");
    for want in [
        "warning: main.toml:20:34: httpRoute[0].hostnames[2]: no certificate at the listeners of `default/public` is for `c.test`",
        "warning: main.toml:14:15: ingress[0].listener[0].certificates[0].certificate: ",
        "is for `both.test` as well as",
    ] {
        assert!(text.contains(want), "{want}: {text}");
    }
    assert!(!text.contains("`b.test`"), "{text}");

    let (code, text) = told(&config(
        "hostnames = [\"b.test\"]",
        "\"a.test\", \"b.test\"",
    ));
    assert_eq!(code, Some(0), "{text}");
    assert!(!text.contains("warning: "), "{text}");
}
