//! CUSTOM policies: every provider whose policy matches is asked, in the order of their names, and all must say yes
//! (policy semantics sections 1 and 2.9). A login at the ingress has been asked before (`worker/edge.rs`).

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use smallvec::smallvec;

use crate::control::snapshot::Snapshot;
use crate::exchange::close::CloseReason;
use crate::extauthz::{self, Authorizer, Call, Held, Kind, Said, Subject};
use crate::http::h1::Chunk;
use crate::http::reply::Reply;
use crate::io::body::{Source, TooLong};
use crate::io::call::{Answer, CallError, call};
use crate::io::clock;
use crate::io::rt::{self, ConnectOptions};
use crate::io::upstream::{Target, Version};
use crate::policy::{
    Connection, CustomMatch, Denied, OutboundTarget, Reason, Request, decide_outbound,
};
use crate::role::endpoints::Caller;
use crate::role::outbound::{self, Route, Wanted};
use crate::role::plan::{Plan, SitePoint};
use crate::telemetry::record;
use crate::vocab::limits;
use crate::vocab::spiffe::SpiffeId;
use crate::vocab::text::chain;
use crate::worker::attempt::Attempt;
use crate::worker::core::Core;
use crate::worker::exchange;
use crate::worker::judge;
use crate::worker::leave::Leaving;
use crate::worker::origin::Origin;
use crate::worker::respond::Responder;
use crate::worker::site::{Site, Story};

/// The proof that CUSTOM policies were asked. Only this module makes one, and judging takes it.
#[derive(Clone, Debug)]
pub struct Asked {
    names: Vec<String>,
    /// The request as the policies were matched with it, before anybody changed it; `None` where there was none to match.
    request: Option<Arc<Request>>,
}

impl Asked {
    /// Whether all that `plan` would ask now has been asked.
    #[must_use]
    pub fn covers(
        &self,
        plan: &Plan<'_>,
        connection: &Connection,
        request: Option<&Request>,
    ) -> bool {
        let request = self.request.as_deref().or(request);
        let matches = plan.custom(connection, request);
        matches
            .iter()
            .all(|m| self.names.iter().any(|name| name == m.provider))
    }
}

/// All have said yes.
#[derive(Debug)]
pub struct Passed {
    /// The proof.
    pub asked: Asked,
    /// Fields for the answer that the client gets.
    pub downstream: Vec<(HeaderName, HeaderValue)>,
}

/// One has not.
#[derive(Debug)]
pub struct Stopped {
    /// What the client gets.
    pub reply: Reply,
    /// Why it ends.
    pub close: CloseReason,
    /// In words, if it is no denial.
    pub detail: Option<String>,
    /// The denial.
    pub denied: Option<Denied>,
}

impl Stopped {
    fn denied(found: &CustomMatch<'_>, reason: Reason, reply: Reply) -> Box<Self> {
        Box::new(Self {
            reply,
            close: CloseReason::Denied,
            detail: None,
            denied: Some(found.denied(reason)),
        })
    }

    /// A body is too long for its authorizer.
    fn too_long() -> Box<Self> {
        let detail = "body is longer than its authorizer's maxRequestBytes";
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        Self::body(status, "payload too large", CloseReason::Limit, detail)
    }

    fn body(status: StatusCode, text: &'static str, close: CloseReason, detail: &str) -> Box<Self> {
        Box::new(Self {
            reply: Reply::text(status, text),
            close,
            detail: Some(detail.to_owned()),
            denied: None,
        })
    }
}

/// A request's client and body, as far as they are needed here.
#[derive(Debug)]
pub struct Upload<'a, 'b, 'r> {
    /// Body; what is read of it is put back.
    pub body: &'a mut Source<'b>,
    /// Whoever waits for the answer.
    pub responder: &'a mut Responder<'r>,
    /// Announced length.
    pub length: Option<u64>,
}

/// Where and for whom is asked.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The core.
    pub core: &'a Core,
    /// The enforcement point.
    pub site: &'a Site,
    /// What holds.
    pub snapshot: &'a Snapshot,
    /// The policies, and whom we are.
    pub plan: &'a Plan<'a>,
}

