//! Each configuration that a first start takes is started: what `ringgate init` writes for each role and for all of them,
//! and the examples of `config/`. In a network namespace that has their addresses; root is needed.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::netns::{ip, isolated};
use crate::{PROGRAM, output, ringgate, root, told};

/// A failure is known at once, or when this has passed.
const LIMIT: Duration = Duration::from_secs(120);
const ADDRESSES: [&str; 7] = [
    "10.1.0.1",
    "10.1.0.3",
    "10.1.0.4",
    "10.1.0.10",
    "10.1.0.20",
    "10.1.0.30",
    "10.0.1.1",
];

/// A process that ends with its value.
struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    fn start(config: &Path) -> Self {
        let directory = config.parent().unwrap();
        let log = config.with_extension("log");
        let file = fs::File::create(&log).unwrap();
        let child = Command::new(PROGRAM)
            .arg("run")
            .arg("--config")
            .arg(config)
            .env("CREDENTIALS_DIRECTORY", directory)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    /// Waits until it says that it is ready.
    fn ready(&mut self, admin: &str) {
        let until = Instant::now() + LIMIT;
        loop {
            let log = fs::read_to_string(&self.log).unwrap();
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{}: {status}\n{log}", self.log.display());
            }
            let said = get(admin, "/readyz");
            if said.starts_with("HTTP/1.1 200 ") {
                return;
            }
            assert!(
                Instant::now() < until,
                "{}: {said}\n{log}",
                self.log.display()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn stop(mut self) {
        output(Command::new("sh").args(["-c", "kill -TERM \"$0\"", &self.child.id().to_string()]));
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn get(address: &str, path: &str) -> String {
    let mut answer = String::new();
    if let Ok(mut stream) = TcpStream::connect(address) {
        let timeout = Some(Duration::from_secs(10));
        stream.set_read_timeout(timeout).unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        drop(stream.write_all(request.as_bytes()));
        drop(stream.read_to_string(&mut answer));
    }
    answer
}

/// Files of one test, with the machine's own directories replaced.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("log")).unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `text` as a configuration here.
    fn config(&self, name: &str, text: &str) -> PathBuf {
        let here = self.directory.path().display();
        let text = text
            .replace("/var/lib/ringgate/", &format!("{here}/state-{name}-"))
            .replace("/var/lib/ringgate-", &format!("{here}/state-of-"))
            .replace("/var/log/ringgate/", &format!("{here}/log/"));
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        let mut check = Command::new(PROGRAM);
        let out = check
            .arg("check")
            .arg("--config")
            .arg(&path)
            .output()
            .unwrap();
        assert!(out.status.success(), "{name}: {}", told(&out));
        path
    }

    /// What `ringgate init` prints.
    fn init(&self, name: &str, arguments: &[&str]) -> PathBuf {
        let mut all = vec!["init", "--print"];
        all.extend(arguments);
        self.config(name, &ringgate(&all))
    }
}

/// Commands that a configuration tells in its comments, as one script: what follows a comment's three spaces.
fn told_commands(config: &Path) -> String {
    let text = fs::read_to_string(config).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("#   "));
    lines.map(|line| format!("{line}\n")).collect()
}

fn addresses() {
    for address in ADDRESSES {
        ip(&format!("address add {address}/32 dev lo"));
    }
}

/// The authority that `init` describes, with another port for its operator and a token that needs no node.
fn authority(place: &Place) -> (PathBuf, Running) {
    let text = ringgate(&["init", "--print", "--role", "authority"])
        .replace("127.0.0.1:15000", "127.0.0.1:15099")
        .replace(
            "[authority]\n",
            "[authority]\njoinTokens = \"file:join-tokens\"\n",
        );
    fs::write(
        place.path("join-tokens"),
        "a-token-for-examples spiffe://cluster.local/ns/edge/sa/ingress spiffe://cluster.local/ns/egress/sa/egress \
         dns:public dns:portal.example.com dns:api.example.com dns:egress dns:api.code.example.com\n",
    )
    .unwrap();
    let config = place.config("authority.toml", &text);
    let mut running = Running::start(&config);
    running.ready("127.0.0.1:15099");
    (config, running)
}

/// The commands that `config` tells are run with the authority's configuration, in the directory of both.
fn prepare(place: &Place, config: &Path, authority: &Path) {
    let script = told_commands(config).replace(
        "ringgate authority ",
        &format!("{PROGRAM} authority --config {} ", authority.display()),
    );
    let mut sh = Command::new("sh");
    sh.args(["-ec", &script])
        .current_dir(place.directory.path());
    output(&mut sh);
}

#[test]
fn what_init_writes_for_each_role() {
    isolated(|| {
        addresses();
        let place = Place::new();
        let (authority, _running) = authority(&place);
        for role in ["node", "waypoint", "ingress", "egress"] {
            let config = place.init(&format!("{role}.toml"), &["--role", role]);
            prepare(&place, &config, &authority);
            let mut running = Running::start(&config);
            running.ready("127.0.0.1:15000");
            running.stop();
        }
    });
}

/// A role a unit: four instances on a machine at the same time, beside the authority.
#[test]
fn what_init_writes_for_instances_runs_side_by_side() {
    isolated(|| {
        addresses();
        let place = Place::new();
        let (authority, _running) = authority(&place);
        let instances = ["node", "waypoint", "ingress", "egress"].map(|role| {
            let name = format!("{role}-1");
            let arguments = ["--role", role, "--instance", &name];
            let config = place.init(&format!("{name}.toml"), &arguments);
            prepare(&place, &config, &authority);
            let listen = value(&fs::read_to_string(&config).unwrap(), "listen = ");
            (Running::start(&config), listen)
        });
        let instances = instances.map(|(mut running, listen)| {
            running.ready(&listen);
            running
        });
        for running in instances {
            running.stop();
        }
    });
}

/// The first value, between quotes, of a key with its `=`.
fn value(text: &str, key: &str) -> String {
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(key));
    let quoted = line.unwrap_or_else(|| panic!("{key} in {text}"));
    quoted.split('"').nth(1).unwrap().to_owned()
}

/// What a unit of `systemd/` gives its service for an instance: the file that it reads, and the directories it may write.
fn unit(name: &str, instance: &str) -> (String, Vec<String>) {
    let text = fs::read_to_string(root().join("systemd").join(name)).unwrap();
    let text = text.replace("%i", instance);
    let of = |key: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(key)).unwrap()
    };
    let (_, config) = of("ExecStart=").split_once("--config ").unwrap();
    let directories = [
        ("StateDirectory=", "/var/lib/"),
        ("RuntimeDirectory=", "/run/"),
        ("LogsDirectory=", "/var/log/"),
    ];
    let directories = directories.map(|(key, above)| format!("{above}{}/", of(key)));
    (config.to_owned(), directories.to_vec())
}

