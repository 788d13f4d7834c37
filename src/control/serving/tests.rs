//! Pairs of certificate and key that come, go and break, and what is said of them.

use std::path::Path;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::config;
use crate::config::checked::Config;
use crate::control::named_file::Fault;

const DAY: u64 = 86_400;

/// Certificate and key, valid from and to days from now.
fn pair(from: i64, to: i64) -> (String, String) {
    let mut params = CertificateParams::new(vec!["shop.example.test".to_owned()]).unwrap();
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now + time::Duration::days(from);
    params.not_after = now + time::Duration::days(to) + time::Duration::minutes(1);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn put(dir: &Path, (certificate, key): &(String, String)) {
    std::fs::write(dir.join("shop.pem"), certificate).unwrap();
    std::fs::write(dir.join("shop.key"), key).unwrap();
}

fn config(dir: &Path) -> Config {
    let text = r#"
[authority]
[mesh]
[[gateway]]
name = "public"
gatewayClassName = "ringgate-ingress"
address = "10.0.0.1"
[[ingress]]
gateway = "default/public"
[[ingress.listener]]
address = "10.0.0.1:443"
certificate = "shop.pem"
key = "file:shop.key"
"#;
    config::parse(&[("main.toml".into(), text.to_owned())], dir).unwrap()
}

fn first_of(serving: &Serving) -> &Served {
    serving.all().next().unwrap()
}

fn told(problems: &[FileProblem], config: &Config) -> Vec<String> {
    let placed = problems.iter().map(|p| p.placed(&config.files));
    placed
        .map(|p| format!("{}: {}", p.key, p.message))
        .collect()
}

#[test]
fn a_pair_that_cannot_be_used_leaves_the_last_good_one() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let (first, second) = (pair(-1, 90), pair(-1, 60));
    put(dir.path(), &first);
    let serving = Serving::default().renew(&config.process).unwrap();
    let again = serving.renew(&config.process).unwrap();
    assert!(again.same(&serving), "nothing has changed");

    // The certificate is there, its key is not yet.
    put(dir.path(), &(second.0.clone(), first.1));
    let broken = again.renew(&config.process).unwrap();
    assert!(std::ptr::eq(first_of(&broken), first_of(&serving)));
    let (certificate, key) = (dir.path().join("shop.pem"), dir.path().join("shop.key"));
    let (certificate, key) = (certificate.display(), key.display());
    assert_eq!(
        told(broken.problems(), &config),
        [format!(
            "ingress[0].listener[0].key: `{key}` is not the key of the certificate in `{certificate}`"
        )]
    );
    assert!(!broken.same(&again));

    put(dir.path(), &second);
    let good = broken.renew(&config.process).unwrap();
    assert!(good.problems().is_empty());
    assert!(!std::ptr::eq(first_of(&good), first_of(&serving)));
    let days: Vec<u64> = good
        .all()
        .map(|s| s.seconds_left(UnixTime::now()) / DAY)
        .collect();
    assert_eq!(days, [60]);
}

#[test]
fn each_fault_names_the_file_that_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let good = pair(-1, 90);
    let (certificate, key) = (
        "ingress[0].listener[0].certificate",
        "ingress[0].listener[0].key",
    );
    for (files, place, what, error) in [
        ((good.0.as_str(), "junk"), key, "holds no private key", true),
        (
            ("junk", good.1.as_str()),
            certificate,
            "holds no certificate",
            true,
        ),
        (
            ("-----BEGIN CERTIFICATE-----\nAAAA\n", good.1.as_str()),
            certificate,
            "is not readable as PEM",
            true,
        ),
        (
            (good.0.as_str(), pair(-1, 90).1.as_str()),
            key,
            "is not the key of the certificate in",
            true,
        ),
        ((good.0.as_str(), ""), key, "is empty", true),
        (("", good.1.as_str()), certificate, "cannot be read", true),
        ((good.0.as_str(), "absent"), key, "cannot be read", false),
    ] {
        put(dir.path(), &(files.0.to_owned(), files.1.to_owned()));
        if files.0.is_empty() {
            std::fs::remove_file(dir.path().join("shop.pem")).unwrap();
        }
        if files.1 == "absent" {
            std::fs::remove_file(dir.path().join("shop.key")).unwrap();
        }
        assert!(Serving::default().renew(&config.process).is_err(), "{what}");
        let Found { problems, .. } = inspect(&config, UnixTime::now());
        let told = told(&problems, &config);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with(&format!("{place}: ")), "{told:?}");
        assert!(told[0].contains(what), "{told:?}");
        assert_eq!(problems[0].is_error(), error, "{told:?}");
    }
}

