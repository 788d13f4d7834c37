//! The keeper against a lookup that answers what it is told, with a paused clock.

use std::slice::from_ref;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;
use tokio::time::advance;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(host: &str, allow_private: bool) -> Name {
    Name {
        host: host.to_owned(),
        allow_private,
    }
}

fn answer_of(addresses: &[&str], ttl: u64) -> Result<Answer, Failure> {
    Ok(Answer {
        addresses: addresses.iter().map(|a| ip(a)).collect(),
        ttl: Duration::from_secs(ttl),
    })
}

/// Answers what it was told last, and says when it was asked.
#[derive(Clone)]
struct Told {
    answer: watch::Receiver<Result<Answer, Failure>>,
    asked: mpsc::UnboundedSender<Instant>,
    open: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    slow: Duration,
}

impl Lookup for Told {
    async fn lookup(&self, _host: String) -> Result<Answer, Failure> {
        self.asked.send(Instant::now()).unwrap();
        let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(open, Ordering::SeqCst);
        tokio::time::sleep(self.slow).await;
        self.open.fetch_sub(1, Ordering::SeqCst);
        self.answer.borrow().clone()
    }
}

struct Bench {
    says: watch::Sender<Result<Answer, Failure>>,
    asked: mpsc::UnboundedReceiver<Instant>,
    names: Names,
    most: Arc<AtomicUsize>,
}

impl Bench {
    fn start(names: &[Name], first: Result<Answer, Failure>, slow: Duration) -> Self {
        let (says, answer) = watch::channel(first);
        let (sender, asked) = mpsc::unbounded_channel();
        let most = Arc::<AtomicUsize>::default();
        let told = Told {
            answer,
            asked: sender,
            open: Arc::default(),
            most: Arc::clone(&most),
            slow,
        };
        let (keeper, names) = NameKeeper::new(told, names.iter().cloned().collect());
        tokio::spawn(keeper.run());
        Self {
            says,
            asked,
            names,
            most,
        }
    }

    /// Answers so from now on.
    fn say(&self, answer: Result<Answer, Failure>) {
        drop(self.says.send_replace(answer));
    }

    /// Seconds from now until the next question.
    async fn wait(&mut self) -> u64 {
        let from = Instant::now();
        let at = self.asked.recv().await.unwrap();
        // Lets the keeper take the answer in.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        at.saturating_duration_since(from).as_secs()
    }

    fn addresses(&self, of: &Name) -> Vec<IpAddr> {
        let resolved = self.names.resolved.borrow();
        resolved
            .addresses(of)
            .map_or_else(|_e| Vec::new(), <[_]>::to_vec)
    }

    fn why(&self, of: &Name) -> String {
        self.names
            .resolved
            .borrow()
            .addresses(of)
            .unwrap_err()
            .to_string()
    }
}

const AT_ONCE: Duration = Duration::ZERO;

