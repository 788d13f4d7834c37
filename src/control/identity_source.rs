//! From the configuration to the source of identities, and what runs beside it.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::checked::workload_api::Endpoint;
use crate::config::checked::{self, Config, IdentitySource, Process, Secret};
use crate::config::secret::SecretError;
use crate::control::authority::grant::JoinTokens;
use crate::control::authority::hold::{self, Hold};
use crate::control::authority::news::News;
use crate::control::authority::{self, Authority, AuthorityError, GivenCa, control};
use crate::control::durable;
use crate::control::file_source::FileSource;
use crate::control::grpc::{
    CertificateService, NodeState, Parts, RemoteAuthority, RemoteError, follow,
};
use crate::control::join_token_file;
use crate::control::named_file::FileProblem;
use crate::control::plane::{PlaneError, Shared, Tasks};
use crate::control::svid::{Source, system_clock, system_jitter};
use crate::control::tenure::Tenure;
use crate::control::workload_api::source::WorkloadApiSource;
use crate::identity::pem;
use crate::identity::revocation::Revocations;
use crate::telemetry::audit::Audit;
use crate::vocab::spiffe::TrustDomain;
use crate::vocab::text::chain;

/// No file of certificates is longer.
const FILE_BYTES: u64 = 1 << 20;
/// What is asked of another authority; it may give less.
const ASKED_TTL: Duration = Duration::from_secs(24 * 3600);
/// How long another holder of the authority's state is waited for, and between two looks.
const LOCKED: Duration = Duration::from_secs(5);
const LOCKED_LOOK: Duration = Duration::from_millis(50);
/// Permission bits of a key that the operator gives.
const KEY_MODE: u32 = 0o400;

/// What tells of revocations besides the configuration.
#[derive(Debug)]
pub(super) enum Told {
    /// This process's authority.
    Embedded(watch::Receiver<Arc<News>>),
    /// Another's.
    Remote(watch::Receiver<Arc<Revocations>>),
    /// Nothing.
    Nobody,
}

impl Told {
    /// As they are now.
    pub(super) fn now(&mut self) -> Arc<Revocations> {
        match self {
            Self::Embedded(news) => Arc::clone(&news.borrow_and_update().revocations),
            Self::Remote(revocations) => Arc::clone(&revocations.borrow_and_update()),
            Self::Nobody => Arc::default(),
        }
    }