#[test]
fn what_init_writes_fits_the_directories_of_its_unit() {
    let mut seen = std::collections::BTreeMap::new();
    for role in ["authority", "node", "waypoint", "ingress", "egress"] {
        let name = format!("the-{role}_1");
        let plain = ["init", "--print", "--role", role];
        let named = [&plain[..], &["--instance", &name]].concat();
        let file = format!("/etc/ringgate/{name}.toml");
        let by_file = [&plain[..], &["--config", &file]].concat();
        // A file that the unit of an instance reads is written for that instance.
        assert_eq!(ringgate(&named), ringgate(&by_file));
        for (unit, arguments) in [
            (unit("ringgate.service", ""), &plain[..]),
            (unit("ringgate@.service", &name), &named[..]),
        ] {
            let (reads, directories) = unit;
            let text = ringgate(arguments);
            let mut paths = 0;
            for word in text.split(['"', '`', ' ']) {
                if ["/var/", "/run/"]
                    .iter()
                    .any(|above| word.starts_with(above))
                {
                    paths += 1;
                    let fits = directories
                        .iter()
                        .any(|directory| word.starts_with(directory));
                    assert!(fits, "{word}, not below {directories:?}");
                }
            }
            assert!(paths >= 2 || role == "authority", "{text}");
            assert!(text.contains("stateDir = \"/var/lib/"), "{text}");
            if arguments.len() > plain.len() {
                assert_eq!(reads, file);
                // Nothing is shared with another instance.
                for key in ["stateDir = ", "listen = ", "#handover = ", "token = "] {
                    if key == "token = " && role == "authority" {
                        continue;
                    }
                    let was = seen.insert((key, value(&text, key)), role);
                    assert_eq!(was, None, "{role}: {text}");
                }
            } else {
                assert_eq!(reads, "/etc/ringgate/ringgate.toml");
            }
        }
    }
    for wrong in [
        "",
        "ringgate",
        "-a",
        "../a",
        "a/b",
        "a b",
        "a.b",
        &"a".repeat(23),
    ] {
        let mut init = Command::new(PROGRAM);
        init.args(["init", "--print", "--role", "node", "--instance", wrong]);
        let out = init.output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{wrong}: {}", told(&out));
    }
}