#[tokio::test(start_paused = true)]
async fn by_ttl_within_floor_and_ceiling() {
    let it = name("out.test", false);
    let mut bench = Bench::start(from_ref(&it), answer_of(&["8.8.8.8"], 60), AT_ONCE);
    assert_eq!(bench.wait().await, 0);
    assert_eq!(bench.addresses(&it), [ip("8.8.8.8")]);
    for (ttl, want) in [(0, 60), (4000, 5), (7, 300), (7, 7)] {
        bench.say(answer_of(&["8.8.8.8"], ttl));
        assert_eq!(
            bench.wait().await,
            want,
            "ttl {ttl} is of the answer after this"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn rebinding_leaves_nothing_to_dial() {
    let (strict, open) = (name("out.test", false), name("out.test", true));
    let names = [strict.clone(), open.clone()];
    let mut bench = Bench::start(&names, answer_of(&["8.8.8.8"], 5), AT_ONCE);
    bench.wait().await;
    bench.wait().await;
    assert_eq!(bench.addresses(&strict), [ip("8.8.8.8")]);
    bench.say(answer_of(&["127.0.0.1", "169.254.169.254"], 5));
    bench.wait().await;
    bench.wait().await;
    assert_eq!(bench.addresses(&strict), [] as [IpAddr; 0]);
    assert_eq!(
        bench.why(&strict),
        "`out.test` has no address that may be dialled: DNS answered 127.0.0.1, 169.254.169.254"
    );
    assert_eq!(bench.addresses(&open), [ip("127.0.0.1")]);
}

#[tokio::test(start_paused = true)]
async fn silence_keeps_the_last_good_and_backs_off() {
    let it = name("out.test", false);
    let mut bench = Bench::start(from_ref(&it), answer_of(&["8.8.8.8"], 30), AT_ONCE);
    bench.wait().await;
    bench.say(Err(Failure::Unanswered("timed out".to_owned())));
    let mut waits = Vec::new();
    for _ in 0..9 {
        waits.push(bench.wait().await);
        assert_eq!(bench.addresses(&it), [ip("8.8.8.8")]);
    }
    assert_eq!(waits, [30, 5, 10, 20, 40, 80, 160, 300, 300]);
    bench.say(answer_of(&["1.1.1.1"], 30));
    assert_eq!(bench.wait().await, 300);
    assert_eq!(bench.addresses(&it), [ip("1.1.1.1")]);
    assert_eq!(bench.wait().await, 30, "success ends the backing off");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_gone_is_not_dialled() {
    let it = name("out.test", false);
    let mut bench = Bench::start(from_ref(&it), answer_of(&["8.8.8.8"], 30), AT_ONCE);
    bench.wait().await;
    bench.say(Err(Failure::NoSuchName));
    let waits = [bench.wait().await, bench.wait().await, bench.wait().await];
    assert_eq!(waits, [30, 5, 10]);
    assert_eq!(bench.why(&it), "`out.test` has no address in DNS");
}

#[tokio::test(start_paused = true)]
async fn only_a_change_is_published() {
    let it = name("out.test", false);
    let mut bench = Bench::start(
        from_ref(&it),
        answer_of(&["8.8.8.8", "1.1.1.1"], 5),
        AT_ONCE,
    );
    bench.wait().await;
    let first = bench.names.resolved.borrow_and_update().generation;
    bench.say(answer_of(&["1.1.1.1", "8.8.8.8"], 5));
    bench.wait().await;
    assert!(
        !bench.names.resolved.has_changed().unwrap(),
        "only the order differs"
    );
    bench.say(answer_of(&["1.1.1.1"], 5));
    bench.wait().await;
    assert_eq!(
        bench.names.resolved.borrow_and_update().generation,
        first + 1
    );
}

#[tokio::test(start_paused = true)]
async fn names_come_and_go() {
    let (one, two) = (name("one.test", false), name("two.test", false));
    let mut bench = Bench::start(from_ref(&one), answer_of(&["8.8.8.8"], 60), AT_ONCE);
    bench.wait().await;
    bench
        .names
        .wanted
        .send_replace(BTreeSet::from([two.clone()]));
    assert_eq!(bench.wait().await, 0, "a new name is asked for at once");
    assert_eq!(bench.addresses(&two), [ip("8.8.8.8")]);
    assert_eq!(bench.why(&one), "`one.test` is not resolved yet");
}

#[tokio::test(start_paused = true)]
async fn so_many_at_a_time() {
    let names: Vec<_> = (0..100)
        .map(|n| name(&format!("{n}.test"), false))
        .collect();
    let mut bench = Bench::start(&names, answer_of(&["8.8.8.8"], 300), Duration::from_secs(1));
    advance(AT_ONCE).await;
    for _ in 0..100 {
        bench.asked.recv().await.unwrap();
    }
    assert_eq!(bench.most.load(Ordering::SeqCst), limits::LOOKUPS);
}

#[test]
fn families_together() {
    let silent = || Err(Failure::Unanswered("x".to_owned()));
    let none = || Err(Failure::NoSuchName);
    let v4 = || answer_of(&["8.8.8.8"], 60);
    for (a, b, want) in [
        (
            v4(),
            answer_of(&["2606:4700::1"], 30),
            answer_of(&["8.8.8.8", "2606:4700::1"], 30),
        ),
        (v4(), silent(), v4()),
        (none(), v4(), v4()),
        (none(), none(), none()),
        (none(), silent(), silent()),
        (silent(), none(), silent()),
    ] {
        assert_eq!(both(a, b), want);
    }
}

#[tokio::test]
async fn without_a_nameserver_there_is_a_reason() {
    // Nothing listens on the discard port of this address.
    let dns = Dns::new(vec!["127.77.77.77:9".parse().unwrap()]);
    let failed = dns.lookup("out.test".to_owned()).await.unwrap_err();
    assert!(matches!(failed, Failure::Unanswered(_)), "{failed:?}");
}
