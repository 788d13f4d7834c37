//! The laboratory: the talk's machines as network namespaces joined by veth pairs to a bridge, with nftables
//! capture, unmodified applications and clients that know nothing of a proxy. Needs root.
//!
//! One namespace stands for one VM and runs one `ringgate` process. Everything carries this run's name and is
//! taken down when the [`Lab`] is dropped.

pub mod files;
pub mod net;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;

use self::net::{Net, VMS, Vm};
use super::curl::Caller;
use super::demo::Io;
use super::drill::last_lines;
use super::layout::{Layout, host};
use super::material::{self, PARTNER};
use super::os;
use super::target::{Hits, Records, Target};

/// First three octets of the machines' addresses. The bridge has no way out, so that runs do not meet.
pub const SUBNET: &str = "10.77.0";
/// First three octets of service addresses, which no machine has.
pub const VIRTUAL: &str = "10.78.0";
/// How long a process may take to start.
const START: Duration = Duration::from_secs(30);

/// A running laboratory; taken down when dropped.
#[derive(Debug)]
pub struct Lab {
    processes: Vec<Process>,
    net: Net,
    layout: Layout,
    io: Io,
    program: String,
}

#[derive(Debug)]
struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Lab {
    /// Makes the machines and starts the applications, without the mesh. `dir` gets all files; `program` is the
    /// `ringgate` that runs on the machines.
    ///
    /// # Errors
    /// If this is not root, a tool is missing (`ip`, `nft`, `setpriv`, `python3`), or the kernel refuses.
    pub fn set_up(dir: &Path, io: Io, program: &Path) -> anyhow::Result<Self> {
        net::check_tools()?;
        let layout = Layout::new(dir, SUBNET)?;
        material::write_keys(&layout)?;
        files::write_apps(&layout)?;
        let mut lab = Self {
            processes: Vec::new(),
            net: Net::set_up()?,
            layout,
            io,
            program: program.to_string_lossy().into_owned(),
        };
        lab.start_apps()?;
        Ok(lab)
    }

    fn start_apps(&mut self) -> anyhow::Result<()> {
        for vm in &VMS {
            for workload in vm.workloads {
                let address = self.layout.ip(workload.host);
                let www = self.layout.file("www").join(workload.app);
                let www = www.to_string_lossy();
                let command = [
                    "/usr/bin/python3",
                    "-m",
                    "http.server",
                    "8080",
                    "--bind",
                    &address,
                    "--directory",
                    &www,
                ];
                self.spawn(
                    vm,
                    &format!("app-{}", workload.name),
                    Some(workload.app_uid),
                    &command,
                )?;
            }
        }
        let program = self.program.clone();
        let dir = self.layout.dir.to_string_lossy().into_owned();
        let command = [
            &program,
            "demo",
            "--apps",
            "outside",
            "--subnet",
            SUBNET,
            "--apps-only",
            &dir,
        ];
        self.spawn(Vm::named("outside")?, "outside", None, &command)?;
        for (name, caller, url) in &self.target().moat {
            let up = os::wait_until(START, || {
                caller.call(url).is_ok_and(|answer| answer.status == 200)
            });
            anyhow::ensure!(up, "{name} does not answer at {url}");
        }
        let partner = self.target().partner_hits;
        anyhow::ensure!(
            os::wait_until(START, || partner.read().is_ok()),
            "the partner does not answer"
        );
        Ok(())
    }

    /// Starts a command on a machine, its output to a log file; the process ends with this one.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(
        &mut self,
        vm: &Vm,
        name: &str,
        uid: Option<u32>,
        command: &[&str],
    ) -> anyhow::Result<()> {
        let log = self.layout.file(&format!("{name}.log"));
        let out = std::fs::File::create(&log).with_context(|| format!("`{}`", log.display()))?;
        let prefix = self.net.prefix(vm, uid, true);
        let mut words = prefix
            .iter()
            .map(String::as_str)
            .chain(command.iter().copied());
        let child = Command::new(words.next().unwrap_or("ip"))
            .args(words)
            .stdin(Stdio::null())
            .stderr(out.try_clone()?)
            .stdout(out)
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        self.processes.push(Process {
            name: name.to_owned(),
            log,
            child,
        });
        Ok(())
    }

    /// Captures the traffic of the machines that have a node. From here on nothing passes without one.
    ///
    /// # Errors
    /// If `nft` refuses the rules.
    pub fn capture(&self) -> anyhow::Result<()> {
        VMS.iter()
            .filter(|vm| !vm.workloads.is_empty())
            .try_for_each(|vm| self.net.capture(vm))
    }

    /// Captures, then starts the authority and all the roles' processes; returns when all of them serve.
    ///
    /// # Errors
    /// If a process does not start.
    pub fn raise_mesh(&mut self) -> anyhow::Result<()> {
        self.capture()?;
        files::write_processes(&self.layout, self.io, None)?;
        self.start("authority")?;
        let keys = self.mesh_keys()?;
        files::write_processes(&self.layout, self.io, Some(&keys))?;
        for vm in VMS.iter().filter(|vm| vm.mesh && vm.name != "authority") {
            self.launch(vm)?;
        }
        let target = self.target();
        target.await_ready(START, || self.alive())
    }

    /// The key set of workload tokens, from the authority's own admin endpoint.
    fn mesh_keys(&self) -> anyhow::Result<String> {
        let (caller, base) = self.admin(Vm::named("authority")?);
        let answer = caller.call(&format!("{base}/jwks.json"))?;
        anyhow::ensure!(answer.status == 200, "{base}/jwks.json: {}", answer.seen());
        Ok(answer.body.trim().to_owned())
    }

    fn launch(&mut self, vm: &Vm) -> anyhow::Result<()> {
        let program = self.program.clone();
        let config = self.layout.dir.join(vm.name).join("ringgate.toml");
        let config = config.to_string_lossy().into_owned();
        self.spawn(vm, vm.name, None, &[&program, "run", "--config", &config])
    }

    /// Starts the `ringgate` process of a machine and waits until it serves.
    ///
    /// # Errors
    /// If it does not.
    pub fn start(&mut self, name: &str) -> anyhow::Result<()> {
        let vm = Vm::named(name)?;
        self.launch(vm)?;
        let mut target = self.target();
        target.admins = vec![self.admin(vm)];
        target.await_ready(START, || self.alive())
    }

    /// Kills the process `name` (a machine's `ringgate`, or `app-WORKLOAD`) without a chance to clean up.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        let at = self
            .processes
            .iter()
            .position(|process| process.name == name);
        let mut process = self
            .processes
            .swap_remove(at.with_context(|| format!("no process `{name}`"))?);
        process.child.kill()?;
        process.child.wait()?;
        Ok(())
    }

    /// # Errors
    /// If a process has ended; with the last lines of its log.
    pub fn alive(&mut self) -> anyhow::Result<()> {
        for process in &mut self.processes {
            if let Some(status) = process.child.try_wait()? {
                anyhow::bail!(
                    "{} ended: {status}\n{}",
                    process.name,
                    last_lines(&process.log)
                );
            }
        }
        Ok(())
    }

    fn admin(&self, vm: &Vm) -> (Caller, String) {
        (self.root_on(vm), "http://127.0.0.1:15000".to_owned())
    }

    fn root_on(&self, vm: &Vm) -> Caller {
        Caller {
            prefix: self.net.prefix(vm, None, false),
            args: Vec::new(),
        }
    }

    /// How to call, count and read in this laboratory.
    #[must_use]
    pub fn target(&self) -> Target {
        let layout = &self.layout;
        let [_, frontend, reviews, customer, _, _, _, outside] = &VMS;
        let user = |vm: &Vm, uid| Caller {
            prefix: self.net.prefix(vm, Some(uid), false),
            args: Vec::new(),
        };
        let app = |host, path: &str| format!("http://{}{path}", layout.at(host, 8080));
        let partner = layout.at(host::PARTNER, 8443);
        let partner_caller = self.root_on(outside).with(&[
            "--cacert",
            &layout.file("state/partner/ca.pem").to_string_lossy(),
            "--connect-to",
            &format!("{PARTNER}:8443:{partner}"),
            "-H",
            &format!("Host: {partner}"),
        ]);
        let mesh = || VMS.iter().filter(|vm| vm.mesh);
        Target {
            frontend: user(frontend, net::client_uid(host::FRONTEND)),
            reviews: user(reviews, net::client_uid(host::REVIEWS)),
            same_node: user(customer, net::client_uid(host::REVIEWS_2)),
            attacker: self.root_on(reviews),
            frontend_host: self.root_on(frontend),
            outsider: self.root_on(outside),
            moat: vec![
                (
                    "frontend-service",
                    self.root_on(reviews),
                    app(host::FRONTEND, "/"),
                ),
                (
                    "reviews-service",
                    self.root_on(frontend),
                    app(host::REVIEWS, "/"),
                ),
                (
                    "customer-api",
                    self.root_on(reviews),
                    app(host::CUSTOMER_API, "/api/v1/users/export"),
                ),
            ],
            workload: layout.at(host::CUSTOMER_API, 8080),
            workload_tls: layout.at(host::CUSTOMER_API, 8443),
            waypoint_tls: layout.at(host::WAYPOINT, 8443),
            ingress: layout.ip(host::INGRESS),
            egress: layout.ip(host::EGRESS),
            endless: ("/endless", vec!["--limit-rate".into(), "2M".into()]),
            stolen: layout.file("stolen"),
            edge_ca: layout.file("state/ingress/ca.pem"),
            user_key: layout.file("state/idp/key.pem"),
            customer_hits: Hits::Log(layout.file("app-customer-api.log"), " HTTP/1."),
            partner_hits: Hits::Url(partner_caller, format!("https://{PARTNER}:8443/-/hits")),
            records: Records(
                mesh()
                    .map(|vm| layout.dir.join(vm.name).join("log/decisions.jsonl"))
                    .collect(),
            ),
            admins: mesh().map(|vm| self.admin(vm)).collect(),
            policy: layout.file("mesh.d/mesh.toml"),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            end(&mut process.child);
        }
    }
}

/// Ends a child process: SIGTERM, SIGTERM again if it is still there a moment later (by which `ringgate` does not wait any
/// more for who is connected), and SIGKILL if it has not ended after five seconds.
pub fn end(child: &mut Child) {
    for patience in [Duration::from_millis(200), Duration::from_secs(5)] {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        os::ignore(os::terminate(child.id()));
        os::wait_until(patience, || matches!(child.try_wait(), Ok(Some(_))));
    }
    if !matches!(child.try_wait(), Ok(Some(_))) {
        os::ignore(child.kill());
        os::ignore(child.wait());
    }
}