/// Why a provider has not said yes or no.
enum Trouble {
    /// It did not work out; `failOpen` decides.
    Failed(String),
    /// It cannot work out as it is configured.
    Never(String),
}

/// What was asked before the route was known: the login providers of an ingress.
#[derive(Clone, Debug, Default)]
pub struct Before {
    /// Who was asked.
    pub names: Vec<String>,
    /// The request as it arrived, if a policy matched it.
    pub request: Option<Arc<Request>>,
}

/// What passes where no policy has a provider; else what was asked before.
///
/// # Errors
/// Providers have to be asked.
pub fn nobody(plan: &Plan<'_>, before: Before) -> Result<Passed, Before> {
    if plan.enforcements.iter().any(|e| e.set.asks_providers()) {
        return Err(before);
    }
    let Before { names, request } = before;
    Ok(Passed {
        asked: Asked { names, request },
        downstream: Vec::new(),
    })
}

/// What the providers of the policies that match say about a request.
///
/// # Errors
/// What the client gets instead.
pub async fn request(
    asker: Asker<'_>,
    request: &mut Request,
    before: Before,
    mut upload: Upload<'_, '_, '_>,
    story: &mut Story,
) -> Result<Passed, Box<Stopped>> {
    let arrived = before.request.as_deref().unwrap_or(request);
    let mut matches = asker.plan.custom(&asker.site.connection, Some(arrived));
    let mut asked = Asked {
        names: before.names,
        request: before.request,
    };
    let mut downstream = Vec::new();
    if matches.is_empty() {
        return Ok(Passed { asked, downstream });
    }
    // What one of them changes makes no difference to which are asked.
    asked
        .request
        .get_or_insert_with(|| Arc::new(request.clone()));
    matches.retain(|m| !asked.names.iter().any(|name| name == m.provider));
    let held = match hold(asker, &matches, request, &mut upload).await {
        Ok(held) => held,
        Err(stopped) => asker.unheld(stopped, story).map(|()| None)?,
    };
    let now = clock::unix();
    for found in &matches {
        let begun = clock::now();
        let outcome = match asker.authorizer(found.provider) {
            Ok(authorizer) => {
                let shown = show(authorizer, held.as_ref());
                let subject = Subject {
                    connection: &asker.site.connection,
                    peer: asker.site.peer,
                    own: asker.own(),
                    request: Some(request),
                    scheme: asker.site.scheme,
                    protocol: upload.responder.protocol(),
                    length: upload.length,
                    body: shown.as_ref(),
                    now,
                };
                tokio::select! {
                    biased;
                    said = ask(asker, authorizer, &subject) => settle(authorizer, said),
                    () = gone(&mut upload) => return Err(left()),
                }
            }
            Err(trouble) => Outcome::trouble(trouble, StatusCode::FORBIDDEN),
        };
        note(story, found.provider, &outcome, begun);
        let outcome = asker.enforced(found.provider, outcome, story);
        match outcome {
            Outcome::Yes(allowed) => {
                allowed.upstream.apply(&mut request.headers);
                downstream.extend(allowed.downstream);
            }
            Outcome::FailedOpen(_) => {}
            Outcome::No(reply) => {
                return Err(Stopped::denied(
                    found,
                    Reason::CustomDenied(found.provider.into()),
                    reply,
                ));
            }
            Outcome::Error(detail, status) => {
                return Err(Stopped::denied(found, error(found, &detail), empty(status)));
            }
        }
        asked.names.push(found.provider.to_owned());
    }
    Ok(Passed { asked, downstream })
}