/// What it says is to be done next is for the unit that reads the file, if there is one.
#[test]
fn init_tells_what_comes_next() {
    let place = Place::new();
    let file = place.path("edge.toml").to_string_lossy().into_owned();
    let init = ["init", "--role", "ingress", "--force", "--config", &file];
    let said = ringgate(&init);
    assert!(
        said.contains(&format!("\n  ringgate run --config {file}\n")),
        "{said}"
    );
    let said = ringgate(&[&init[..], &["--instance", "edge"]].concat());
    for want in [
        format!("\n  install -m 644 {file} /etc/ringgate/edge.toml\n"),
        "\n  systemctl enable --now ringgate@edge.service\n".to_owned(),
        "\n  ringgate status --config /etc/ringgate/edge.toml\n".to_owned(),
    ] {
        assert!(said.contains(&want), "{want}: {said}");
    }
}

#[test]
fn what_init_writes_for_all_roles() {
    isolated(|| {
        let place = Place::new();
        let config = place.init("all.toml", &["--all-in-one"]);
        prepare(&place, &config, &config);
        let mut running = Running::start(&config);
        running.ready("127.0.0.1:15000");
        fs::write(place.path("hello"), "hello from the api\n").unwrap();
        let serve = "exec python3 -m http.server 8080 --bind 127.0.0.1";
        let mut app = Running {
            child: Command::new("sh")
                .args(["-c", serve])
                .current_dir(place.directory.path())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
            log: place.path("all.log"),
        };
        let until = Instant::now() + LIMIT;
        while TcpStream::connect("127.0.0.1:8080").is_err() {
            assert!(app.child.try_wait().unwrap().is_none() && Instant::now() < until);
            std::thread::sleep(Duration::from_millis(50));
        }
        let curl = |arguments: &[&str]| {
            let mut curl = Command::new("curl");
            curl.args(["-s", "-m", "60", "-w", " %{http_code}"])
                .args(arguments);
            curl.current_dir(place.directory.path());
            output(&mut curl)
        };
        let socks = ["--socks5-hostname", "127.0.20.3:15080"];
        let said = curl(&[&socks[..], &["http://api/hello"]].concat());
        assert_eq!(said, "hello from the api\n 200");
        let said = curl(&[&socks[..], &["-X", "DELETE", "http://api/hello"]].concat());
        assert_eq!(said, "RBAC: access denied 403");
        let edge = [
            "--cacert",
            "tls/cert.pem",
            "--resolve",
            "portal.example.com:8443:127.0.20.20",
            "https://portal.example.com:8443/hello",
        ];
        assert_eq!(curl(&edge), "hello from the api\n 200");
        running.stop();
    });
}

