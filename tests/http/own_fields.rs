//! Fields that proxies set: who calls, from where, under which name; what others say of it is believed where the
//! configuration says so.

use crate::answer;
use crate::backend::{Backend, Message};
use crate::system::{PLACES, Place, System};

crate::both!(names_of_requests, who_calls, who_called_before);
crate::on_both!(
    who_calls_is_told_outside_by_choice,
    what_our_gateways_tell_each_other_stays_inside
);

fn call(system: &System, place: Place, fields: &str) -> Message {
    let backend = system.backend(place);
    backend.says(&[]);
    let mut conn = system.connect(place);
    let head = format!(
        "GET /api/own HTTP/1.1\r\nhost: {}\r\n{fields}\r\n",
        place.host()
    );
    conn.send(head.as_bytes());
    let answer = answer::read(&mut conn, "GET").expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    backend.seen().pop().expect("it arrived")
}

fn names_of_requests(system: &System) {
    let name = |place, fields: &str| {
        let seen = call(system, place, fields);
        let all = seen.all("x-request-id");
        assert!(all.len() <= 1, "{all:?}");
        all.first().map(|name| (*name).to_owned())
    };
    let mine = "x-request-id: 11111111-1111-4111-8111-111111111111\r\n";
    // At the edge anyone could choose it.
    let one = name(Place::Ingress, mine).expect("a name");
    let two = name(Place::Ingress, "").expect("a name");
    assert!(one != two && !mine.contains(&one), "{one}, {two}");
    assert_eq!((one.len(), one.as_bytes()[14]), (36, b'4'), "{one}");
    // Inside it stays, and is given where there is none.
    let kept = name(Place::Waypoint, mine).expect("a name");
    assert!(mine.contains(&kept), "{kept}");
    assert_eq!(name(Place::Waypoint, "").expect("a name").len(), 36);
    // The outside is told nothing.
    assert_eq!(name(Place::Egress, ""), None);
}

const EVIL: &str = "x-forwarded-client-cert: By=spiffe://cluster.local/ns/evil/sa/evil;URI=spiffe://cluster.local/ns/evil/sa/evil\r\nX_Forwarded_Client_Cert: By=x;URI=spiffe://evil\r\n";
const FRONTEND: &str = "spiffe://cluster.local/ns/default/sa/frontend-service";

fn who_calls(system: &System) {
    for place in PLACES {
        let seen = call(system, place, EVIL);
        let text = format!("{seen:?}");
        assert!(!text.contains("evil"), "{place:?}: {text}");
    }
    let seen = call(system, Place::Waypoint, "");
    let xfcc = seen.all("x-forwarded-client-cert");
    assert_eq!(xfcc.len(), 1, "{seen:?}");
    assert!(
        xfcc[0].starts_with("By=spiffe://") && xfcc[0].ends_with(&format!("URI={FRONTEND}")),
        "{xfcc:?}"
    );
    assert_eq!(seen.all("x-forwarded-proto"), ["https"]);
    let seen = call(system, Place::Egress, "");
    assert!(
        seen.all("x-forwarded-client-cert").is_empty() && seen.all("x-forwarded-for").is_empty(),
        "{seen:?}"
    );
    let seen = call(
        system,
        Place::Ingress,
        "x-forwarded-for: 6.6.6.6\r\nforwarded: for=6.6.6.6\r\nx-real-ip: 6.6.6.6\r\n",
    );
    assert!(!format!("{seen:?}").contains("6.6.6.6"), "{seen:?}");
    assert!(!seen.all("x-forwarded-for").is_empty(), "{seen:?}");
}

