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