/// What the providers of the policies that match say about a bare connection.
///
/// # Errors
/// The denial.
pub async fn connection(asker: Asker<'_>, story: &mut Story) -> Result<Asked, Box<Denied>> {
    let mut asked = Asked {
        names: Vec::new(),
        request: None,
    };
    let now = clock::unix();
    for found in asker.plan.custom(&asker.site.connection, None) {
        let begun = clock::now();
        let subject = Subject {
            connection: &asker.site.connection,
            peer: asker.site.peer,
            own: asker.own(),
            request: None,
            scheme: asker.site.scheme,
            protocol: "",
            length: None,
            body: None,
            now,
        };
        let outcome = match asker.authorizer(found.provider) {
            Ok(authorizer) => settle(authorizer, ask(asker, authorizer, &subject).await),
            Err(trouble) => Outcome::trouble(trouble, StatusCode::FORBIDDEN),
        };
        note(story, found.provider, &outcome, begun);
        let outcome = asker.enforced(found.provider, outcome, story);
        match outcome {
            // There is no header to change.
            Outcome::Yes(_) | Outcome::FailedOpen(_) => asked.names.push(found.provider.to_owned()),
            Outcome::No(_) => {
                return Err(Box::new(
                    found.denied(Reason::CustomDenied(found.provider.into())),
                ));
            }
            Outcome::Error(detail, _) => {
                return Err(Box::new(found.denied(error(&found, &detail))));
            }
        }
    }
    Ok(asked)
}

fn error(found: &CustomMatch<'_>, detail: &str) -> Reason {
    Reason::CustomError(format!("`{}`: {detail}", found.provider).into())
}

fn empty(status: StatusCode) -> Reply {
    Reply {
        status,
        is_text: false,
        headers: http::HeaderMap::new(),
        body: Bytes::new(),
    }
}

fn left() -> Box<Stopped> {
    let detail = "left while a provider was asked";
    Stopped::body(
        StatusCode::BAD_REQUEST,
        "",
        CloseReason::DownstreamReset,
        detail,
    )
}

/// Ends when the client has gone.
async fn gone(upload: &mut Upload<'_, '_, '_>) {
    let Upload {
        body, responder, ..
    } = upload;
    std::future::poll_fn(|cx| {
        if body.poll_gone(cx).is_ready() {
            return std::task::Poll::Ready(());
        }
        responder.poll_gone(cx).map(drop)
    })
    .await;
}