/// The hand-written examples, each as its own process beside that authority.
#[test]
fn the_examples() {
    isolated(|| {
        addresses();
        let place = Place::new();
        let (authority, _running) = authority(&place);
        let example = |name: &str| {
            let text = fs::read_to_string(root().join("config").join(name)).unwrap();
            place.config(name, &text)
        };
        fs::create_dir_all(place.path("mesh.d")).unwrap();
        fs::copy(
            root().join("config/customer-api.toml"),
            place.path("mesh.d/customer-api.toml"),
        )
        .unwrap();
        let workload = "[[workloadEntry]]\nname = \"customer-api\"\nserviceAccount = \"customer-api\"\n\
            address = \"10.1.0.3\"\n";
        fs::write(place.path("mesh.d/workload.toml"), workload).unwrap();
        let of_authority = |words: &str, file: &str| {
            let mut command = Command::new(PROGRAM);
            command
                .arg("authority")
                .arg("--config")
                .arg(&authority)
                .args(words.split(' '));
            fs::write(place.path(file), output(&mut command)).unwrap();
        };
        of_authority("roots", "root-ca.pem");
        let account = "spiffe://cluster.local/ns/default/sa/customer-api";
        of_authority(
            &format!("token create --node vm-1 --id {account}"),
            "join-token",
        );
        fs::write(place.path("portal"), "a-secret").unwrap();
        let certificate = place.init("ingress-init.toml", &["--role", "ingress"]);
        let openssl = told_commands(&certificate);
        let openssl = openssl
            .split_once("mkdir")
            .map(|(_, rest)| format!("mkdir{rest}"))
            .unwrap();
        output(
            Command::new("sh")
                .args(["-ec", &openssl])
                .current_dir(place.directory.path()),
        );
        // The example has a second certificate.
        let second = openssl
            .replace("mkdir tls && ", "")
            .replace("portal.example.com", "api.example.com")
            .replace("key.pem", "api-key.pem")
            .replace("cert.pem", "api.pem");
        output(
            Command::new("sh")
                .args(["-ec", &second])
                .current_dir(place.directory.path()),
        );
        for name in ["node.toml", "ingress.toml", "egress.toml", "routing.toml"] {
            if name == "ingress.toml" {
                // This one and the next show a token with every request.
                fs::write(place.path("join-token"), "a-token-for-examples").unwrap();
            }
            let config = example(name);
            let mut running = Running::start(&config);
            if name == "routing.toml" {
                // It has no listener for the operator.
                let until = Instant::now() + LIMIT;
                while TcpStream::connect("127.0.0.1:15080").is_err() {
                    let log = fs::read_to_string(&running.log).unwrap();
                    assert!(
                        running.child.try_wait().unwrap().is_none() && Instant::now() < until,
                        "{log}"
                    );
                    std::thread::sleep(Duration::from_millis(50));
                }
            } else {
                running.ready("127.0.0.1:15000");
            }
            running.stop();
        }
    });
}

#[test]
fn init_never_overwrites() {
    let place = Place::new();
    let path = place.path("deep/er/ringgate.toml");
    let file = path.to_string_lossy().into_owned();
    let init = |more: &[&str]| {
        let mut init = Command::new(PROGRAM);
        init.args(["init", "--role", "waypoint", "--config", &file])
            .args(more);
        init.output().unwrap()
    };
    let out = init(&[]);
    assert!(out.status.success(), "{}", told(&out));
    output(Command::new(PROGRAM).args(["check", "--config", &file]));
    fs::write(&path, "# mine\n").unwrap();
    let out = init(&[]);
    assert_eq!(out.status.code(), Some(1), "{}", told(&out));
    assert!(
        told(&out).contains("is there already; --force replaces it"),
        "{}",
        told(&out)
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "# mine\n");
    assert!(init(&["--force"]).status.success());
    assert!(fs::read_to_string(&path).unwrap().contains("[[waypoint]]"));
    // A role has to be named, and all of them are not one of them.
    for wrong in [
        &["init"][..],
        &["init", "--all-in-one", "--role", "node"],
        &["init", "--role", "king"],
    ] {
        let out = Command::new(PROGRAM).args(wrong).output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{wrong:?}: {}", told(&out));
    }
}
