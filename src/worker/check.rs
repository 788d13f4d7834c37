//! Active health checks: one core asks the endpoints that the gateways of this process dial, and all cores see in
//! `upstream/health.rs` what came of it.
//!
//! A check is a call of the gateway's own: it goes as the gateway, the way that its traffic takes, and is judged where it
//! arrives as any other call of it. What it may be is what the configuration says; nothing of a client is in it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::smallvec;
use tokio::sync::watch;

use crate::config::checked::{Gateway, GatewayClass, Process, Protocol, ServicePort};
use crate::control::snapshot::Snapshot;
use crate::exchange::close::CloseReason;
use crate::extauthz::Call;
use crate::io::call::{CallError, call, tell};
use crate::io::clock;
use crate::io::rt;
use crate::io::upstream::{DialError, Manner, Target};
use crate::policy::{Connection, Judged, OutboundTarget, Permit, decide_outbound};
use crate::role::checks::{self, Subject, Wanted};
use crate::role::endpoints::Place;
use crate::telemetry::record::Kind;
use crate::upstream::check::{HealthCheck, How, Told};
use crate::upstream::health::Health;
use crate::vocab::addr::UpstreamAddr;
use crate::vocab::limits;
use crate::vocab::text::chain;
use crate::worker::core::Core;
use crate::worker::exchange::{self, Beyond};
use crate::worker::forward::dial_reason;
use crate::worker::judge;
use crate::worker::origin::Origin;
use crate::worker::site::Story;

mod turns;

use self::turns::UnderWay;

/// How far first checks are spread, in milliseconds; over the interval where that is shorter.
const FIRST_MS: u64 = 1000;

/// What is checked.
struct Due {
    wanted: Wanted,
    health: Arc<Health>,
    rule: Arc<HealthCheck>,
    /// When the next check begins, or began to be due.
    next_ms: u64,
}

type Table = RefCell<BTreeMap<Subject, Due>>;

/// Has the first core of a process check.
pub(super) fn spawn(core: &Rc<Core>, index: usize, changed: &watch::Receiver<u64>) {
    if index == 0 {
        rt::spawn(run(Rc::clone(core), changed.clone()));
    }
}