#[test]
fn what_is_in_another_machines_directory_is_no_error_here() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir.path().join("elsewhere"));
    let Found { problems, .. } = inspect(&config, UnixTime::now());
    let faults: Vec<_> = problems.iter().map(|p| &p.fault).collect();
    assert!(
        matches!(faults[..], [Fault::Elsewhere(_), Fault::Withheld(_)]),
        "{faults:?}"
    );
}

#[test]
fn certificates_near_their_end_are_told() {
    let at = |days: u64| UnixTime::since_unix_epoch(Duration::from_secs(days * DAY));
    let hours =
        |hours: u64| UnixTime::since_unix_epoch(Duration::from_secs(1000 * DAY + hours * 3600));
    for ((from, to), now, want) in [
        ((at(1000), at(1090)), at(1050), None),
        ((at(1000), at(1090)), at(1076), None),
        (
            (at(1000), at(1090)),
            at(1077),
            Some("holds a certificate that expires in 13 days 0 hours"),
        ),
        (
            (at(1000), at(1090)),
            at(1092),
            Some("holds a certificate that expired 2 days ago"),
        ),
        (
            (at(1000), at(1090)),
            at(998),
            Some("holds a certificate that is not valid yet, for 2 days"),
        ),
        // One of a day is renewed within it.
        ((hours(0), hours(24)), hours(19), None),
        (
            (hours(0), hours(24)),
            hours(20),
            Some("holds a certificate that expires in 0 days 4 hours"),
        ),
    ] {
        assert_eq!(
            inspect::remark(from, to, now).as_deref(),
            want,
            "{from:?} {to:?} {now:?}"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), &pair(-30, -2));
    let config = config(dir.path());
    let Found {
        problems, remarks, ..
    } = inspect(&config, UnixTime::now());
    assert!(problems.is_empty(), "{problems:?}");
    assert!(remarks[0].1.contains("expired 1 days ago"), "{remarks:?}");
}

/// Writes a certificate for `names` and its key.
fn put_for(dir: &Path, file: &str, names: &[&str]) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = KeyPair::generate().unwrap();
    let signed = CertificateParams::new(names).unwrap().self_signed(&key);
    std::fs::write(dir.join(format!("{file}.pem")), signed.unwrap().pem()).unwrap();
    std::fs::write(dir.join(format!("{file}.key")), key.serialize_pem()).unwrap();
}

/// A listener whose first certificate is that of `shop`, with these lines after its key, and a route for `hosts`.
fn several(dir: &Path, more: &str, hosts: &str) -> Config {
    let text = format!(
        r#"
[authority]
[mesh]
[[gateway]]
name = "public"
gatewayClassName = "ringgate-ingress"
address = "10.0.0.1"
[[gateway]]
name = "other"
gatewayClassName = "ringgate-ingress"
address = "10.0.0.2"
[[serviceEntry]]
name = "b"
hosts = ["b.example.test"]
location = "MESH_EXTERNAL"
resolution = "STATIC"
ports = [{{ number = 80, name = "http", protocol = "HTTP" }}]
endpoints = [{{ address = "192.0.2.1" }}]
[[httpRoute]]
name = "r"
parentRefs = [{{ name = "public" }}]
hostnames = [{hosts}]
rules = [{{ backendRefs = [{{ name = "b", kind = "ServiceEntry", group = "networking.istio.io", port = 80 }}] }}]
[[httpRoute]]
name = "of-another"
parentRefs = [{{ name = "other" }}]
hostnames = ["nobody.example.test"]
rules = [{{ backendRefs = [{{ name = "b", kind = "ServiceEntry", group = "networking.istio.io", port = 80 }}] }}]
[[ingress]]
gateway = "default/public"
[[ingress.listener]]
address = "10.0.0.1:443"
certificate = "shop.pem"
key = "file:shop.key"
{more}
"#
    );
    let options = config::Options {
        lints: config::Depth::Full,
        ..config::Options::default()
    };
    config::parse_with(&[("main.toml".into(), text)], dir, options).unwrap()
}

/// `[[ingress.listener.certificates]]` of a file, with these lines.
fn and(file: &str, more: &str) -> String {
    format!(
        "[[ingress.listener.certificates]]\ncertificate = \"{file}.pem\"\nkey = \"file:{file}.key\"\n{more}\n"
    )
}