impl<'a> Asker<'a> {
    /// Whom we are towards authorizers.
    fn own(self) -> Option<&'a SpiffeId> {
        let workload = || self.snapshot.mesh.workloads.get(self.plan.workload?);
        self.plan.own.or_else(|| workload().map(|w| &w.id))
    }

    /// The outcome, or in a mesh in dry run that nothing came of it.
    fn enforced(self, provider: &str, outcome: Outcome, story: &mut Story) -> Outcome {
        let would = match &outcome {
            Outcome::Yes(_) | Outcome::FailedOpen(_) => return outcome,
            Outcome::No(_) => format!("provider `{provider}` denies"),
            Outcome::Error(detail, _) => format!("provider `{provider}`: {detail}"),
        };
        if !self.snapshot.mesh.dry_run {
            return outcome;
        }
        story.edit(|r| r.would = Some(would.clone()));
        Outcome::FailedOpen(would)
    }

    /// A body that is too long for its authorizer: in a mesh in dry run nothing comes of it, and the question is without.
    fn unheld(self, stopped: Box<Stopped>, story: &mut Story) -> Result<(), Box<Stopped>> {
        // What is too long for the process itself is not there any more.
        let too_long = stopped.reply.status == StatusCode::PAYLOAD_TOO_LARGE
            && stopped.close != CloseReason::BodyTooLarge;
        if !self.snapshot.mesh.dry_run || !too_long {
            return Err(stopped);
        }
        story.edit(|r| r.would.clone_from(&stopped.detail));
        Ok(())
    }

    fn authorizer(self, name: &str) -> Result<&'a Authorizer, Trouble> {
        let found = self
            .snapshot
            .mesh
            .authorizers
            .iter()
            .find(|a| a.name == name);
        // A login provider that is named elsewhere than at an ingress, or one that this process does not know.
        found.ok_or_else(|| Trouble::Never("cannot be asked here".to_owned()))
    }

    /// The way to an authorizer, as any other call of ours.
    fn target(
        self,
        authorizer: &Authorizer,
        version: Version,
        attempt: &Attempt,
    ) -> Result<Target, Trouble> {
        let mesh = &self.snapshot.mesh;
        let pick = attempt.pick(self.snapshot);
        let from = self.caller();
        let failed = |what: &str| Trouble::Failed(what.to_owned());
        let wanted = Wanted::Name(authorizer.host.clone());
        let route = outbound::route(
            mesh,
            &self.snapshot.enforcements.directory,
            &from,
            (&wanted, authorizer.port),
            pick,
        );
        if let Route::Outside {
            service,
            port,
            address,
        } = route
        {
            let asked = (service, port, address);
            let address = judge::endpoint(self.core, self.snapshot, asked, &from, &pick)
                .map_err(|why| Trouble::Failed(why.close().1.unwrap_or_default()))?;
            let addresses = smallvec![address];
            let host = Some(authorizer.host.as_str());
            return exchange::outside(self.snapshot, service, addresses, version, host)
                .ok_or_else(|| failed("there is no way to it"));
        }
        let own = self
            .own()
            .ok_or_else(|| failed("there is no identity to ask it with"))?;
        let mark = match self.site.point {
            SitePoint::Workload { mark, .. } => mark,
            SitePoint::Waypoint { .. } | SitePoint::Egress { .. } | SitePoint::Ingress { .. } => {
                None
            }
        };
        let leaving = Leaving {
            core: self.core,
            snapshot: self.snapshot,
            own,
            origin: Origin::at(self.site, self.snapshot, None),
            from,
            options: ConnectOptions {
                mark,
                within_ms: None,
            },
        };
        leaving
            .target(route, &pick)
            .map_err(|_why| failed("there is no way to it"))
    }

    /// Puts a question, at another endpoint where one cannot be connected to.
    async fn put(
        self,
        authorizer: &Authorizer,
        version: Version,
        question: &Call,
    ) -> Result<Answer, Trouble> {
        let mut attempt = Attempt::new(self.core);
        let mut failed = None;
        loop {
            let target = match (self.target(authorizer, version, &attempt), failed) {
                (Ok(target), _) => target,
                // Every endpoint was tried: what was wrong with the last one is the answer.
                (Err(_none), Some(last)) => return Err(last),
                (Err(none), None) => return Err(none),
            };
            // The right to call a service of the registry, as for any connection that leaves a workload.
            let permit = decide_outbound(OutboundTarget::Known, false)
                .permit()
                .map_err(|denied| Trouble::Never(denied.to_string()))?;
            match call(&self.core.upstreams, permit, &target, version, question).await {
                Ok(answer) => {
                    attempt.succeeded(self.snapshot);
                    return Ok(answer);
                }
                Err(CallError::Dial(error)) if attempt.failed(self.snapshot, &error) => {
                    failed = Some(Trouble::Failed(chain(&error)));
                }
                Err(error) => return Err(Trouble::Failed(chain(&error))),
            }
        }
    }

    /// Whose way to the authorizer it is.
    fn caller(&self) -> Caller<'_> {
        let mesh = &self.snapshot.mesh;
        let gateway = self
            .plan
            .own
            .and_then(|id| mesh.gateways.iter().find(|g| g.id == *id));
        let workload = self.plan.workload.and_then(|at| mesh.workloads.get(at));
        match (gateway, workload) {
            (Some(gateway), _) => Caller::gateway(gateway),
            (None, Some(workload)) => Caller::workload(workload),
            (None, None) => Caller::default(),
        }
    }
}

/// Asks one authorizer within its time.
async fn ask(
    asker: Asker<'_>,
    authorizer: &Authorizer,
    subject: &Subject<'_>,
) -> Result<Said, Trouble> {
    let mesh = &asker.snapshot.mesh;
    let never = asker
        .plan
        .unaskable(mesh, authorizer, subject.connection, subject.request);
    if let Some(why) = never {
        return Err(Trouble::Never(why.to_owned()));
    }
    let (question, version) = question(asker.snapshot, authorizer, subject)?;
    let work = async {
        // Nobody closes it.
        let _room = asker.core.questions.acquire().await;
        asker.put(authorizer, version, &question).await
    };
    let answer = match rt::timeout(authorizer.timeout_ms, Box::pin(work)).await {
        Ok(answered) => answered?,
        Err(rt::Elapsed) => {
            return Err(Trouble::Failed(format!(
                "no answer within {} ms",
                authorizer.timeout_ms
            )));
        }
    };
    Ok(match &authorizer.kind {
        Kind::Http(settings) => {
            extauthz::http_answer(settings, answer.status, &answer.headers, answer.body)
        }
        Kind::Grpc => extauthz::grpc_answer(
            answer.status,
            &answer.headers,
            &answer.body,
            answer.trailers.as_ref(),
        ),
    })
}