/// `forwardClientCertDetails`, by Istio's words.
fn who_called_before(system: &System) {
    let told = "By=spiffe://cluster.local/ns/a/sa/b;URI=spiffe://cluster.local/ns/c/sa/d";
    let field = format!("x-forwarded-client-cert: {told}\r\n");
    let mut before = "[mesh]\n".to_owned();
    for details in [
        "SANITIZE",
        "FORWARD_ONLY",
        "APPEND_FORWARD",
        "SANITIZE_SET",
        "ALWAYS_FORWARD_ONLY",
    ] {
        let after = format!("[mesh]\nforwardClientCertDetails = \"{details}\"\n");
        system.reload(|config| config.replacen(&before, &after, 1));
        before = after;
        let seen = call(system, Place::Waypoint, &field);
        let xfcc = seen.all("x-forwarded-client-cert").join("|");
        let own = xfcc.ends_with(&format!("URI={FRONTEND}"));
        let theirs = xfcc.starts_with(told);
        let want = match details {
            "SANITIZE" => (false, false),
            "FORWARD_ONLY" | "ALWAYS_FORWARD_ONLY" => (false, true),
            "APPEND_FORWARD" => (true, true),
            _ => (true, false),
        };
        assert_eq!((own, theirs), want, "{details}: {xfcc}");
        // Who has shown no certificate is believed in one case alone.
        let seen = call(system, Place::Ingress, &field);
        let believed = format!("{seen:?}").contains("/ns/c/sa/d");
        assert_eq!(
            believed,
            details == "ALWAYS_FORWARD_ONLY",
            "{details}: {seen:?}"
        );
    }
}

/// Two services outside, at one server of which the first is to know who calls, behind the ingress.
fn with_outside(config: &str) -> String {
    let (_, rest) = config
        .split_once("[[ingress.listener]]\naddress = \"")
        .unwrap();
    let (net, _) = rest.split_once(".20:8443").unwrap();
    let service = |name: &str, more: &str| {
        format!(
            "[[serviceEntry]]\nname = \"{name}\"\nnamespace = \"edge\"\nhosts = [\"{name}.example.test\"]\nlocation = \"MESH_EXTERNAL\"\n\
             resolution = \"STATIC\"\nports = [{{ number = 80, name = \"http\", protocol = \"HTTP\", targetPort = 9000 }}]\n\
             endpoints = [{{ address = \"{net}.41\" }}]\n{more}\n\
             [[httpRoute]]\nname = \"{name}\"\nnamespace = \"edge\"\nparentRefs = [{{ name = \"public\" }}]\nhostnames = [\"{}\"]\n\
             rules = [{{ matches = [{{ path.value = \"/api/{name}\" }}], backendRefs = [{{ name = \"{name}\", kind = \"ServiceEntry\", \
             group = \"networking.istio.io\", port = 80 }}] }}]\n",
            Place::Ingress.host()
        )
    };
    let services = service("own", "forwardClientAddress = true") + &service("third", "");
    let config = config.replace(
        "[mesh]\n",
        "[mesh]\nforwardClientCertDetails = \"ALWAYS_FORWARD_ONLY\"\n",
    );
    format!("{config}\n{services}")
}

fn who_calls_is_told_outside_by_choice(io: &str) {
    let system = System::with(io, |config| with_outside(&config));
    let server = Backend::start(&system.layout.at(41, 9000), None);
    let claims = format!(
        "{EVIL}x-forwarded-for: 6.6.6.6\r\nx-forwarded-proto: http\r\nforwarded: for=6.6.6.6\r\nx-real-ip: 6.6.6.6\r\n"
    );
    for (service, is_told) in [("own", true), ("third", false)] {
        server.says(&[]);
        let mut conn = system.connect(Place::Ingress);
        let head = format!(
            "GET /api/{service} HTTP/1.1\r\nhost: {}\r\n{claims}\r\n",
            Place::Ingress.host()
        );
        conn.send(head.as_bytes());
        let answer = answer::read(&mut conn, "GET").expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        let seen = server.seen().pop().expect("it arrived");
        let fields = |name| seen.all(name);
        if is_told {
            let told = fields("x-forwarded-for").concat();
            assert!(
                told.parse::<std::net::Ipv4Addr>()
                    .is_ok_and(|ip| ip.is_loopback()),
                "{seen:?}"
            );
            assert_eq!(fields("x-forwarded-proto"), ["https"], "{seen:?}");
        } else {
            assert!(fields("x-forwarded-for").is_empty(), "{seen:?}");
            assert!(fields("x-forwarded-proto").is_empty(), "{seen:?}");
        }
        assert!(fields("x-forwarded-client-cert").is_empty(), "{seen:?}");
        let text = format!("{seen:?}");
        assert!(
            !text.contains("6.6.6.6") && !text.contains("evil"),
            "{text}"
        );
    }
    system.healthy();
}

