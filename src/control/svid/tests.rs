//! Rotation under a paused clock.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};

use tokio::time::{Instant, sleep};

use super::*;
use crate::identity::revocation::Target;
use crate::vocab::spiffe::TrustDomain;

const START: u64 = 1_764_000_000;
const TTL: u64 = 1000;

/// The embedded authority behind a switch.
struct Switched {
    authority: Authority,
    down: Arc<AtomicBool>,
    /// It has one SVID and gives that, as files do.
    only: Arc<AtomicBool>,
    given: watch::Sender<Option<Svid>>,
    attempts: Arc<AtomicUsize>,
    renewals: watch::Receiver<u64>,
}

impl SvidSource for Switched {
    fn renewals(&self) -> Option<watch::Receiver<u64>> {
        Some(self.renewals.clone())
    }

    async fn issue(&self, wanted: &WantedSvid, now: UnixTime) -> Result<Issued, SourceError> {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        if self.attempts.load(Ordering::Relaxed) > 1000 {
            // The clock of these tests stands while a task runs.
            return std::future::pending().await;
        }
        if self.down.load(Ordering::Relaxed) {
            return Err(SourceError::Embedded(IssueError::Random));
        }
        let given = self.given.borrow().clone();
        let svid = match given.filter(|_| self.only.load(Ordering::Relaxed)) {
            Some(given) => given,
            None => self
                .authority
                .issue(&wanted.id, &wanted.dns_names, Duration::from_secs(TTL), now)
                .map_err(SourceError::Embedded)?,
        };
        self.given.send_replace(Some(svid.clone()));
        Ok(Issued {
            svid,
            bundles: self.authority.bundles(),
        })
    }

    fn bundles(&self) -> Arc<TrustBundles> {
        self.authority.bundles()
    }
}

struct Bench {
    set: watch::Receiver<Arc<SvidSet>>,
    wanted: watch::Sender<Vec<WantedSvid>>,
    down: Arc<AtomicBool>,
    only: Arc<AtomicBool>,
    attempts: Arc<AtomicUsize>,
    /// Tells that the source may have something new.
    renewals: watch::Sender<u64>,
    revoked: watch::Sender<Arc<Revocations>>,
    /// Seconds by which the clock was set.
    jump: Arc<AtomicI64>,
    clock: Clock,
    _task: JoinSet<()>,
}

impl Bench {
    fn start(wanted: Vec<WantedSvid>, down: bool) -> Self {
        let (began, jump) = (Instant::now(), Arc::new(AtomicI64::new(0)));
        let jumped = Arc::clone(&jump);
        let clock: Clock = Arc::new(move || {
            let now = START + began.elapsed().as_secs();
            secs(now.saturating_add_signed(jumped.load(Ordering::Relaxed)))
        });
        let authority =
            Authority::in_memory(TrustDomain::parse("cluster.local").unwrap(), clock()).unwrap();
        let (down, attempts) = (
            Arc::new(AtomicBool::new(down)),
            Arc::new(AtomicUsize::new(0)),
        );
        let only = Arc::new(AtomicBool::new(false));
        let renewals = watch::Sender::new(0);
        let source = Switched {
            authority,
            down: Arc::clone(&down),
            only: Arc::clone(&only),
            given: watch::Sender::new(None),
            attempts: Arc::clone(&attempts),
            renewals: renewals.subscribe(),
        };
        let manager = SvidManager::with_clock(source, wanted, Arc::clone(&clock), Arc::new(|| 0.5));
        let (set, wanted) = (manager.subscribe(), manager.wanted());
        let revoked = manager.revoked();
        let mut task = JoinSet::new();
        task.spawn(manager.run());
        Self {
            set,
            wanted,
            down,
            only,
            attempts,
            renewals,
            revoked,
            jump,
            clock,
            _task: task,
        }
    }

    fn end_of(&self, id: &SpiffeId) -> Option<u64> {
        self.set
            .borrow()
            .by_id
            .get(id)
            .map(|svid| svid.not_after.as_secs())
    }

    fn elapsed(&self) -> u64 {
        (self.clock)().as_secs() - START
    }

    async fn until(&self, second: u64) {
        sleep(Duration::from_secs(second - self.elapsed())).await;
        // The tasks that are due at the same instant run before the next millisecond.
        sleep(Duration::from_millis(1)).await;
    }
}

fn want(name: &str, dns_names: &[&str]) -> WantedSvid {
    WantedSvid {
        id: SpiffeId::parse(&format!("spiffe://cluster.local/ns/default/sa/{name}")).unwrap(),
        dns_names: dns_names.iter().map(|&n| n.to_owned()).collect(),
    }
}