fn question(
    snapshot: &Snapshot,
    authorizer: &Authorizer,
    subject: &Subject<'_>,
) -> Result<(Call, Version), Trouble> {
    match &authorizer.kind {
        Kind::Grpc => {
            let authority = format!("{}:{}", authorizer.host, authorizer.port);
            let (timeout, body) = (authorizer.timeout_ms, authorizer.body);
            Ok((
                extauthz::grpc_call(authority, timeout, body, subject),
                Version::H2,
            ))
        }
        Kind::Http(settings) => {
            let service = snapshot.mesh.services.get(authorizer.service);
            let port = service.and_then(|s| s.ports.iter().find(|p| p.number == authorizer.port));
            let version = port.map_or(Version::H1, |p| exchange::version(p.protocol));
            extauthz::http_call(settings, subject)
                .map(|call| (call, version))
                .ok_or_else(|| Trouble::Never("there is no request to ask about".to_owned()))
        }
    }
}

/// What one provider's part in the decision is.
enum Outcome {
    Yes(Box<extauthz::Allowed>),
    FailedOpen(String),
    No(Reply),
    Error(String, StatusCode),
}

impl Outcome {
    fn trouble(trouble: Trouble, status: StatusCode) -> Self {
        let (Trouble::Failed(detail) | Trouble::Never(detail)) = trouble;
        Self::Error(detail, status)
    }
}

fn settle(authorizer: &Authorizer, said: Result<Said, Trouble>) -> Outcome {
    let trouble = match said {
        Ok(Said::Allow(allowed)) => return Outcome::Yes(allowed),
        Ok(Said::Deny(refused)) => {
            let extauthz::Refused {
                status,
                headers,
                body,
            } = *refused;
            return Outcome::No(Reply {
                status,
                is_text: false,
                headers,
                body,
            });
        }
        Ok(Said::Error(detail)) => Trouble::Failed(detail),
        Err(trouble) => trouble,
    };
    match trouble {
        Trouble::Failed(detail) if authorizer.fail_open => Outcome::FailedOpen(detail),
        trouble @ (Trouble::Failed(_) | Trouble::Never(_)) => {
            Outcome::trouble(trouble, authorizer.status_on_error)
        }
    }
}

fn note(story: &mut Story, provider: &str, outcome: &Outcome, begun: Instant) {
    let (result, detail) = match outcome {
        Outcome::Yes(_) => ("allow", None),
        Outcome::FailedOpen(detail) => ("failed_open", Some(detail.clone())),
        Outcome::No(_) => ("deny", None),
        Outcome::Error(detail, _) => ("error", Some(detail.clone())),
    };
    story.edit(|r| {
        r.asked.push(record::Asked {
            provider: provider.to_owned(),
            result,
            detail,
            duration: begun.elapsed(),
        });
    });
}

/// What is held of a body.
struct Holding {
    bytes: Bytes,
    /// There is nothing behind it.
    whole: bool,
    _room: Room,
}

/// Room that a held body takes, until it is gone.
struct Room(Rc<Cell<usize>>, usize);

impl Room {
    fn take(held: &Rc<Cell<usize>>, bytes: usize) -> Option<Self> {
        let sum = held.get().saturating_add(bytes);
        (sum <= limits::HELD_BODIES_BYTES).then(|| {
            held.set(sum);
            Self(Rc::clone(held), bytes)
        })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(self.1));
    }
}

