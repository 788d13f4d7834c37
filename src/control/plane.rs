//! The control plane of the process: it gathers identities, key sets and configuration into snapshots.

mod error;
mod first;
mod material;
mod wanted;

use std::collections::BTreeMap;
use std::error::Error as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::config::checked::life::Limits;
use crate::config::checked::{Config, IdentityFiles, IdentitySource, Mesh, Process};
use crate::config::{self, Depth, Options};
use crate::control::admin::{self, Face, Hangups, Status};
use crate::control::ask::{self, Ask, Asker};
use crate::control::authority::Authority;
use crate::control::capture::find::{Sought, find};
use crate::control::dns::{self, Dns, NameKeeper, Names};
use crate::control::files::{self, FilesJob};
use crate::control::handover;
use crate::control::http_client::{HttpClient, SYSTEM_ROOTS};
use crate::control::identity_source::{self, Told};
use crate::control::jwks::{JwksHandle, Sources, Timetable};
use crate::control::login::LoginPart;
use crate::control::memory;
use crate::control::observe::{Observed, Reports};
use crate::control::phase::Phase;
pub use crate::control::plane::error::PlaneError;
use crate::control::plane::material::{Material, refusal};
use crate::control::plane::wanted::wanted;
pub use crate::control::plane::wanted::{wanted_of_gateway, wanted_of_workload};
use crate::control::redeems::Redeems;
use crate::control::sandbox::never_binds;
use crate::control::snapshot::{Identities, Parts, Snapshot, SnapshotError};
use crate::control::status::About;
use crate::control::supervisor;
use crate::control::svid::{SvidManager, SvidSet, system_clock};
use crate::control::tenure::Tenure;
use crate::control::watch_files;
use crate::control::workload_api::attest::{self, Entry};
use crate::control::workload_api::start as workload_api;
use crate::identity::revocation::Revocations;
use crate::identity::svid::WantedSvid;
use crate::io::clock;
use crate::jwt::KeySets;
use crate::jwt::model::KeySource;
use crate::role::enforcement::Enforcements;
use crate::telemetry::audit::Audit;
use crate::telemetry::tally::Tally;

/// What the cores get.
#[derive(Clone, Debug)]
pub struct Published {
    /// The snapshot, swapped whole.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Changes with every new snapshot.
    pub changed: watch::Receiver<u64>,
    /// Questions to the control thread.
    pub asks: Asker,
    /// What the endpoints for the operator tell.
    pub reports: Reports,
    /// Set to ready once the listeners serve.
    pub status: watch::Sender<Status>,
    /// What a process that takes over gets of the control thread.
    pub kept: Vec<Arc<OwnedFd>>,
}

/// What the control thread shares with the process before and the process after this one.
#[derive(Debug)]
pub struct Shared {
    /// What was taken over.
    pub taken: handover::Face,
    /// Whether this process may be taken over itself.
    pub keeps: bool,
    /// What the next one gets.
    pub kept: Vec<Arc<OwnedFd>>,
    /// Tells when it has it.
    pub phase: watch::Receiver<Phase>,
    /// When this process holds what there is one of.
    pub tenure: Tenure,
    /// The process.
    pub about: Arc<About>,
}

impl Shared {
    /// Keeps a descriptor for the next process.
    pub(super) fn keep(&mut self, descriptor: OwnedFd) {
        if self.keeps {
            self.kept.push(Arc::new(descriptor));
        }
    }
}

/// How long the start waits for key sets; without them tokens are refused, nothing else.
const FIRST_KEYS: Duration = Duration::from_secs(2);

/// What runs beside the main loop; ends with it.
#[derive(Debug, Default)]
pub(super) struct Tasks(Vec<AbortHandle>);