/// Which certificate a name gets, by the name of its file, and whether others are there.
fn gets(serving: &Serving, name: Option<&str>) -> Option<(String, bool)> {
    let (config, shown) = serving.get(0, 0)?.choose(name)?;
    let served = serving.all().find(|s| Arc::ptr_eq(&s.config, &config))?;
    let file = served.certificate.file_stem()?;
    Some((file.to_str()?.to_owned(), shown.is_some()))
}

#[test]
fn the_name_chooses() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    put_for(path, "shop", &["shop.test", "*.shop.test", "both.test"]);
    put_for(path, "a", &["both.test", "*.a.shop.test", "a.shop.test"]);
    put_for(path, "b", &["x.shop.test", "shop.test", "left.test"]);
    let more = and("a", "") + &and("b", "hostnames = [\"x.shop.test\", \"shop.test\"]");
    for (first, refuses) in [("", false), ("unknownServerName = \"REFUSE\"\n", true)] {
        let config = several(path, &format!("{first}{more}"), "\"shop.test\"");
        let serving = Serving::default().renew(&config.process).unwrap();
        for (name, want) in [
            // What is written goes before what a certificate says, and of two certificates that say it, the first.
            ("shop.test", Some("b")),
            ("both.test", Some("shop")),
            ("x.shop.test", Some("b")),
            ("y.shop.test", Some("shop")),
            ("a.shop.test", Some("a")),
            ("y.a.shop.test", Some("a")),
            ("left.test", None),
            ("test", None),
        ] {
            let want = want.or_else(|| (!refuses).then_some("shop"));
            let want = want.map(|file| (file.to_owned(), true));
            assert_eq!(gets(&serving, Some(name)), want, "{name}");
        }
        let unnamed = (!refuses).then(|| ("shop".to_owned(), true));
        assert_eq!(gets(&serving, None), unnamed);
        let told: Vec<_> = serving.get(0, 0).unwrap().served().collect();
        let names: Vec<_> = told.iter().map(|(_, names, _)| names.join(" ")).collect();
        assert_eq!(
            names,
            [
                "*.shop.test both.test",
                "*.a.shop.test a.shop.test",
                "x.shop.test shop.test"
            ]
        );
        assert_eq!(
            told.iter()
                .map(|(_, _, others)| *others)
                .collect::<Vec<_>>(),
            [!refuses, false, false]
        );
        let (_, shown) = serving
            .get(0, 0)
            .unwrap()
            .choose(Some("x.shop.test"))
            .unwrap();
        let shown = shown.unwrap();
        for (host, misdirected) in [
            ("shop.test", false),
            ("x.shop.test", false),
            ("y.shop.test", true),
            ("a.shop.test", true),
            ("left.test", false),
            ("10.0.0.1", false),
            ("[::1]", false),
        ] {
            assert_eq!(shown.misdirects(host), misdirected, "{host}");
        }
    }
    // One alone is remembered by nobody.
    let config = several(path, "", "\"shop.test\"");
    let serving = Serving::default().renew(&config.process).unwrap();
    assert_eq!(gets(&serving, None), Some(("shop".to_owned(), false)));
    assert_eq!(
        gets(&serving, Some("y.test")),
        Some(("shop".to_owned(), false))
    );
}

#[test]
fn certificates_come_and_go_and_the_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    put_for(path, "shop", &["shop.test"]);
    put_for(path, "a", &["a.test", "z.test"]);
    put_for(path, "b", &["b.test"]);
    let of = |more: &str| several(path, more, "\"shop.test\"").process;
    let (a, b) = (and("a", "hostnames = [\"a.test\"]"), and("b", ""));
    let two = of(&a);
    let first = Serving::default().renew(&two).unwrap();
    let three = of(&(b.clone() + &a));
    assert!(three.differences(&two).is_empty(), "it takes no restart");
    let second = first.renew(&three).unwrap();
    assert_eq!(gets(&second, Some("b.test")), Some(("b".to_owned(), true)));
    // Whoever keeps a ticket of it may go on.
    let (before, after) = (first.by_file(), second.by_file());
    for (place, served) in &before {
        assert!(Arc::ptr_eq(served, after[place]), "{place:?}");
    }
    let third = second.renew(&of(&b)).unwrap();
    assert_eq!(
        gets(&third, Some("a.test")),
        Some(("shop".to_owned(), true))
    );
    assert_eq!(third.all().count(), 2);

    // A name that the certificate does not have is no reason to serve it.
    let more = of(&and("a", "hostnames = [\"a.test\", \"new.test\"]"));
    assert!(first.renew(&more).is_err());
    // Nor is a new file that lacks one.
    put_for(path, "a", &["z.test"]);
    let kept = first.renew(&two).unwrap();
    assert_eq!(kept.problems().len(), 1, "{:?}", kept.problems());
    assert!(Arc::ptr_eq(
        kept.by_file().values().next().unwrap(),
        first.by_file().values().next().unwrap()
    ));
    assert_eq!(gets(&kept, Some("a.test")), Some(("a".to_owned(), true)));
    put_for(path, "a", &["new.test", "a.test"]);
    let renewed = kept.renew(&more).unwrap();
    assert!(renewed.problems().is_empty());
    assert_eq!(
        gets(&renewed, Some("new.test")),
        Some(("a".to_owned(), true))
    );
}

