//! Every case in which engine and oracle once disagreed, as small as shrinking made it, with what is right.

use std::collections::BTreeMap;

use http::{HeaderMap, Method};
use ringgate::policy::model::{Action, AuthorizationPolicy, Rule, Source, Target};
use ringgate::policy::{Connection, Decision, Point, PointKind, Request, decide};
use ringgate::vocab::host::Host;
use ringgate::vocab::path::{CanonicalPath, PathNormalization};
use ringgate::vocab::resource::ResourceName;
use ringgate::vocab::spiffe::SpiffeId;

use crate::asked::Asked;
use crate::compare::{agree, compile};
use crate::naive::Settings;
use crate::tally::Tally;
use crate::world::World;

/// One policy at a workload of the trust domain `td1`; asked once, by `principal`.
fn world(action: Action, rule: Rule, principal: &str) -> World {
    let address = "10.1.2.3".parse().unwrap();
    World {
        settings: Settings {
            trust_domains: vec!["td1".to_owned()],
            root_namespace: "istio-system".to_owned(),
            gateway_name_selector: true,
            gateway_selectors: true,
            ztunnel: false,
            dry_run: false,
        },
        point: Point {
            kind: PointKind::Workload,
            namespace: "default".to_owned(),
            labels: BTreeMap::new(),
            gateway: None,
            services: Vec::new(),
            accounts: Vec::new(),
            default: Decision::Allow,
        },
        policies: vec![AuthorizationPolicy {
            name: ResourceName::new("default", "p0"),
            target: Target::Namespace,
            action,
            provider: None,
            dry_run: false,
            rules: vec![rule],
        }],
        peers: Vec::new(),
        asked: vec![Asked {
            conn: Connection {
                principal: Some(SpiffeId::parse(&format!("spiffe://{principal}")).unwrap()),
                peer: address,
                remote: address,
                destination: address,
                port: 80,
                sni: None,
                time: 1_795_593_600,
            },
            request: Some(Request {
                method: Method::GET,
                host: Host::parse("a.com").unwrap(),
                path: Some(CanonicalPath::parse(PathNormalization::Base, "/").unwrap()),
                headers: HeaderMap::new(),
                claims: None,
                time: 1_795_593_600,
            }),
        }],
    }
}

fn check(world: &World, want: Decision) {
    agree(world, &Tally::default()).unwrap();
    let set = compile(world, &world.policies).unwrap();
    let asked = &world.asked[0];
    let got = decide(&set, &asked.conn, asked.request.as_ref()).decision;
    assert_eq!(got, want, "{world:?}");
}

/// `cluster.local` in a policy is our own trust domain (section 3), not a foreign one that has this name: an ALLOW rule
/// let the foreign one in.
#[test]
fn cluster_local_is_ours_alone() {
    let rule = Rule {
        from: vec![Source {
            trust_domains: vec!["cluster.local".to_owned()],
            ..Source::default()
        }],
        ..Rule::default()
    };
    let asked_by = |principal| world(Action::Allow, rule.clone(), principal);
    check(
        &asked_by("cluster.local/ns/default/sa/frontend"),
        Decision::Deny,
    );
    check(&asked_by("td1/ns/default/sa/frontend"), Decision::Allow);
}