impl Tasks {
    pub(super) fn spawn(
        &mut self,
        what: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let task = tokio::spawn(task);
        self.0.push(task.abort_handle());
        // A part that ends takes nothing else with it, but the operator has to know.
        drop(tokio::spawn(async move {
            match task.await {
                Ok(()) => tracing::error!("{what} has ended; the rest goes on without it"),
                Err(error) if error.is_panic() => {
                    tracing::error!("{what} has panicked; the rest goes on without it");
                }
                Err(_aborted) => {}
            }
        }));
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// What is revoked, by whomever.
#[derive(Debug)]
struct Revoked {
    told: Told,
    /// All of it.
    now: Arc<Revocations>,
    /// For the verifiers of the data cores.
    handle: Arc<ArcSwap<Revocations>>,
    /// For the rotation of identities.
    manager: watch::Sender<Arc<Revocations>>,
}

impl Revoked {
    fn new(told: Told, manager: watch::Sender<Arc<Revocations>>) -> Self {
        Self {
            told,
            now: Arc::default(),
            handle: Arc::default(),
            manager,
        }
    }

    fn handle(&self) -> Arc<ArcSwap<Revocations>> {
        Arc::clone(&self.handle)
    }

    async fn changed(&mut self) {
        self.told.changed().await;
    }

    /// Whether it is another than before. New handshakes are verified by it from here on.
    fn gather(&mut self, mesh: &Mesh) -> bool {
        let now = self.told.now().merged(&mesh.revocations);
        if now == *self.now {
            return false;
        }
        self.now = Arc::new(now);
        self.handle.store(Arc::clone(&self.now));
        self.manager.send_replace(Arc::clone(&self.now));
        true
    }
}

/// What the data cores ask.
#[derive(Debug)]
struct Questions {
    asks: mpsc::Receiver<Ask>,
    /// Those about control groups are answered beside the main loop.
    groups: mpsc::Sender<Sought>,
    redeems: Redeems,
}

impl Questions {
    fn new(tasks: &mut Tasks) -> (Asker, Self) {
        let (asker, asks) = mpsc::channel(ask::WAITING);
        let (groups, sought) = mpsc::channel(ask::WAITING);
        tasks.spawn("search for control groups", find(sought));
        let questions = Self {
            asks,
            groups,
            redeems: Redeems::default(),
        };
        (asker, questions)
    }
}

/// The running control plane.
#[derive(Debug)]
pub struct Plane {
    main: PathBuf,
    config: Arc<Config>,
    generation: u64,
    version: u64,
    svids: watch::Receiver<Arc<SvidSet>>,
    wanted: watch::Sender<Vec<WantedSvid>>,
    identities: Arc<Identities>,
    revoked: Revoked,
    keys: watch::Receiver<Arc<KeySets>>,
    jwks: JwksHandle,
    http: HttpClient,
    names: Names,
    login: LoginPart,
    questions: Questions,
    entries: watch::Sender<Arc<Vec<Entry>>>,
    authority: Option<Arc<Authority>>,
    about: Arc<About>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    changed: watch::Sender<u64>,
    status: watch::Sender<Status>,
    _tasks: Tasks,
}

impl Plane {
    /// Starts everything and waits for the first snapshot.
    ///
    /// # Errors
    /// `PlaneError`.
    pub async fn start(
        main: PathBuf,
        config: Config,
        mut shared: Shared,
    ) -> Result<(Self, Published), PlaneError> {
        let config = Arc::new(config);
        let (mut tasks, status) = (Tasks::default(), watch::Sender::new(Status::default()));
        let audit = audit(&config.process)?;
        let begun = identity_source::begin(&config, audit.as_ref(), &mut tasks, &mut shared);
        let (source, authority, told) = begun.await?;
        let known = (&status, authority.as_ref());
        let reports = endpoints(&config.process, known, &mut tasks, &mut shared).await?;
        watch_memory(&config.process.limits, &reports.tally, &mut tasks)?;
        status.send_modify(|s| s.source = source.label());
        let wanted = wanted(&config);
        let signer = workload_api::signer(&source);
        let manager = SvidManager::new(source, wanted.clone());
        let (mut svids, wanted_sender) = (manager.subscribe(), manager.wanted());
        let mut revoked = Revoked::new(told, manager.revoked());
        revoked.gather(&config.mesh);
        tasks.spawn("rotation of identities", manager.run());
        let given = workload_api::Given {
            tokens: signer,
            svids: svids.clone(),
            revoked: revoked.manager.subscribe(),
            audit,
        };
        let entries = workload_api::serve(&config, given, &mut tasks, &mut shared)?;
        write_files(&config, authority.clone(), &svids, (&mut tasks, &shared));
        let (http, sources) = (http_client(), key_sources(&config.mesh));
        let (jwks, mut keys, keeper) = JwksHandle::new(http.clone(), Timetable::default(), sources);
        tasks.spawn("keeper of key sets", keeper.run());
        let mut login = LoginPart::start(&http, &config.mesh, None)?;
        let mut names = name_keeper(&config, &mut tasks);

        first::identities(&mut svids, &wanted).await?;
        tokio::join!(
            first_keys(&mut keys, &config.mesh),
            login.first(),
            names.first()
        );
        let identities = Identities::new(revoked.handle())
            .renew(&svids.borrow_and_update(), &revoked.now)
            .map_err(PlaneError::Snapshot)?;
        let (asker, questions) = Questions::new(&mut tasks);
        let mut plane = Self {
            main,
            generation: 1,
            version: 0,
            svids,
            wanted: wanted_sender,
            identities: Arc::new(identities),
            revoked,
            keys,
            jwks,
            http,
            names,
            login,
            questions,
            entries,
            authority,
            about: Arc::clone(&shared.about),
            // Replaced at once, two lines below.
            snapshot: Arc::new(ArcSwap::from_pointee(
                Snapshot::build(&first_parts(&config)).map_err(|e| refusal(e, &config))?,
            )),
            config,
            changed: watch::Sender::new(0),
            status,
            _tasks: tasks,
        };
        let published = plane.publish();
        published.map_err(|e| refusal(e, &plane.config))?;
        let published = plane.published(asker, reports, shared.kept);
        Ok((plane, published))
    }

    /// The authority, if it is in this process.
    #[must_use]
    pub fn authority(&self) -> Option<Arc<Authority>> {
        self.authority.clone()
    }

    fn published(&self, asks: Asker, reports: Reports, kept: Vec<Arc<OwnedFd>>) -> Published {
        Published {
            snapshot: Arc::clone(&self.snapshot),
            changed: self.changed.subscribe(),
            asks,
            reports,
            status: self.status.clone(),
            kept,
        }
    }

    /// Keeps snapshots fresh until the future is dropped. Runs within a `LocalSet`.
    pub async fn run(mut self) {
        let (touch, mut changes) = watch_files::channel();
        let _watcher = watch_files::start(&config::load::load_files(&self.main), touch.clone());
        let status = self.status.clone();
        watch_files::on_hangup(touch, move || {
            quietly(&status, |h| h.heard = h.heard.wrapping_add(1));
        });
        // What has changed since the start read it was told to nobody.
        self.reload().await;
        self.look();
        let mut material = Material::of(&self.config);
        loop {
            tokio::select! {
                Some(()) = changes.touched() => {
                    changes.settle().await;
                    // What is heard of later is answered by the next round.
                    let heard = self.status.borrow().hangups.heard;
                    supervisor::reloading(&self.status.borrow());
                    self.reload().await;
                    self.look();
                    material.follow(&self.config);
                    quietly(&self.status, |hangups| hangups.answered = heard);
                    supervisor::reloaded(&self.status.borrow());
                }
                () = material.changed() => self.look(),
                Ok(()) = self.svids.changed() => self.renew(),
                () = self.revoked.changed() => self.revoke(),
                Ok(()) = self.keys.changed() => self.refresh("key sets"),
                Ok(()) = self.names.resolved.changed() => self.refresh("outside names"),
                Ok(()) = self.login.logins.changed() => self.refresh("login providers"),
                Some(question) = self.questions.asks.recv() => self.answer(question),
                else => return std::future::pending().await,
            }
        }
    }

    /// Builds a snapshot of what is known now and swaps it in.
    fn publish(&mut self) -> Result<(), SnapshotError> {
        let oidc = self
            .login
            .logins
            .borrow_and_update()
            .iter()
            .map(|(n, l)| (n.clone(), Arc::clone(&l.provider)))
            .collect();
        let parts = Parts {
            generation: self.generation,
            config: Arc::clone(&self.config),
            identities: Arc::clone(&self.identities),
            revocations: Arc::clone(&self.revoked.now),
            keys: Arc::clone(&self.keys.borrow_and_update()),
            oidc,
            resolved: Arc::clone(&self.names.resolved.borrow_and_update()),
            serving: Arc::clone(&self.snapshot.load().serving),
            origination: Arc::clone(&self.snapshot.load().origination),
            last: Some(self.snapshot.load_full()).filter(|s| s.generation == self.generation),
            endpoints: Some(Arc::clone(&self.snapshot.load().endpoints)),
        };
        let snapshot = Snapshot::build(&parts)?;
        let upstreams = (Arc::clone(&snapshot.mesh), Arc::clone(&snapshot.endpoints));
        let before = self.snapshot.swap(Arc::new(snapshot));
        self.show_material(&before, &self.snapshot.load());
        self.version = self.version.wrapping_add(1);
        self.changed.send_replace(self.version);
        let (generation, svids) = (self.generation, Arc::clone(&self.svids.borrow()));
        let revocations = self.revoked.now.len();
        self.status.send_modify(|s| {
            if s.generation != generation {
                s.loaded_at = clock::unix().as_secs();
            }
            s.generation = generation;
            s.identities = svids.by_id.len();
            s.svids = svids;
            s.revocations = revocations;
            s.upstreams = Some(upstreams);
        });
        Ok(())
    }

    fn refresh(&mut self, what: &str) {
        if let Err(error) = self.publish() {
            tracing::error!(%error, what, "the last good state stays");
        }
    }

    /// Takes the revocations as they are now.
    fn revoke(&mut self) {
        if self.revoked.gather(&self.config.mesh) {
            tracing::info!(
                revocations = self.revoked.now.len(),
                "revocations have changed"
            );
            self.renew();
        }
    }

    fn renew(&mut self) {
        let svids = Arc::clone(&self.svids.borrow_and_update());
        let renewed = self.identities.renew(&svids, &self.revoked.now);
        match renewed {
            Ok(identities) => {
                self.identities = Arc::new(identities);
                self.refresh("identities");
            }
            Err(error) => tracing::error!(%error, "the last good identities stay"),
        }
    }

    /// Reads the configuration again. What is wrong with it is told, and changes nothing.
    async fn reload(&mut self) {
        // Lints are for those who write policies; the cores wait for this.
        let options = Options {
            lints: Depth::None,
            ..Options::default()
        };
        let loaded = match config::load_with(&self.main, &[], options) {
            Ok(loaded) => loaded,
            Err(errors) => {
                let told = errors.problems().iter().map(ToString::to_string);
                return self.refused(told.chain(self.out_of_sight()).collect());
            }
        };
        let changed = loaded.process.differences(&self.config.process);
        if !changed.is_empty() {
            let (file, tables) = (self.main.display(), changed.join(", "));
            let have = if changed.len() > 1 { "have" } else { "has" };
            let text = "changed, which needs a restart; the mesh was not reloaded either";
            return self.refused(vec![format!("{file}: {tables} {have} {text}")]);
        }
        let outside = self.about.outside(&loaded);
        if !outside.is_empty() {
            return self.refused(outside);
        }
        if loaded.mesh == self.config.mesh && loaded.process == self.config.process {
            if !self.status.borrow().problems.is_empty() {
                tracing::info!("the configuration is good again, and as it was");
            }
            return self.accepted();
        }
        let mut login = None;
        if loaded.mesh.oidc_providers != self.config.mesh.oidc_providers {
            match LoginPart::start(&self.http, &loaded.mesh, Some(&self.login)) {
                Ok(part) => login = Some(std::mem::replace(&mut self.login, part)),
                Err(error) => {
                    let cause = error.source().map(|cause| format!(": {cause}"));
                    return self.refused(vec![format!("{error}{}", cause.unwrap_or_default())]);
                }
            }
        }
        let before = (Arc::clone(&self.config), self.generation);
        self.config = Arc::new(loaded);
        self.generation = self.generation.saturating_add(1);
        let revoked = self.revoked.gather(&self.config.mesh);
        if let Err(error) = self.publish() {
            let told = material::refused(&error, &self.config);
            (self.config, self.generation) = before;
            self.revoked.gather(&self.config.mesh);
            if let Some(login) = login {
                self.login = login;
            }
            return self.refused(vec![told]);
        }
        self.accepted();
        let changes = self.config.changes(&before.0);
        tracing::info!(
            generation = self.generation,
            changes,
            "configuration reloaded"
        );
        if revoked {
            self.renew();
        }
        self.wanted.send_replace(wanted(&self.config));
        self.entries
            .send_replace(Arc::new(attest::entries(&self.config)));
        self.jwks.set_sources(key_sources(&self.config.mesh));
        self.names.wanted.send_replace(dns::wanted(&self.config));
    }

    fn accepted(&self) {
        self.status.send_modify(|s| {
            s.problems.clear();
            s.refused_at = None;
        });
    }

    fn refused(&self, problems: Vec<String>) {
        for problem in &problems {
            tracing::error!("reload refused, the last good state stays: {problem}");
        }
        self.status.send_modify(|s| {
            s.problems = problems;
            s.refused_at = Some(clock::unix().as_secs());
        });
    }

    /// What a reload may have wanted to read where this process may not.
    fn out_of_sight(&self) -> Vec<String> {
        let files = config::load::load_files(&self.main);
        let sandbox = self.about.sandbox.get();
        let outside = sandbox.map_or_else(Vec::new, |sandbox| sandbox.outside_of(&files));
        let told = outside.iter().map(|path| {
            format!(
                "{}: `sandbox` in [process] holds this process to the directories that it started with; a restart takes \
                 this one in",
                path.display()
            )
        });
        told.collect()
    }

    fn answer(&self, question: Ask) {
        match question {
            Ask::UnknownKey(source) => self.jwks.unknown_kid(&source),
            // A core that hears nothing refuses the connection.
            Ask::Cgroup { id, answer } => drop(self.questions.groups.try_send((id, answer))),
            Ask::Redeem {
                provider,
                client,
                exchange,
                answer,
            } => {
                let Some(login) = self.login.logins.borrow().get(&provider).cloned() else {
                    return;
                };
                // A core that hears nothing says that the provider cannot be reached.
                let Some(place) = self.questions.redeems.enter(&provider, client) else {
                    return;
                };
                let mut answer = answer;
                tokio::task::spawn_local(async move {
                    let turn = tokio::select! {
                        biased;
                        // The core has given up waiting.
                        () = answer.closed() => return,
                        turn = place.turn() => turn,
                    };
                    let respond = login.finish(&exchange, &clock::unix_s, &mut random).await;
                    drop((turn, place));
                    drop(answer.send(respond));
                });
            }
        }
    }
}

/// Counts, which is no news to those who wait for another status.
fn quietly(status: &watch::Sender<Status>, count: impl FnOnce(&mut Hangups)) {
    status.send_if_modified(|status| {
        count(&mut status.hangups);
        false
    });
}

/// Does all that a start does with a configuration before anything is served but for reading files: compiles the policies.
///
/// # Errors
/// `SnapshotError`.
pub fn verify(config: &Config) -> Result<(), SnapshotError> {
    Enforcements::build(Arc::clone(&config.mesh))?;
    Ok(())
}

fn first_parts(config: &Arc<Config>) -> Parts {
    Parts {
        generation: 0,
        config: Arc::clone(config),
        identities: Arc::default(),
        revocations: Arc::default(),
        keys: Arc::default(),
        oidc: BTreeMap::new(),
        resolved: Arc::default(),
        serving: Arc::default(),
        origination: Arc::default(),
        last: None,
        endpoints: None,
    }
}

fn http_client() -> HttpClient {
    HttpClient::new(std::path::Path::new(SYSTEM_ROOTS))
        .unwrap_or_else(|_no_roots| HttpClient::loopback_only())
}

/// Keeps the identity files that the configuration asks for.
fn write_files(
    config: &Config,
    authority: Option<Arc<Authority>>,
    svids: &watch::Receiver<Arc<SvidSet>>,
    (tasks, shared): (&mut Tasks, &Shared),
) {
    let jobs = file_jobs(config);
    if !jobs.is_empty() {
        let keep = files::keep(jobs, authority, svids.clone(), system_clock());
        let tenure = shared.tenure.clone();
        tasks.spawn("writer of identity files", tenure.during(keep));
    }
}

/// Serves the admin, metrics and readiness endpoints that the configuration asks for.
async fn endpoints(
    process: &Process,
    (status, authority): (&watch::Sender<Status>, Option<&Arc<Authority>>),
    tasks: &mut Tasks,
    shared: &mut Shared,
) -> Result<Reports, PlaneError> {
    let (observed, mut reports) = Observed::new();
    if process.admin.is_none() && process.metrics.is_none() {
        // Nobody reads metrics: what is announced is to count as taken.
        reports.series = mpsc::channel(1).0;
    }
    let source = admin::Source {
        status: status.subscribe(),
        authority: authority.cloned(),
        observed,
        about: Arc::clone(&shared.about),
    };
    let wanted = [
        ("admin listener", Face::Admin, process.admin),
        ("metrics listener", Face::Metrics, process.metrics),
        ("readiness listener", Face::Readiness, process.readiness),
    ];
    for (what, face, address) in wanted {
        let Some(address) = address else { continue };
        let failed = |source| PlaneError::Listen {
            address,
            what,
            source,
        };
        let taken = shared.taken.listener(address);
        let awaits = taken.is_some() && shared.taken.is_served();
        let listener = match taken {
            Some(socket) => TcpListener::from_std(socket.into()).map_err(failed)?,
            None => admin::bind(address).await.map_err(failed)?,
        };
        let second = listener.as_fd().try_clone_to_owned().map_err(failed)?;
        shared.keep(second);
        let (source, phase) = (source.clone(), shared.phase.clone());
        tasks.spawn(what, endpoint(listener, face, source, awaits, phase));
    }
    Ok(reports)
}

/// Serves an endpoint until another process does. With `awaits` another process does until this one is ready.
async fn endpoint(
    listener: TcpListener,
    face: Face,
    source: admin::Source,
    awaits: bool,
    mut phase: watch::Receiver<Phase>,
) {
    let mut status = source.status.clone();
    if awaits && status.wait_for(|status| status.ready).await.is_err() {
        return;
    }
    tokio::select! {
        () = admin::serve(listener, face, source) => {}
        _ = phase.wait_for(|phase| *phase == Phase::HandedOver) => {}
    }
    std::future::pending::<()>().await;
}

/// Where decisions of the control thread are recorded, if it makes any.
fn audit(process: &Process) -> Result<Option<Audit>, PlaneError> {
    let issues = match &process.identity {
        IdentitySource::Embedded(settings) => settings.listen.is_some(),
        IdentitySource::Remote(_) | IdentitySource::Files(_) | IdentitySource::WorkloadApi(_) => {
            false
        }
    };
    if !issues && process.workload_api.is_none() {
        return Ok(None);
    }
    let started = Audit::start(&process.records, never_binds);
    started.map(Some).map_err(|source| PlaneError::Io {
        what: "decision records".to_owned(),
        source,
    })
}

/// Waits for the first fetch of every key set, but not for long.
async fn first_keys(keys: &mut watch::Receiver<Arc<KeySets>>, mesh: &Mesh) {
    let sources = key_sources(mesh);
    let known = keys.wait_for(|sets| sources.all().all(|s| sets.map.contains_key(s)));
    if tokio::time::timeout(FIRST_KEYS, known).await.is_err() {
        tracing::warn!("not all key sets are there yet; their tokens are refused until they are");
    }
}

fn file_jobs(config: &Config) -> Vec<FilesJob> {
    let job = |files: &IdentityFiles| {
        let workload = config
            .mesh
            .workloads
            .iter()
            .find(|w| w.name == files.workload)?;
        Some(FilesJob {
            id: workload.id.clone(),
            dir: files.dir.clone(),
            audience: files.audience.clone(),
        })
    };
    config
        .process
        .identity_files
        .iter()
        .filter_map(job)
        .collect()
}

fn key_sources(mesh: &Mesh) -> Sources {
    let rules = mesh.request_authentications.iter().flat_map(|r| &r.rules);
    Sources::of(rules.filter(|r| !matches!(r.keys, KeySource::Inline(_))))
}

fn watch_memory(limits: &Limits, tally: &Arc<Tally>, tasks: &mut Tasks) -> Result<(), PlaneError> {
    let Some(ceiling) = memory::ceiling(limits.memory) else {
        tracing::warn!("what memory the machine has cannot be read: there is no memory ceiling");
        return Ok(());
    };
    let status = memory::status().map_err(|source| PlaneError::Io {
        what: memory::STATUS.to_owned(),
        source,
    })?;
    let watch = memory::watch(status, Arc::clone(tally), ceiling);
    tasks.spawn("watch of the memory ceiling", watch);
    Ok(())
}

fn name_keeper(config: &Config, tasks: &mut Tasks) -> Names {
    let nameservers = config.process.nameservers.clone();
    let (keeper, names) = NameKeeper::new(Dns::new(nameservers), dns::wanted(config));
    tasks.spawn("resolver of outside names", keeper.run());
    names
}

/// Leaves `into` as it is where there is no randomness; sealing refuses zeros.
fn random(into: &mut [u8]) {
    if aws_lc_rs::rand::fill(into).is_err() {
        tracing::error!("no randomness");
    }
}
