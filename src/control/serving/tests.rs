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