#[tokio::test(start_paused = true)]
async fn rotates_at_half_life() {
    let wanted = vec![want("a", &["a.test"]), want("b", &[])];
    let mut bench = Bench::start(wanted.clone(), false);
    assert!(!bench.set.borrow().covers(&wanted));
    assert!(bench.set.borrow().bundles.bundle("cluster.local").is_some());
    bench.set.wait_for(|set| set.covers(&wanted)).await.unwrap();
    let first = Arc::clone(&bench.set.borrow().by_id[&wanted[0].id]);
    assert_eq!(bench.end_of(&wanted[0].id), Some(START + TTL));
    bench.until(499).await;
    assert_eq!(bench.attempts.load(Ordering::Relaxed), 2);
    assert!(Arc::ptr_eq(
        &first,
        &bench.set.borrow().by_id[&wanted[0].id]
    ));
    bench.until(500).await;
    for entry in &wanted {
        assert_eq!(bench.end_of(&entry.id), Some(START + 500 + TTL));
    }
    assert_eq!(bench.set.borrow().generation, 4);
    bench.until(5000).await;
    assert_eq!(bench.attempts.load(Ordering::Relaxed), 22);
}

#[tokio::test(start_paused = true)]
async fn keeps_the_old_one_until_it_expires() {
    let a = want("a", &[]);
    let mut bench = Bench::start(vec![a.clone()], false);
    bench
        .set
        .wait_for(|set| set.covers(std::slice::from_ref(&a)))
        .await
        .unwrap();
    bench.down.store(true, Ordering::Relaxed);
    bench.until(504).await;
    // At 500, 500.5, 501.5 and 503.5 s.
    assert_eq!(bench.attempts.load(Ordering::Relaxed), 5);
    bench.until(1000).await;
    assert_eq!(
        bench.end_of(&a.id),
        Some(START + TTL),
        "still valid in its last second"
    );
    bench.until(1002).await;
    assert_eq!(bench.end_of(&a.id), None, "expired: withdrawn");
    let tried = bench.attempts.load(Ordering::Relaxed);
    assert!((12..20).contains(&tried), "{tried}");
    bench.down.store(false, Ordering::Relaxed);
    bench.until(1200).await;
    assert!(
        bench
            .end_of(&a.id)
            .is_some_and(|end| end > START + 1002 + TTL)
    );
}