/// An outside service behind the egress gateway and one behind the ingress alone, both asked by way of the ingress, and a proxy
/// before that.
fn with_proxy(config: &str) -> String {
    let egress = format!(
        "[[httpRoute]]\nname = \"far\"\nnamespace = \"edge\"\nparentRefs = [{{ name = \"public\" }}]\nhostnames = [\"{}\"]\n\
         rules = [{{ matches = [{{ path.value = \"/api/far\" }}], \
         filters = [{{ type = \"URLRewrite\", urlRewrite.hostname = \"{}\" }}], \
         backendRefs = [{{ name = \"partner\", namespace = \"egress\", kind = \"ServiceEntry\", \
         group = \"networking.istio.io\", port = 80 }}] }}]\n\
         [[authorizationPolicy]]\nname = \"far\"\nnamespace = \"egress\"\n\
         targetRefs = [{{ group = \"networking.istio.io\", kind = \"ServiceEntry\", name = \"partner\" }}]\n\
         rules = [{{ from = [{{ source.principals = [\"cluster.local/ns/edge/sa/ingress\"] }}] }}]\n",
        Place::Ingress.host(),
        Place::Egress.host()
    );
    let config = with_outside(config) + &egress;
    config.replacen("[mesh]\n", "[mesh]\nnumTrustedProxies = 1\n", 1)
}

fn what_our_gateways_tell_each_other_stays_inside(io: &str) {
    let system = System::with(io, |config| with_proxy(&config));
    let server = Backend::start(&system.layout.at(41, 9000), None);
    let partner = system.backend(Place::Egress);
    let told = "x-forwarded-for: 192.0.2.77\r\nx-forwarded-proto: http\r\nx-forwarded-host: seen.example\r\nforwarded: for=192.0.2.77\r\nx-real-ip: 192.0.2.77\r\n";
    for (path, backend, is_told) in [
        ("far", partner, false),
        ("third", &server, false),
        ("own", &server, true),
    ] {
        backend.says(&[]);
        let mut conn = system.connect(Place::Ingress);
        let host = Place::Ingress.host();
        conn.send(format!("GET /api/{path} HTTP/1.1\r\nhost: {host}\r\n{told}\r\n").as_bytes());
        let answer = answer::read(&mut conn, "GET").expect("an answer");
        assert_eq!(answer.status, 200, "{path}: {answer:?} {}", system.log());
        let seen = backend.seen().pop().expect("it arrived");
        let text = format!("{seen:?}");
        assert_eq!(text.contains("192.0.2.77"), is_told, "{path}: {text}");
        assert_eq!(text.contains("x-forwarded-"), is_told, "{path}: {text}");
        assert!(!seen.all("x-request-id").is_empty(), "{path}: {text}");
    }
    // Who decides at the egress knows, and so does its record.
    let record = system.record(|r| r["role"] == "egress" && r["request"]["path"] == "/api/far");
    let from = record["source"]["forwardedFor"]
        .as_str()
        .unwrap_or_default();
    assert!(from.starts_with("192.0.2.77, 127."), "{record}");
    // What an app says by itself is its own affair.
    let seen = call(&system, Place::Egress, "x-forwarded-for: 192.0.2.78\r\n");
    assert_eq!(seen.all("x-forwarded-for"), ["192.0.2.78"], "{seen:?}");
    system.healthy();
}