/// What an authorizer is shown of what is held.
fn show(authorizer: &Authorizer, held: Option<&Holding>) -> Option<Held> {
    let (body, held) = authorizer.body.zip(held)?;
    let end = held.bytes.len().min(body.max_bytes);
    Some(Held {
        bytes: held.bytes.slice(..end),
        partial: !held.whole || held.bytes.len() > end,
    })
}

/// Holds as much of the body as the providers that match want to see.
async fn hold(
    asker: Asker<'_>,
    matches: &[CustomMatch<'_>],
    request: &Request,
    upload: &mut Upload<'_, '_, '_>,
) -> Result<Option<Holding>, Box<Stopped>> {
    let wanted = matches
        .iter()
        .filter_map(|m| asker.authorizer(m.provider).ok()?.body);
    let (mut most, mut strict) = (0_usize, usize::MAX);
    for body in wanted {
        most = most.max(body.max_bytes);
        if !body.allow_partial {
            strict = strict.min(body.max_bytes);
        }
    }
    // What follows a CONNECT is no body.
    if most == 0 || request.method == Method::CONNECT {
        return Ok(None);
    }
    if upload
        .length
        .is_some_and(|n| usize::try_from(n).map_or(true, |n| n > strict))
    {
        return Err(Stopped::too_long());
    }
    let Some(room) = Room::take(&asker.core.held, most.saturating_mul(2)) else {
        let detail = "too many bodies are held for authorizers";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        return Err(Stopped::body(
            status,
            "overloaded",
            CloseReason::Limit,
            detail,
        ));
    };
    if !upload.body.is_empty() && upload.responder.invite_body().await.is_err() {
        return Err(left());
    }
    // One byte more than is allowed tells that it is too long.
    let enough = if strict <= most {
        strict.saturating_add(1)
    } else {
        most
    };
    match rt::timeout(limits::HELD_BODY_MS, read(upload, enough)).await {
        Ok(Ok((bytes, _))) if bytes.len() > strict => Err(Stopped::too_long()),
        Ok(Ok((bytes, whole))) => Ok(Some(Holding {
            bytes,
            whole,
            _room: room,
        })),
        Ok(Err(broke)) if broke.get_ref().is_some_and(|e| e.is::<TooLong>()) => {
            let (status, close) = (StatusCode::PAYLOAD_TOO_LARGE, CloseReason::BodyTooLarge);
            let detail = broke.to_string();
            Err(Stopped::body(status, close.label(), close, &detail))
        }
        Ok(Err(_broke)) => Err(left()),
        Err(rt::Elapsed) => {
            let (status, close) = (StatusCode::REQUEST_TIMEOUT, CloseReason::Timeout);
            Err(Stopped::body(
                status,
                "request timeout",
                close,
                "body that is held is too slow",
            ))
        }
    }
}

/// Reads the body up to its end or to so many bytes, and puts all of it back; whether that was the end. In one piece: as it
/// came it may be in as many as it has bytes.
async fn read(upload: &mut Upload<'_, '_, '_>, enough: usize) -> std::io::Result<(Bytes, bool)> {
    let (mut bytes, mut pieces) = (BytesMut::new(), VecDeque::new());
    let mut whole = upload.body.is_empty();
    let Upload {
        body, responder, ..
    } = upload;
    while !whole && bytes.len() < enough {
        let next = std::future::poll_fn(|cx| {
            if let std::task::Poll::Ready(error) = responder.poll_gone(cx) {
                return std::task::Poll::Ready(Err(error));
            }
            body.poll_next(cx)
        });
        match next.await? {
            Some(Chunk::Data(data)) => {
                bytes.extend_from_slice(&data);
                whole = body.is_empty();
            }
            Some(trailers @ Chunk::Trailers(_)) => {
                pieces.push_back(trailers);
                whole = true;
            }
            None => whole = true,
        }
    }
    let bytes = bytes.freeze();
    if !bytes.is_empty() {
        pieces.push_front(Chunk::Data(bytes.clone()));
    }
    let rest = std::mem::replace(*body, Source::Empty);
    **body = rest.with(pieces);
    Ok((bytes, whole))
}