/// Checks what there is to check, as every new snapshot says, until the process is about to end.
async fn run(core: Rc<Core>, mut changed: watch::Receiver<u64>) {
    let table = Rc::new(Table::default());
    let under_way = Rc::new(UnderWay::default());
    let mut seen: Option<Arc<Snapshot>> = None;
    while !core.is_draining() {
        let snapshot = Arc::clone(&core.snapshot());
        if !seen
            .as_ref()
            .is_some_and(|seen| Arc::ptr_eq(seen, &snapshot))
        {
            renew(&core, &snapshot, &mut table.borrow_mut());
            seen = Some(Arc::clone(&snapshot));
        }
        let next = begin(&core, &snapshot, (&table, &under_way));
        let wait = async {
            match next {
                Some(next) => rt::sleep(next.saturating_sub(clock::millis()).max(1)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            told = changed.changed() => if told.is_err() { return },
            () = wait => {}
            () = core.draining() => return,
        }
    }
}

/// Takes over what the latest snapshot says. What is not checked any more is as if it had never been.
fn renew(core: &Core, snapshot: &Snapshot, table: &mut BTreeMap<Subject, Due>) {
    let (mesh, endpoints) = (&snapshot.mesh, &snapshot.endpoints);
    let own = own(&core.process, snapshot);
    let mut wanted = checks::wanted(mesh, endpoints, &own);
    // What is written is bounded by the configuration; names of outside servers may have more addresses than expected.
    if wanted.len() > limits::CHECKED {
        let (all, most) = (wanted.len(), limits::CHECKED);
        tracing::warn!(all, most, "too many endpoints to check: the others are not");
        wanted.truncate(most);
    }
    let mut before = std::mem::take(table);
    let now_ms = clock::millis();
    for one in wanted {
        let service = mesh.services.get(one.at.service);
        let rule = service.and_then(|s| s.balance.check.as_ref());
        let endpoint = endpoints.of(one.at.service).get(one.at.endpoint);
        let health = endpoint.and_then(|e| e.health.get(one.at.port));
        let (Some(rule), Some(health)) = (rule, health) else {
            continue;
        };
        let known = before.remove(&one.subject);
        let known = known.filter(|due| Arc::ptr_eq(&due.health, health));
        let next_ms = match &known {
            // A shorter interval begins now.
            Some(due) => due.next_ms.min(now_ms.saturating_add(rule.interval_ms)),
            None => {
                let spread = rule.interval_ms.min(FIRST_MS);
                now_ms.saturating_add(by_chance(core, spread))
            }
        };
        if known.is_some_and(|due| due.rule.how != rule.how) {
            // What was found out was about something else.
            health.checked.forget();
        }
        let due = Due {
            health: Arc::clone(health),
            rule: Arc::clone(rule),
            next_ms,
            wanted: one,
        };
        table.insert(due.wanted.subject.clone(), due);
    }
    for due in before.into_values() {
        due.health.checked.forget();
    }
}

/// The gateways that this process is.
fn own(process: &Process, snapshot: &Snapshot) -> Vec<usize> {
    let waypoints = process.waypoints.iter().map(|w| &w.gateway);
    let egresses = process.egresses.iter().map(|e| &e.gateway);
    let ingresses = process.ingresses.iter().map(|i| &i.gateway);
    let names = waypoints.chain(egresses).chain(ingresses);
    let directory = &snapshot.enforcements.directory;
    names.filter_map(|name| directory.gateway(name)).collect()
}

/// Less than `most`.
fn by_chance(core: &Core, most: u64) -> u64 {
    core.chance(core.turn()).checked_rem(most).unwrap_or(0)
}

/// Begins the checks that are due, as many as there may be at a time. Returns when to look again.
fn begin(
    core: &Rc<Core>,
    snapshot: &Arc<Snapshot>,
    (table, under_way): (&Rc<Table>, &Rc<UnderWay>),
) -> Option<u64> {
    let now_ms = clock::millis();
    // A tenth sooner or later, so that processes which began together do not go on together.
    let later = |rule: &HealthCheck| {
        let (tenth, interval) = (rule.interval_ms / 10, rule.interval_ms);
        let jitter = by_chance(core, tenth.saturating_mul(2).saturating_add(1));
        now_ms
            .saturating_add(interval.saturating_sub(tenth))
            .saturating_add(jitter)
    };
    let mut all = table.borrow_mut();
    let due = |due: &Due| due.next_ms <= now_ms;
    for one in all.values_mut().filter(|one| due(one)) {
        // A turn that comes while the last check is under way is left out.
        if under_way.has(&one.wanted.subject) {
            one.next_ms = later(&one.rule);
        }
    }
    let waiting = all.iter().filter(|(_, one)| due(one));
    let chosen = under_way.next(waiting.map(|(s, one)| (one.next_ms, s)).collect());
    for subject in chosen {
        let Some(one) = all.get_mut(&subject) else {
            continue;
        };
        one.next_ms = later(&one.rule);
        let check = Check {
            core: Rc::clone(core),
            snapshot: Arc::clone(snapshot),
            wanted: one.wanted.clone(),
            rule: Arc::clone(&one.rule),
            health: Arc::clone(&one.health),
        };
        let (table, running) = (Rc::clone(table), under_way.begin(subject));
        rt::spawn(async move {
            let found = check.outcome().await;
            drop(running);
            check.tell(&table, found);
        });
    }
    // Who has no place waits for others to be over.
    let soon_ms = now_ms.saturating_add(limits::CHECK_INTERVAL_MS);
    let again = |one: &Due| if due(one) { soon_ms } else { one.next_ms };
    all.values().map(again).min()
}

/// One check.
struct Check {
    core: Rc<Core>,
    snapshot: Arc<Snapshot>,
    wanted: Wanted,
    rule: Arc<HealthCheck>,
    health: Arc<Health>,
}

/// How a check ended.
struct Found {
    judged: Option<Judged>,
    status: Option<u16>,
    /// Why the endpoint is not well.
    wrong: Option<(CloseReason, String)>,
}

impl Check {
    /// Asks once, within the time of the rule.
    async fn outcome(&self) -> Found {
        let verdict = decide_outbound(OutboundTarget::Known, false);
        let mut found = Found {
            judged: None,
            status: None,
            wrong: None,
        };
        let answered = match verdict.permit() {
            Ok(permit) => {
                found.judged = Some(permit.verdict().clone());
                let asked = Box::pin(self.ask(permit));
                match rt::timeout(self.rule.timeout_ms, asked).await {
                    Ok(answered) => answered,
                    Err(rt::Elapsed) => {
                        let why = format!("no answer within {} ms", self.rule.timeout_ms);
                        Err((CloseReason::UpstreamTimeout, why))
                    }
                }
            }
            Err(denied) => Err((CloseReason::Denied, denied.to_string())),
        };
        match answered {
            Ok((status, Ok(()))) => found.status = status,
            Ok((status, Err(why))) => {
                found.status = status;
                found.wrong = Some((CloseReason::Done, why));
            }
            Err(wrong) => found.wrong = Some(wrong),
        }
        found
    }

    async fn ask(
        &self,
        permit: Permit,
    ) -> Result<(Option<u16>, Result<(), String>), (CloseReason, String)> {
        let (target, manner, host) = self
            .target()
            .ok_or_else(|| (CloseReason::NoRoute, "there is no way to it".to_owned()))?;
        let (how, upstreams) = (&self.rule.how, &self.core.upstreams);
        let undialled = |error: &DialError| (dial_reason(error), chain(error));
        let Some(question) = how.question(&host, self.rule.timeout_ms) else {
            let dialled = upstreams.dial(permit, &target).await;
            return match dialled {
                Ok(_stream) => Ok((None, Ok(()))),
                Err(error) => Err(undialled(&error)),
            };
        };
        let question = Call {
            method: question.method,
            target: question.target,
            authority: question.authority,
            headers: question.headers,
            body: question.body,
        };
        let failed = |error: CallError| match &error {
            CallError::Dial(error) => undialled(error),
            CallError::Silent
            | CallError::Io(_)
            | CallError::Framing(_)
            | CallError::Head(_)
            | CallError::H1(_)
            | CallError::Interim
            | CallError::TooLong => (CloseReason::UpstreamReset, chain(&error)),
        };
        let (headers, body) = (http::HeaderMap::new(), bytes::Bytes::new());
        // Of an answer by HTTP the status is all that counts, so that its body may be of any length.
        if let How::Http(_) = how {
            let told = tell(upstreams, permit, &target, manner, &question).await;
            let status = told.map_err(failed)?.as_u16();
            let told = Told {
                status,
                headers: &headers,
                body: &body,
                trailers: None,
            };
            return Ok((Some(status), how.judge(&told)));
        }
        let answer = call(upstreams, permit, &target, manner.version, &question).await;
        let answer = answer.map_err(failed)?;
        let status = answer.status.as_u16();
        let told = Told {
            status,
            headers: &answer.headers,
            body: &answer.body,
            trailers: answer.trailers.as_ref(),
        };
        Ok((Some(status), how.judge(&told)))
    }

    fn gateway(&self) -> Option<&Gateway> {
        self.snapshot.mesh.gateways.get(self.wanted.gateway)
    }

    fn port(&self) -> Option<&ServicePort> {
        let service = self.snapshot.mesh.services.get(self.wanted.at.service)?;
        service.ports.get(self.wanted.at.port)
    }

    /// The way to the endpoint that traffic takes, and the host that it is asked for.
    fn target(&self) -> Option<(Target, Manner, String)> {
        let (snapshot, mesh) = (&*self.snapshot, &self.snapshot.mesh);
        let (service, gateway, port) = (self.wanted.at.service, self.gateway()?, self.port()?);
        let declared = mesh.services.get(service)?;
        let endpoint = snapshot
            .endpoints
            .of(service)
            .get(self.wanted.at.endpoint)?;
        let (_, address, _) = self.wanted.subject;
        // A wildcard is nobody's name.
        let named = declared.hosts.iter().find(|host| !host.starts_with('*'));
        let host = named.map_or_else(|| address.to_string(), Clone::clone);
        let manner = Manner {
            version: exchange::version(port.protocol),
            reuse: declared.balance.pool.reuse,
        };
        let target = match endpoint.place {
            Place::Workload(at) => {
                let workload = mesh.workloads.get(at)?;
                let baggage = snapshot.enforcements.metadata.gateway(self.wanted.gateway);
                let origin = Origin {
                    client: SocketAddr::new(gateway.hbone.ip(), 0),
                    baggage: baggage.cloned(),
                    trace: None,
                };
                let beyond = Beyond {
                    connect_ms: exchange::connect_ms(mesh, service),
                    address: SocketAddr::new(workload.address, workload.hbone_port),
                    expected: workload.id.clone(),
                    service: Some(service),
                    authority: SocketAddr::new(workload.address, port.target_port).to_string(),
                };
                exchange::hbone(snapshot, &gateway.id, origin, beyond)?
            }
            Place::Outside(ip) => {
                let address = UpstreamAddr(SocketAddr::new(ip, port.target_port));
                if judge::is_own(&self.core, snapshot, address.0) {
                    return None;
                }
                // Where traffic brings TLS of its own, connecting is all that there is to check.
                let http = matches!(
                    port.protocol,
                    Protocol::Http | Protocol::Http2 | Protocol::Grpc
                );
                let host = http.then_some(host.as_str());
                exchange::outside(snapshot, service, smallvec![address], manner.version, host)?
            }
        };
        Some((target, manner, host))
    }

    /// Tells what was found, unless it is not asked for any more.
    fn tell(&self, table: &Table, found: Found) {
        let mut table = table.borrow_mut();
        let Some(due) = table.get_mut(&self.wanted.subject) else {
            return;
        };
        if !Arc::ptr_eq(&due.health, &self.health) || due.rule.how != self.rule.how {
            return;
        }
        let well = found.wrong.is_none();
        self.snapshot.endpoints.checked(well);
        if due.health.checked.tell(well, &due.rule) {
            drop(table);
            self.record(found);
        }
    }

    /// What is held of the endpoint has changed.
    fn record(&self, found: Found) {
        let (Some(gateway), Some(port)) = (self.gateway(), self.port()) else {
            return;
        };
        let (name, address, _) = &self.wanted.subject;
        let endpoint = SocketAddr::new(*address, port.target_port);
        match &found.wrong {
            Some((_, why)) => {
                tracing::warn!(service = %name, %endpoint, why, "endpoint fails its health checks and is left out");
            }
            None => tracing::info!(service = %name, %endpoint, "endpoint passes its health checks"),
        }
        let role = match gateway.class {
            GatewayClass::Waypoint => "waypoint",
            GatewayClass::Ingress => "ingress",
            GatewayClass::Egress => "egress",
        };
        let (here, instance) = (gateway.hbone.ip(), gateway.name.to_string());
        let who = (role, instance.as_str());
        let peer = SocketAddr::new(here, 0);
        let mut story = Story::about(
            &self.core,
            who,
            peer,
            Kind::Outbound,
            self.snapshot.generation,
        )
        .with_connection(Connection {
            principal: Some(gateway.id.clone()),
            peer: here,
            remote: here,
            destination: *address,
            port: port.target_port,
            sni: None,
            time: clock::unix_s(),
        });
        let (close, detail) = found.wrong.unzip();
        story.edit(|r| {
            r.health_check = Some(detail.is_none());
            r.service = Some(name.to_string().into());
            r.workload = Some(self.place().into());
            r.judged = found.judged;
            r.status = found.status;
            r.detail = detail;
        });
        story.end(close.unwrap_or(CloseReason::Done));
    }

    /// The endpoint as records name it.
    fn place(&self) -> String {
        let (_, address, _) = &self.wanted.subject;
        let at = self.wanted.at;
        let endpoint = self.snapshot.endpoints.of(at.service).get(at.endpoint);
        let workload = endpoint.and_then(|e| match e.place {
            Place::Workload(at) => self.snapshot.mesh.workloads.get(at),
            Place::Outside(_) => None,
        });
        workload.map_or_else(|| address.to_string(), |w| w.name.to_string())
    }
}