    /// Ends when they may have changed.
    pub(super) async fn changed(&mut self) {
        let told = match self {
            Self::Embedded(news) => news.changed().await,
            Self::Remote(revocations) => revocations.changed().await,
            Self::Nobody => return std::future::pending().await,
        };
        if told.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The source, the authority if it is in this process, and what tells of revocations.
pub(super) type Begun = (Source, Option<Arc<Authority>>, Told);

/// Opens the source of identities and starts what keeps it. What others are given is recorded in `audit`.
pub(super) async fn begin(
    config: &Config,
    audit: Option<&Audit>,
    tasks: &mut Tasks,
    shared: &mut Shared,
) -> Result<Begun, PlaneError> {
    match &config.process.identity {
        IdentitySource::Embedded(settings) => {
            embedded(config, settings, audit, (tasks, shared)).await
        }
        IdentitySource::Remote(settings) => remote(config, settings, tasks, shared),
        IdentitySource::Files(dirs) => {
            let source = FileSource::new(dirs.clone(), config.mesh.trust_domain.clone());
            let source = Arc::new(source);
            tasks.spawn("watch of identity files", Arc::clone(&source).watch());
            Ok((Source::Files(source), None, Told::Nobody))
        }
        IdentitySource::WorkloadApi(settings) => {
            let socket = match &settings.endpoint {
                Endpoint::Socket(path) => path.clone(),
                Endpoint::Variable(name) => endpoint_variable(name)?,
            };
            let domain = config.mesh.trust_domain.clone();
            let (federated, clock) = (settings.federated.clone(), system_clock());
            let agent = WorkloadApiSource::new(socket, domain, federated, clock, system_jitter());
            let agent = Arc::new(agent);
            tasks.spawn("follower of the Workload API", Arc::clone(&agent).run());
            Ok((Source::Agent(agent), None, Told::Nobody))
        }
    }
}

/// The path in an environment variable such as `SPIFFE_ENDPOINT_SOCKET`.
fn endpoint_variable(name: &str) -> Result<PathBuf, PlaneError> {
    let value = std::env::var_os(name).unwrap_or_default();
    let path = value.to_str().and_then(Endpoint::path);
    path.ok_or_else(|| PlaneError::Content {
        what: format!("env:{name}"),
        problem: "is not set to `unix:///PATH`".to_owned(),
    })
}

async fn embedded(
    config: &Config,
    settings: &checked::Authority,
    audit: Option<&Audit>,
    (tasks, shared): (&mut Tasks, &mut Shared),
) -> Result<Begun, PlaneError> {
    let given = settings.issuing.as_ref();
    let given = given.map(|issuing| given_ca(issuing, config)).transpose()?;
    let domain = config.mesh.trust_domain.clone();
    let longest = Duration::from_secs(settings.svid_ttl_s.max(settings.node_ttl_s));
    let opened = open(settings, given.as_ref(), &domain, shared).await?;
    let authority = Arc::new(opened.with_longest_life(longest));
    if let Some(dir) = authority.state_dir() {
        let path = authority::socket(&dir);
        let failed = |source| PlaneError::Io {
            what: path.display().to_string(),
            source,
        };
        let taken = shared.taken.unix_listener(&path);
        let listener = control::listen(&path, taken).map_err(failed)?;
        shared.keep(listener.as_fd().try_clone_to_owned().map_err(failed)?);
        if let Some(lock) = authority.lock().map_err(failed)? {
            shared.keep(lock);
        }
        let serve = control::serve(listener, Arc::clone(&authority), system_clock());
        tasks.spawn("control socket of the authority", serve);
    }
    let rotating = rotate(Arc::clone(&authority));
    let tenure = shared.tenure.clone();
    tasks.spawn(
        "take-over of the authority",
        take_over(Arc::clone(&authority), tenure),
    );
    tasks.spawn("rotation of the root", rotating);
    certificate_service(config, settings, &authority, audit, (tasks, shared)).await?;
    let source = Source::Embedded {
        authority: Arc::clone(&authority),
        ttl: Duration::from_secs(settings.svid_ttl_s),
    };
    let told = Told::Embedded(authority.subscribe());
    Ok((source, Some(authority), told))
}

/// Takes the state when the process before goes, and follows it once another process has it.
async fn take_over(authority: Arc<Authority>, mut tenure: Tenure) {
    tenure.begins().await;
    // Another one may take over from this one meanwhile.
    while *authority.holds().borrow() == Hold::Waits {
        if let Err(error) = authority.take_over() {
            tracing::error!(
                error = chain(&error),
                "the authority's state cannot be taken over yet: it issues, and changes nothing"
            );
            tokio::time::sleep(LOCKED).await;
        }
    }
    hold::follow(authority).await;
}

/// Keeps a rotation of the root going for as long as this process holds the state.
async fn rotate(authority: Arc<Authority>) {
    let mut hold = authority.holds();
    hold::held(&mut hold).await;
    tokio::select! {
        () = control::keep_rotating(authority, system_clock()) => {}
        () = hold::gone(&mut hold) => std::future::pending().await,
    }
}

/// Opens the authority: that of the process before, or its own. A command of the operator may hold its state for a moment.
async fn open(
    settings: &checked::Authority,
    given: Option<&GivenCa>,
    domain: &TrustDomain,
    shared: &mut Shared,
) -> Result<Authority, PlaneError> {
    if let Some(dir) = &settings.state_dir
        && let Some(lock) = shared.taken.file(&authority::lock_file(dir))
    {
        let domain = domain.clone();
        return Authority::start_beside((dir, lock), given, domain, UnixTime::now())
            .map_err(PlaneError::Authority);
    }
    let until = tokio::time::Instant::now() + LOCKED;
    loop {
        let (dir, now) = (settings.state_dir.as_deref(), UnixTime::now());
        match Authority::start(dir, given, domain.clone(), now) {
            Err(AuthorityError::Locked(_)) if tokio::time::Instant::now() < until => {
                tokio::time::sleep(LOCKED_LOOK).await;
            }
            opened => return opened.map_err(PlaneError::Authority),
        }
    }
}

fn given_ca(issuing: &checked::IssuingCa, config: &Config) -> Result<GivenCa, PlaneError> {
    if let Secret::File(path) = &issuing.key {
        let mode = durable::mode(path).map_err(|source| PlaneError::Io {
            what: path.display().to_string(),
            source,
        })?;
        if mode & !KEY_MODE != 0 {
            let path = path.clone();
            return Err(PlaneError::Authority(AuthorityError::Exposed {
                path,
                mode,
            }));
        }
    }
    let key = issuing.key.read();
    let key = key.map_err(|error| withheld(&issuing.key, &error, config))?;
    let chain = read_named(&issuing.chain, config)?;
    let roots = roots(&issuing.root_ca, &read_named(&issuing.root_ca, config)?)?;
    Ok(GivenCa { chain, key, roots })
}

fn remote(
    config: &Config,
    settings: &checked::RemoteAuthority,
    tasks: &mut Tasks,
    shared: &mut Shared,
) -> Result<Begun, PlaneError> {
    let content = read_named(&settings.root_ca, config)?;
    let roots = roots(&settings.root_ca, &content)?;
    // Before anything waits for it: the authority is not to blame.
    // One that is not there may be on its way, and is waited for.
    if let Some(problem) = unread_token(settings).filter(|_| !is_on_its_way(settings)) {
        return Err(PlaneError::File(problem.placed(&config.files)));
    }
    let token = settings.token.clone();
    let token_source = Arc::new(move || match &token {
        Some(token) => token.read_text().map_or_else(
            |error| {
                let problem = FileProblem::of_secret(token, &error);
                Err(std::io::Error::other(problem.to_string()))
            },
            |text| Ok(text.to_string()),
        ),
        None => Err(std::io::Error::other("none is configured")),
    });
    let domain = &config.mesh.trust_domain;
    let made = RemoteAuthority::new(&settings.address, &roots, domain, token_source, ASKED_TTL);
    let mut made = made.map_err(PlaneError::Remote)?;
    if let Some(name) = &settings.cluster_id {
        made = made.with_cluster_id(name).map_err(PlaneError::Remote)?;
    }
    if let Some(node) = &settings.node {
        let failed = |e| PlaneError::Remote(RemoteError::Node(e));
        let open = |dir: &Path| NodeState::open_with(dir, |path| shared.taken.file(path));
        let state = settings.state_dir.as_deref().map(open);
        let state = state.transpose().map_err(failed)?;
        if let Some(state) = &state {
            let lock = state.lock().map_err(|source| PlaneError::Io {
                what: "lock of the node's state".to_owned(),
                source,
            })?;
            shared.keep(lock);
        }
        made = made.join_as(node.clone(), state).map_err(failed)?;
    }
    made.recall(&content).map_err(PlaneError::Remote)?;
    let remote = Arc::new(made);
    let told = Told::Remote(remote.subscribe_revocations());
    let root_file = settings.root_ca.clone();
    let following = follow(
        Arc::clone(&remote),
        root_file,
        content,
        system_clock(),
        system_jitter(),
    );
    tasks.spawn("follower of the authority", following);
    Ok((Source::Remote(remote), None, told))
}

/// Whether the join token is a file that is not there.
fn is_on_its_way(settings: &checked::RemoteAuthority) -> bool {
    let read = settings.token.as_ref().map(Secret::read_text);
    matches!(read, Some(Err(SecretError::File { source, .. })) if source.kind() == std::io::ErrorKind::NotFound)
}

/// Why the join token of a process that needs it cannot be read: one that has joined needs none.
fn unread_token(settings: &checked::RemoteAuthority) -> Option<FileProblem> {
    let token = settings.token.as_ref()?;
    let state = settings.state_dir.as_deref();
    let has_joined = settings.node.is_some() && state.is_some_and(NodeState::has_joined);
    let error = token.read_text().err().filter(|_| !has_joined)?;
    Some(FileProblem::of_secret(token, &error))
}

/// What is wrong with the files by which identities are had, as this process sees them.
#[must_use]
pub fn inspect(process: &Process) -> Vec<FileProblem> {
    let unopened = |path: &PathBuf| {
        let error = durable::read(path, FILE_BYTES).err()?;
        Some(FileProblem::unread(path, &error))
    };
    let kept = |secret: &Secret| {
        let error = secret.read().err()?;
        Some(FileProblem::of_secret(secret, &error))
    };
    let problems = match &process.identity {
        IdentitySource::Remote(remote) => vec![unopened(&remote.root_ca), unread_token(remote)],
        IdentitySource::Embedded(authority) => {
            let issuing = authority.issuing.as_ref();
            vec![
                issuing.and_then(|i| unopened(&i.chain)),
                issuing.and_then(|i| kept(&i.key)),
                issuing.and_then(|i| unopened(&i.root_ca)),
                authority.join_tokens.as_ref().and_then(kept),
            ]
        }
        IdentitySource::Files(_) | IdentitySource::WorkloadApi(_) => Vec::new(),
    };
    problems.into_iter().flatten().collect()
}

/// Serves `CreateCertificate`, if the configuration asks for it.
async fn certificate_service(
    config: &Config,
    settings: &checked::Authority,
    authority: &Arc<Authority>,
    audit: Option<&Audit>,
    (tasks, shared): (&mut Tasks, &mut Shared),
) -> Result<(), PlaneError> {
    let Some(address) = settings.listen else {
        return Ok(());
    };
    let tokens = match &settings.join_tokens {
        Some(secret) => join_token_file::read(secret).map_err(|error| {
            if let PlaneError::Secret(cause) = &error {
                withheld(secret, cause, config)
            } else {
                error
            }
        })?,
        None => JoinTokens::default(),
    };
    let tokens = watch::Sender::new(Arc::new(tokens));
    let failed = |source| PlaneError::Listen {
        address,
        what: "authority",
        source,
    };
    let listener = match shared.taken.listener(address) {
        Some(socket) => TcpListener::from_std(socket.into()).map_err(failed)?,
        None => TcpListener::bind(address).await.map_err(failed)?,
    };
    shared.keep(listener.as_fd().try_clone_to_owned().map_err(failed)?);
    let lives = (
        Duration::from_secs(settings.svid_ttl_s),
        Duration::from_secs(settings.node_ttl_s),
    );
    let service = CertificateService::of(Parts {
        authority: Arc::clone(authority),
        tokens: tokens.subscribe(),
        lives,
        clock: system_clock(),
        audit: audit.cloned(),
    });
    let secret = settings.join_tokens.clone();
    if let Some((secret, path)) = secret.and_then(|s| s.path().map(|path| (s, path))) {
        tasks.spawn("watch of the join tokens", async move {
            join_token_file::follow(secret, &path, tokens).await;
        });
    }
    tasks.spawn("certificate service", async move {
        let Err(error) = service.serve(listener, Vec::new()).await;
        tracing::error!(%error, "certificate service has ended");
    });
    Ok(())
}

/// A secret that cannot be read, at the place where it is named.
fn withheld(secret: &Secret, error: &SecretError, config: &Config) -> PlaneError {
    PlaneError::File(FileProblem::of_secret(secret, error).placed(&config.files))
}

fn read_named(path: &Path, config: &Config) -> Result<Vec<u8>, PlaneError> {
    durable::read(path, FILE_BYTES)
        .map_err(|error| PlaneError::File(FileProblem::unread(path, &error).placed(&config.files)))
}

fn roots(path: &Path, content: &[u8]) -> Result<Vec<CertificateDer<'static>>, PlaneError> {
    pem::certificates(content).map_err(|e| PlaneError::Content {
        what: path.display().to_string(),
        problem: e.to_string(),
    })
}
