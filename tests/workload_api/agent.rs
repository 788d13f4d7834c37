//! This process under another's Workload API: identities by stream, and what is left when the stream is lost.

use serde_json::json;

use crate::python::ask;
use crate::system::{RATINGS, REVIEWS, START, System, UID, entry};

/// Whoever asks as root is both workloads, as a SPIRE agent delegates them to a proxy.
fn agent(ttl: &str) -> System {
    let entries = entry("reviews", "", "uid = 0") + &entry("ratings", "", "uid = 0");
    System::start(ttl, &entries)
}

fn below(agent: &System) -> String {
    format!(
        "[identity]\nworkloadApi = \"unix://{}\"\n",
        agent.socket().display()
    )
}

#[test]
fn identities_and_tokens_come_from_above() {
    let agent = agent("1h");
    let entries = entry("ratings", "", &format!("uid = {UID}"));
    let node = System::with(&below(&agent), &entries);
    let above = ask(0, &agent, &["fetch"]);
    assert_eq!(above["ids"], json!([REVIEWS, RATINGS]));
    let fetched = ask(UID, &node, &["fetch"]);
    assert_eq!(fetched["ids"], json!([RATINGS]));
    assert_eq!(fetched["serials"][0], above["serials"][1], "the very same");
    let told = ask(UID, &node, &["jwt", "customer-api"]);
    assert_eq!(told["id"], RATINGS);
    assert_eq!(told["valid"], RATINGS);
}

#[test]
fn a_rotation_above_arrives_and_the_loss_of_the_agent_is_survived() {
    const AUTHORITY: &str = "[authority]\nsvidTtl = \"20s\"\nstateDir = \"state\"\n";
    let roots = entry("reviews", "", "uid = 0") + &entry("ratings", "", "uid = 0");
    let agent = System::with(AUTHORITY, &roots);
    let node = System::with(
        &below(&agent),
        &entry("ratings", "", &format!("uid = {UID}")),
    );
    let serial = || ask(UID, &node, &["fetch"])["serials"][0].clone();
    let first = serial();
    assert!(
        ringgate::cli::os::wait_until(START, || serial() != first),
        "rotated above, not here: {}",
        node.log()
    );
    let kept = serial();
    agent.crash();
    // What may have been on its way is there now; from here on the last one is kept.
    assert!(ringgate::cli::os::wait_until(START, || {
        node.log().contains("no stream of X.509-SVIDs")
    }));
    let kept = if serial() == kept { kept } else { serial() };
    assert!(ringgate::cli::os::wait_until(START, || {
        node.log().matches("no stream of X.509-SVIDs").count() > 2
    }));
    assert_eq!(serial(), kept, "good until it expires");
    agent.restart(AUTHORITY, &roots);
    assert!(
        ringgate::cli::os::wait_until(START, || serial() != kept),
        "not reached again: {}",
        node.log()
    );
}

#[test]
fn the_socket_may_be_named_by_the_usual_variable() {
    let agent = agent("1h");
    let entries = entry("reviews", "", &format!("uid = {UID}"));
    let source = "[identity]\nworkloadApi = \"env:SPIFFE_ENDPOINT_SOCKET\"\n";
    let endpoint = format!("unix://{}", agent.socket().display());
    let node = System::with_env(source, &entries, &[("SPIFFE_ENDPOINT_SOCKET", &endpoint)]);
    assert_eq!(ask(UID, &node, &["fetch"])["ids"], json!([REVIEWS]));
}

/// Another process's authority: it signs tokens for what the join token grants, and for nothing else.
#[test]
fn tokens_come_from_a_remote_authority() {
    let port = {
        let free = std::net::TcpListener::bind("127.201.37.9:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    let join = "0123456789abcdef0123456789abcdef";
    ringgate::cli::os::write(&tokens, format!("{join} {RATINGS}\n").as_bytes(), 0o600).unwrap();
    let authority = format!(
        "[authority]\nlisten = \"127.201.37.9:{port}\"\njoinTokens = \"file:{}\"\nstateDir = \"state\"\n",
        tokens.display()
    );
    let above = System::with(&authority, &entry("reviews", "", "uid = 0"));
    let token = dir.path().join("token");
    ringgate::cli::os::write(&token, join.as_bytes(), 0o600).unwrap();
    let roots = above.path("state/ca/root.pem");
    let source = format!(
        "[identity]\naddress = \"https://127.201.37.9:{port}\"\nrootCa = \"{}\"\ntoken = \"file:{}\"\n",
        roots.display(),
        token.display()
    );
    let node = System::with(&source, &entry("ratings", "", &format!("uid = {UID}")));
    let mut client = crate::python::Client::start(UID, &node.socket(), &["jwt", "customer-api"]);
    let told = client.says();
    assert_eq!(told["id"], RATINGS);
    assert_eq!(told["valid"], RATINGS);
    assert_eq!(client.says()["offline"], RATINGS);
    // An entry of the node does not make it more than the authority grants.
    let more = entry("ratings", "", &format!("uid = {UID}")) + &entry("reviews", "", "uid = 0");
    node.reload(&source, &more);
    let told = ask(0, &node, &["denied"]);
    assert_eq!(told["codes"][0], "UNAVAILABLE", "no certificate");
    assert_eq!(told["codes"][2], "PERMISSION_DENIED", "no token");
}