#[test]
fn a_name_that_its_certificate_does_not_have() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    put_for(path, "shop", &["shop.test", "*.shop.test"]);
    put_for(path, "a", &["a.test"]);
    let names = "hostnames = [\"shop.test\", \"x.shop.test\", \"y.x.shop.test\", \"*.x.shop.test\", \"*.shop.test\"]\n";
    let other = and("a", "hostnames = [\"a.test\", \"*.a.test\"]");
    let config = several(path, &format!("{names}{other}"), "\"shop.test\"");
    let found = inspect(&config, UnixTime::now());
    let (shop, a) = (path.join("shop.pem"), path.join("a.pem"));
    let is = |nth: &str, name: &str, file: &Path| {
        let file = file.display();
        format!("ingress[0].listener[0].{nth}: `{name}` is no name of the certificate in `{file}`")
    };
    assert_eq!(
        told(&found.problems, &config),
        [
            is("hostnames[2]", "y.x.shop.test", &shop),
            is("hostnames[3]", "*.x.shop.test", &shop),
            is("certificates[0].hostnames[1]", "*.a.test", &a),
        ]
    );
    assert!(found.problems.iter().all(FileProblem::is_error));
    assert!(Serving::default().renew(&config.process).is_err());
}

#[test]
fn names_that_two_have_and_hosts_that_none_has() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    put_for(path, "shop", &["shop.test", "*.shop.test"]);
    put_for(path, "a", &["shop.test", "a.test", "far.test"]);
    put_for(path, "b", &["a.test"]);
    put_for(path, "c", &["10.0.0.9"]);
    let more = and("a", "") + &and("b", "") + &and("c", "");
    let hosts = "\"shop.test\", \"x.shop.test\", \"y.x.shop.test\", \"c.test\", \"*.shop.test\", \"*.x.shop.test\", \"*.test\", \"*.example\"";
    let config = several(path, &more, hosts);
    let found = inspect(&config, UnixTime::now());
    assert!(found.problems.is_empty(), "{:?}", found.problems);
    let remarks: Vec<String> = found
        .remarks
        .iter()
        .map(|(subject, remark)| format!("{subject} {remark}"))
        .collect();
    let file = |name: &str| path.join(name).display().to_string();
    let both = |second: &str, name: &str, first: &str| {
        let (first, second) = (file(first), file(second));
        format!(
            "{second} is for `{name}` as well as `{first}`, which stands before it and is served; `hostnames` chooses"
        )
    };
    let none = |name: &str| {
        format!(
            "{} is served for no server name; `hostnames` gives it some",
            file(name)
        )
    };
    assert_eq!(
        remarks,
        [
            both("a.pem", "shop.test", "shop.pem"),
            both("b.pem", "a.test", "a.pem"),
            none("b.pem"),
            none("c.pem"),
        ]
    );
    let uncovered: Vec<_> = found.hosts.iter().map(|p| p.key.as_str()).collect();
    assert_eq!(
        uncovered,
        [
            "httpRoute[0].hostnames[2]",
            "httpRoute[0].hostnames[3]",
            "httpRoute[0].hostnames[5]",
            "httpRoute[0].hostnames[7]",
        ]
    );
    assert!(
        found.hosts[0].message.contains("`y.x.shop.test`"),
        "{:?}",
        found.hosts[0]
    );
    // Nobody asked for lints, and nothing is kept for them.
    let mut quiet = config;
    quiet.hosts.clear();
    assert!(inspect(&quiet, UnixTime::now()).hosts.is_empty());
}