#[tokio::test(start_paused = true)]
async fn starts_when_the_source_is_back() {
    let a = want("a", &[]);
    let bench = Bench::start(vec![a.clone()], true);
    bench.until(100).await;
    assert_eq!(
        (bench.end_of(&a.id), bench.set.borrow().generation),
        (None, 0)
    );
    bench.down.store(false, Ordering::Relaxed);
    bench.until(300).await;
    assert!(bench.end_of(&a.id).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_source_that_tells_something_new_is_asked_once_for_it() {
    let bench = Bench::start(vec![want("a", &[])], true);
    sleep(Duration::from_millis(100)).await;
    let attempts = || bench.attempts.load(Ordering::Relaxed);
    assert_eq!(attempts(), 1);
    bench.renewals.send_replace(1);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(attempts(), 2);
    // And then as after any other failure: after one second, two, four.
    bench.until(10).await;
    assert!((4..=6).contains(&attempts()), "{}", attempts());
}

#[tokio::test(start_paused = true)]
async fn follows_what_is_wanted() {
    let (a, b, c) = (want("a", &[]), want("b", &[]), want("c", &[]));
    let mut bench = Bench::start(vec![a.clone(), b.clone()], false);
    bench
        .set
        .wait_for(|set| set.covers(&[a.clone(), b.clone()]))
        .await
        .unwrap();
    bench.until(10).await;
    let renamed = want("a", &["a.test"]);
    bench.wanted.send(vec![renamed.clone(), c.clone()]).unwrap();
    bench.until(11).await;
    assert_eq!(bench.end_of(&b.id), None);
    assert!(bench.end_of(&c.id).is_some());
    assert_eq!(
        bench.end_of(&a.id),
        Some(START + 10 + TTL),
        "issued again for its new name"
    );
    bench.until(700).await;
    assert_eq!(bench.attempts.load(Ordering::Relaxed), 2 + 2 + 2);
}

/// After a jump over the end of the SVID another one is there within `SLEEP_MAX`, however long the timers had to go.
#[tokio::test(start_paused = true)]
async fn clock_that_jumps_ahead() {
    let a = want("a", &[]);
    let bench = Bench::start(vec![a.clone()], false);
    bench.until(10).await;
    assert_eq!(bench.end_of(&a.id), Some(START + TTL));
    bench.jump.store(5000, Ordering::Relaxed);
    sleep(SLEEP_MAX + Duration::from_secs(1)).await;
    let end = bench.end_of(&a.id).unwrap();
    assert!(end >= START + 5000 + TTL, "{end}");
    assert_eq!(bench.attempts.load(Ordering::Relaxed), 2);
}

/// A clock that is set back puts the SVID into the future, where no peer with that clock takes it: it is replaced, and
/// what was issued is not kept for longer than it lives by the new clock.
#[tokio::test(start_paused = true)]
async fn clock_that_is_set_back() {
    let a = want("a", &[]);
    let bench = Bench::start(vec![a.clone()], false);
    bench.until(400).await;
    bench.jump.store(-430, Ordering::Relaxed);
    sleep(SLEEP_MAX + Duration::from_secs(1)).await;
    assert_eq!(
        bench.attempts.load(Ordering::Relaxed),
        1,
        "the minute that certificates begin early covers this"
    );
    bench.jump.store(-500, Ordering::Relaxed);
    sleep(SLEEP_MAX + Duration::from_secs(1)).await;
    // The authority's own certificates begin later than that: it says so, and the SVID stays until it is right again.
    assert!(bench.attempts.load(Ordering::Relaxed) > 1);
    assert_eq!(bench.end_of(&a.id), Some(START + TTL));
    bench.jump.store(0, Ordering::Relaxed);
    sleep(Duration::from_secs(200)).await;
    assert!(bench.end_of(&a.id).unwrap() > START + TTL);
}

#[tokio::test(start_paused = true)]
async fn revoked_serial_is_replaced_at_once() {
    let a = want("a", &[]);
    let mut bench = Bench::start(vec![a.clone()], false);
    bench
        .set
        .wait_for(|set| set.covers(std::slice::from_ref(&a)))
        .await
        .unwrap();
    let serial_of = |bench: &Bench| {
        let svid = Arc::clone(&bench.set.borrow().by_id[&a.id]);
        leaf::peer(&svid.chain[0]).unwrap().serial
    };
    let first = serial_of(&bench);
    let mut all = Revocations::default();
    all.add(Target::Serial(first.clone()), "leaked").unwrap();
    // An identity is not given a new certificate because it is revoked.
    all.add(Target::Id(want("other", &[]).id), "gone").unwrap();
    bench.revoked.send_replace(Arc::new(all));
    sleep(Duration::from_secs(2)).await;
    assert_ne!(serial_of(&bench), first);
    assert_eq!(bench.attempts.load(Ordering::Relaxed), 2);
}

/// A source with no other certificate than a revoked one is asked as one that fails, until it has another.
#[tokio::test(start_paused = true)]
async fn revoked_serial_that_the_source_gives_again() {
    let a = want("a", &[]);
    let mut bench = Bench::start(vec![a.clone()], false);
    let only = std::slice::from_ref(&a);
    bench.set.wait_for(|set| set.covers(only)).await.unwrap();
    bench.only.store(true, Ordering::Relaxed);
    let serial_of = |bench: &Bench| {
        let svid = Arc::clone(&bench.set.borrow().by_id[&a.id]);
        leaf::peer(&svid.chain[0]).unwrap().serial
    };
    let first = serial_of(&bench);
    let mut all = Revocations::default();
    all.add(Target::Serial(first.clone()), "leaked").unwrap();
    bench.revoked.send_replace(Arc::new(all));
    bench.until(100).await;
    // At 0, 0.5, 1.5, 3.5, 7.5 s and so on.
    let tried = bench.attempts.load(Ordering::Relaxed);
    assert!((5..12).contains(&tried), "{tried}");
    assert_eq!(serial_of(&bench), first);
    bench.only.store(false, Ordering::Relaxed);
    bench.until(300).await;
    assert_ne!(serial_of(&bench), first);
    let tried = bench.attempts.load(Ordering::Relaxed);
    bench.until(600).await;
    assert_eq!(
        bench.attempts.load(Ordering::Relaxed),
        tried,
        "before its half life"
    );
}

/// The same where the clock was set back before the only certificate begins.
#[tokio::test(start_paused = true)]
async fn clock_that_is_set_back_before_the_only_certificate() {
    let a = want("a", &[]);
    let bench = Bench::start(vec![a.clone()], false);
    bench.until(10).await;
    bench.only.store(true, Ordering::Relaxed);
    bench.jump.store(-600, Ordering::Relaxed);
    sleep(Duration::from_secs(100)).await;
    let tried = bench.attempts.load(Ordering::Relaxed);
    assert!((4..14).contains(&tried), "{tried}");
    bench.jump.store(0, Ordering::Relaxed);
    sleep(Duration::from_secs(200)).await;
    let settled = bench.attempts.load(Ordering::Relaxed);
    sleep(Duration::from_secs(100)).await;
    assert_eq!(
        bench.attempts.load(Ordering::Relaxed),
        settled,
        "it is good again"
    );
}
