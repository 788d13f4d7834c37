//! The capture rules by themselves: where connections go, with a listener of another kind in the node's place.

use std::time::Duration;

use ringgate::cli::curl::Caller;
use ringgate::cli::lab::net::Vm;
use ringgate::cli::os;

/// Python's file server answers 404 for this path with a body that no other listener has.
fn reached(caller: &Caller, url: &str) -> String {
    let answer = caller.call(url).unwrap();
    answer.seen()
}

#[test]
fn capture_leads_to_the_node_and_nowhere_else() {
    let (mut lab, dir) = crate::lab();
    for name in ["out", "out2", "in"] {
        let www = dir.path.join(name);
        os::make_dir(&www, 0o755).unwrap();
        os::write(&www.join("who"), name.as_bytes(), 0o644).unwrap();
    }
    let www = |name: &str| dir.path.join(name).to_string_lossy().into_owned();
    let python = |port: &'static str, address: &'static str| {
        [
            "/usr/bin/python3",
            "-m",
            "http.server",
            port,
            "--bind",
            address,
            "--directory",
        ]
    };
    let frontend = Vm::named("frontend").unwrap();
    let customer = Vm::named("customer-api").unwrap();
    let mut serve = |vm, name: &str, port, address| {
        let www = www(name.split('-').next().unwrap());
        let command = [python(port, address).as_slice(), &[www.as_str()]].concat();
        lab.spawn(vm, name, None, &command).unwrap();
    };
    serve(frontend, "out-frontend", "15001", "127.0.0.1");
    serve(customer, "out2-customer", "15101", "127.0.0.1");
    serve(customer, "in-customer", "15006", "0.0.0.0");
    lab.capture().unwrap();
    let target = lab.target();
    let wait = |caller: &Caller, url: &str, text: &str| {
        let mut seen = String::new();
        os::wait_until(Duration::from_secs(10), || {
            seen = reached(caller, url);
            seen.contains(text)
        });
        assert!(seen.contains(text), "{url}: expected `{text}`, seen {seen}");
    };
    // A captured user, to a service address and to a workload's own address.
    wait(&target.frontend, "http://customer-api/who", "200 OK, out");
    wait(&target.frontend, "http://10.77.0.3:8080/who", "200 OK, out");
    // The second workload of a machine has a listener of its own, also towards its neighbour on the machine.
    wait(&target.same_node, "http://customer-api/who", "200 OK, out2");
    wait(
        &target.same_node,
        "http://10.77.0.3:8080/who",
        "200 OK, out2",
    );
    // Another user is not captured where it is, but where it goes: every port but HBONE.
    wait(&target.attacker, "http://10.77.0.3:8080/who", "200 OK, in");
    wait(&target.attacker, "http://10.77.0.3:8443/who", "200 OK, in");
    wait(&target.attacker, "http://10.77.0.4:9/who", "200 OK, in");
    wait(
        &target.attacker,
        "http://10.77.0.3:15008/who",
        "Failed to connect",
    );
    // No node is there: nothing passes.
    wait(
        &target.reviews,
        "http://10.77.0.3:8080/who",
        "Failed to connect",
    );
    wait(
        &target.attacker,
        "http://10.77.0.1:8080/",
        "Failed to connect",
    );
    // Nobody on the machine reaches an app past its node.
    let neighbour = Caller {
        prefix: target.same_node.prefix.iter().take(4).cloned().collect(),
        args: Vec::new(),
    };
    wait(&neighbour, "http://10.77.0.3:8080/who", "Failed to connect");
}
