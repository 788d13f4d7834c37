//! `cargo xtask soak`: full load over HTTP/1, HTTP/2 and HBONE at a node and an egress gateway whose configuration changes
//! every second.
//!
//! Three things must hold: no request is lost (an answer of another status or length ends the run), every answer has its
//! record, and the processes end with the memory and the descriptors that they began with: at rest with the same
//! configuration, and under load, where what has grown may not go on. The node runs on io_uring, the egress gateway on epoll.
//! The load comes in rounds, each on connections of its own.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::case::{Ask, Case, Job, Load};
use super::fire::{Outcome, Shot};
use super::gun::Gun;
use super::peer::{self, Ground, Peer, Rig};
use super::proxy::Proxy;
use super::tools::Tools;
use crate::samples::number;

/// Between two configurations.
const RELOAD: Duration = Duration::from_secs(1);
/// How long a configuration may take to hold.
const HOLDS: Duration = Duration::from_secs(30);
/// How long records and descriptors may take to come and go.
const SETTLE: Duration = Duration::from_secs(60);
/// The longest round.
const ROUND: Duration = Duration::from_secs(10);
/// What comes before is the warm-up: pools and caches fill.
const WARM: Duration = Duration::from_secs(60);
/// The mean of memory in the second half may be this much above that of the first, in parts of a hundred. What is measured
/// once is no measure: a configuration of 200 policies or none, and one or two of them alive, make 6 MB.
const GROWTH_PERCENT: u64 = 2;
/// And this much, in bytes.
const GROWTH_BYTES: u64 = 768 << 10;
/// How often a mean that is above that is given as much time again: load beside the run that begins or ends makes one step,
/// what leaks makes the next one too.
const AGAIN: usize = 2;
/// A process is at rest once its memory has not come down for so long.
const RESTS: Duration = Duration::from_secs(6);
/// The same of a run that is over before it is warm; and at rest, where the allocator holds now more and now less.
const COLD_GROWTH_PERCENT: u64 = 10;
const COLD_GROWTH_BYTES: u64 = 4 << 20;
/// Policies and services that come and go.
const CHURN: u64 = 200;

/// What is fired at once.
const FIRED: [(Peer, Case); 6] = [
    (
        NODE,
        case("h1", Job::Waypoint, Load::Http1(32), Ask::Allowed),
    ),
    (
        NODE,
        case("h1, denied", Job::Waypoint, Load::Http1(8), Ask::Denied),
    ),
    (
        NODE,
        case("h2", Job::Waypoint, Load::Http2(4, 16), Ask::Allowed),
    ),
    (
        NODE,
        case(
            "HBONE",
            Job::WaypointHbone,
            Load::Hbone(16, 2),
            Ask::Allowed,
        ),
    ),
    (
        EGRESS,
        case("egress, h1", Job::Egress, Load::Http1(32), Ask::Allowed),
    ),
    (
        EGRESS,
        case("egress, h2", Job::Egress, Load::Http2(4, 16), Ask::Allowed),
    ),
];
const NODE: Peer = Peer::Ringgate;
const EGRESS: Peer = Peer::RinggateEpoll;

const fn case(name: &'static str, job: Job, load: Load, ask: Ask) -> Case {
    Case {
        name,
        about: "",
        job,
        load,
        ask,
    }
}

/// How long, and with what.
#[derive(Debug, PartialEq)]
struct Options {
    span: Duration,
    ringgate: Option<std::path::PathBuf>,
}

impl Options {
    fn parse(words: &[&str]) -> Result<Self> {
        let mut options = Self {
            span: Duration::from_secs(600),
            ringgate: None,
        };
        for pair in words.chunks(2) {
            let [name, value] = pair else {
                bail!("{} wants a value", pair.join(" "))
            };
            let seconds = || value.parse().with_context(|| (*name).to_owned());
            match *name {
                "--minutes" => options.span = Duration::from_secs(60 * seconds()?),
                "--seconds" => options.span = Duration::from_secs(seconds()?),
                "--ringgate" => options.ringgate = Some(std::path::absolute(value)?),
                other => bail!("no option `{other}`"),
            }
        }
        ensure!(
            options.span >= Duration::from_secs(15),
            "in less than 15 seconds nothing shows"
        );
        Ok(options)
    }

    /// Rounds as long as there is time for four of them.
    fn round(&self) -> Duration {
        ROUND.min(self.span / 4)
    }
}

/// Runs it.
pub(crate) fn run(root: &Path, words: &[&str]) -> Result<bool> {
    let options = Options::parse(words)?;
    let tools = Tools::find(root, &[NODE, EGRESS], options.ringgate.as_deref())?;
    let directory = tools.directory.clone();
    let ground = super::ground(root, tools, 2)?;
    soak(&options, &ground)?;
    // After an error it stays, for whoever looks for the reason.
    fs::remove_dir_all(directory)?;
    Ok(true)
}

fn soak(options: &Options, ground: &Ground) -> Result<()> {
    let upstream = peer::upstream(ground)?;
    let mut soaked = [(NODE, Job::Waypoint), (EGRESS, Job::Egress)]
        .into_iter()
        .map(|(peer, job)| Soaked::start(peer, job, ground))
        .collect::<Result<Vec<_>>>()?;
    let began = Instant::now();
    let (mut answers, mut reloads, mut rested) = (0, 0, Duration::ZERO);
    // Rest is no load: a short run would have none but for it.
    while began.elapsed().saturating_sub(rested) < options.span
        || soaked.iter_mut().any(|one| one.memory.goes_on())
    {
        let outcomes = round(options.round(), &mut soaked, &mut reloads, ground)?;
        answers += outcomes
            .iter()
            .map(|(_, outcome)| outcome.operations)
            .sum::<u64>();
        told(began, &outcomes, &soaked);
        // The first time, what fills once has filled.
        if began.elapsed() >= WARM.min(options.span / 4) {
            let begun = Instant::now();
            for one in soaked.iter_mut().filter(|one| one.rested.is_none()) {
                one.rested = Some(one.rest()?);
            }
            rested += begun.elapsed();
        }
    }
    soaked.iter().try_for_each(Soaked::exactly_recorded)?;
    println!(
        "{answers} answers and {reloads} reloads in {:.0} s: none lost, each recorded",
        began.elapsed().saturating_sub(rested).as_secs_f64()
    );
    for one in &mut soaked {
        one.remembers()?;
    }
    // Connections that are kept for the next request go with the service.
    drop(upstream);
    soaked.iter().try_for_each(Soaked::lets_go)
}

/// One line of what a round did.
fn told(began: Instant, outcomes: &[(&str, Outcome)], soaked: &[Soaked]) {
    let rates = outcomes.iter().map(|(name, outcome)| {
        let rate = number(outcome.operations) / outcome.seconds;
        format!("{name} {rate:.0}/s")
    });
    let memory = soaked.iter().filter_map(|one| one.memory.taken.last());
    let memory = memory.map(|(_, bytes)| format!("{:.1} MB", number(*bytes) / 1e6));
    eprintln!(
        "{:>5.0} s  {}; {}",
        began.elapsed().as_secs_f64(),
        rates.collect::<Vec<_>>().join(", "),
        memory.collect::<Vec<_>>().join(", ")
    );
}

/// Fires everything for `span`, with changes of both configurations meanwhile, and reckons up.
fn round<'c>(
    span: Duration,
    soaked: &mut [Soaked],
    reloads: &mut u64,
    ground: &Ground,
) -> Result<Vec<(&'c str, Outcome)>> {
    for one in soaked.iter_mut() {
        one.forget_records()?;
    }
    let mut guns = Vec::new();
    for (peer, case) in &FIRED {
        let shot = Shot {
            span,
            ..ground.shot(*peer, case)
        };
        let kind = super::kind(case.load)?;
        guns.push((case, *peer, Gun::load(kind, &shot, &ground.tools.load)?));
    }
    for (_, _, gun) in &mut guns {
        gun.go()?;
    }
    let end = Instant::now() + span;
    while Instant::now() < end {
        let next = Instant::now() + RELOAD;
        *reloads += 1;
        for one in soaked.iter_mut() {
            one.reload(*reloads)?;
        }
        std::thread::sleep(next.min(end).saturating_duration_since(Instant::now()));
    }
    let mut outcomes = Vec::new();
    for (case, peer, gun) in &mut guns {
        let of = soaked.iter_mut().find(|one| one.rig.peer == *peer);
        let of = of.context("a load has its process")?;
        let line = gun.line().with_context(|| of.rig.log());
        let outcome = Outcome::parse(&line.context(case.name)?)?;
        // One more for each connection or tunnel, before the clock.
        of.asked += outcome.operations + opening(case.load)?;
        outcomes.push((case.name, outcome));
    }
    for one in soaked.iter_mut() {
        one.note()?;
    }
    for (_, _, gun) in guns {
        gun.end()?;
    }
    soaked.iter_mut().try_for_each(Soaked::recorded)?;
    Ok(outcomes)
}

/// Requests that open a load.
fn opening(load: Load) -> Result<u64> {
    Ok(u64::try_from(match load {
        Load::Http1(connections) | Load::Http2(connections, _) => connections,
        Load::Hbone(tunnels, _) => tunnels,
        Load::Handshakes(_) | Load::Idle | Load::Start | Load::Change => 0,
    })?)
}

/// A process under load.
struct Soaked {
    rig: Rig,
    job: Job,
    began: Instant,
    /// Requests that must have records.
    asked: u64,
    /// At the end of each round, with the connections of the load open.
    memory: Memory,
    /// Memory at rest after the warm-up, in bytes.
    rested: Option<u64>,
    /// Descriptors before any load.
    descriptors: usize,
}

impl Soaked {
    fn start(peer: Peer, job: Job, ground: &Ground) -> Result<Self> {
        let rig = Rig::ready(peer, &case("", job, Load::Start, Ask::Allowed), ground)?;
        let descriptors = descriptors(rig.proxy())?;
        let this = Self {
            rig,
            job,
            began: Instant::now(),
            asked: 0,
            memory: Memory::default(),
            rested: None,
            descriptors,
        };
        // Nobody has counted what was asked until it served.
        this.quiet()?;
        this.empty_records()?;
        Ok(this)
    }

    /// Another configuration, once it holds: services and policies have come and gone, and whoever was allowed still is.
    fn reload(&mut self, number: u64) -> Result<()> {
        let before = self.generation()?;
        self.rig.rewrite(&churn(self.job, number))?;
        let begun = Instant::now();
        while self.generation()? == before {
            ensure!(
                begun.elapsed() < HOLDS,
                "configuration {number} does not hold after {HOLDS:?}\n{}",
                self.rig.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The number of the snapshot, which the admin listener tells.
    fn generation(&self) -> Result<String> {
        let mut stream = TcpStream::connect(self.rig.admin())?;
        stream.set_read_timeout(Some(HOLDS))?;
        stream
            .write_all(b"GET /generation HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200 "), "admin: `{answer}`");
        let (_, body) = answer.split_once("\r\n\r\n").context("a body")?;
        Ok(body.to_owned())
    }

    /// Waits until nothing more comes into the file of records.
    fn quiet(&self) -> Result<()> {
        let file = self.rig.records();
        let begun = Instant::now();
        let mut length = None;
        loop {
            let now = fs::metadata(&file)?.len();
            if length.replace(now) == Some(now) {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < SETTLE,
                "{}: records still come after {SETTLE:?}",
                file.display()
            );
            std::thread::sleep(Duration::from_millis(700));
        }
    }

    /// Empties the file of records, which the process appends to.
    fn empty_records(&self) -> Result<()> {
        let file = fs::File::options().write(true).open(self.rig.records())?;
        Ok(file.set_len(0)?)
    }

    /// Empties the file of records, once nothing more comes: no request has two of them.
    fn forget_records(&mut self) -> Result<()> {
        self.exactly_recorded()?;
        self.empty_records()?;
        self.asked = 0;
        Ok(())
    }

    /// As many records as requests, once nothing more comes.
    fn exactly_recorded(&self) -> Result<()> {
        self.quiet()?;
        let found = self.records()?;
        ensure!(
            found == self.asked,
            "{}: {found} records of {} requests",
            self.rig.records().display(),
            self.asked
        );
        Ok(())
    }

    /// Records of requests, none of which may be told as lost.
    fn records(&self) -> Result<u64> {
        let file = self.rig.records();
        let lost = peer::lost(&file)?.records;
        ensure!(lost == 0, "{}: {lost} records are lost", file.display());
        peer::requests(&file)
    }

    /// Waits for as many records as there were requests, and no more.
    fn recorded(&mut self) -> Result<()> {
        let file = self.rig.records();
        let begun = Instant::now();
        loop {
            let found = self.records()?;
            ensure!(
                found <= self.asked,
                "{}: {found} records of {} requests",
                file.display(),
                self.asked
            );
            if found == self.asked {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < SETTLE,
                "{}: {found} records of {} requests",
                file.display(),
                self.asked
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn note(&mut self) -> Result<()> {
        self.rig.proxy().main()?.alive()?;
        let memory = self.rig.proxy().memory()?;
        let taken = (self.began.elapsed(), memory.resident);
        self.memory.taken.push(taken);
        Ok(())
    }

    /// What it keeps once nothing is asked of it any more and the configuration is the same each time, in bytes. Pages of its
    /// program, which come and go as they are used, have no part in it.
    fn rest(&mut self) -> Result<u64> {
        self.reload(0)?;
        let (begun, mut least) = (Instant::now(), u64::MAX);
        let mut fallen = begun;
        while fallen.elapsed() < RESTS && begun.elapsed() < SETTLE {
            std::thread::sleep(Duration::from_millis(200));
            let now = self.rig.proxy().memory()?.anonymous;
            if now < least - least / 200 {
                fallen = Instant::now();
            }
            least = least.min(now);
        }
        Ok(least)
    }

    /// Memory does not grow: its mean in the second half of what follows the warm-up is that of the first half, and at rest
    /// it is what it was.
    fn remembers(&mut self) -> Result<()> {
        let name = self.job.name();
        let (begun, ended, most) = judged(&self.memory.taken).context("fewer than two rounds")?;
        println!(
            "{name}: {:.1} MB resident in the first half (mean), {:.1} MB in the second (at most {:.1} MB), comparison {}",
            number(begun) / 1e6,
            number(ended) / 1e6,
            number(most) / 1e6,
            self.memory.again + 1
        );
        let rested = self.rested.context("it has rested once")?;
        let rests = self.rest()?;
        let may = bound(rested, false);
        println!(
            "{name}: {:.1} MB at rest after the warm-up, {:.1} MB in the end (at most {:.1} MB)",
            number(rested) / 1e6,
            number(rests) / 1e6,
            number(may) / 1e6
        );
        ensure!(
            ended <= most,
            "{name}: memory grows: {:?}",
            self.memory.taken
        );
        ensure!(rests <= may, "{name}: memory stays that was taken");
        Ok(())
    }

    /// No descriptor is left of what came and went.
    fn lets_go(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let now = descriptors(self.rig.proxy())?;
            if now <= self.descriptors {
                println!(
                    "{}: {now} descriptors, {} before the load",
                    self.job.name(),
                    self.descriptors
                );
                return Ok(());
            }
            ensure!(
                begun.elapsed() < SETTLE,
                "{}: {now} descriptors, {} before the load",
                self.job.name(),
                self.descriptors
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Resident memory over time.
#[derive(Debug, Default)]
struct Memory {
    /// When, and how many bytes.
    taken: Vec<(Duration, u64)>,
    /// How often the first half was forgotten, as the second was above it.
    again: usize,
    /// So many are wanted before the halves are compared once more.
    wanted: usize,
}

impl Memory {
    /// Whether another round is wanted before it can be said that nothing grows, or that something does.
    fn goes_on(&mut self) -> bool {
        // What is compared takes two rounds even if the first one takes longer than all.
        if self.taken.len() < self.wanted.max(2) {
            return true;
        }
        let grows = judged(&self.taken).is_some_and(|(_, ended, bound)| ended > bound);
        if !grows || self.again == AGAIN {
            return false;
        }
        let half = warm(&self.taken).len().div_ceil(2);
        self.taken.drain(..self.taken.len() - half);
        (self.again, self.wanted) = (self.again + 1, 2 * half);
        true
    }
}

/// Without those of the warm-up, if there are four others.
fn warm(memory: &[(Duration, u64)]) -> &[(Duration, u64)] {
    let cold = memory.iter().take_while(|(at, _)| *at <= WARM).count();
    let warm = memory.get(cold..).filter(|warm| warm.len() >= 4);
    warm.unwrap_or(memory)
}

/// What is compared of measurements: the mean of either half, without those of the warm-up if there are four others; and
/// what the second may be at most. Not the lowest: of fifty, one of them may be a tenth below the others.
fn judged(memory: &[(Duration, u64)]) -> Option<(u64, u64, u64)> {
    let all = warm(memory);
    let is_warm = all.first().is_some_and(|(at, _)| *at > WARM);
    let (first, second) = all.split_at_checked(all.len() / 2)?;
    let mean = |half: &[(Duration, u64)]| {
        let sum: u64 = half.iter().map(|(_, bytes)| *bytes).sum();
        sum.checked_div(u64::try_from(half.len()).ok()?)
    };
    let (begun, ended) = (mean(first)?, mean(second)?);
    Some((begun, ended, bound(begun, is_warm)))
}

/// What memory may be after it was `begun`, in bytes.
const fn bound(begun: u64, is_warm: bool) -> u64 {
    let (percent, bytes) = if is_warm {
        (GROWTH_PERCENT, GROWTH_BYTES)
    } else {
        (COLD_GROWTH_PERCENT, COLD_GROWTH_BYTES)
    };
    begun + begun * percent / 100 + bytes
}

fn descriptors(proxy: &Proxy) -> Result<usize> {
    let directory = format!("/proc/{}/fd", proxy.main()?.id());
    Ok(fs::read_dir(&directory).context(directory)?.count())
}

/// Services and policies of configuration `number`: none of them is of what the load asks.
fn churn(job: Job, number: u64) -> String {
    let policies_of = match job {
        Job::Egress => {
            "targetRefs = [{ group = \"networking.istio.io\", kind = \"ServiceEntry\", name = \"external\" }]"
        }
        Job::Waypoint | Job::WaypointHbone | Job::Ingress => {
            "selector.matchLabels = { app = \"customer-api\" }"
        }
    };
    let mut text = String::new();
    // Some stay, some come, some go; and from time to time all go.
    for n in number..number + number * 37 % CHURN {
        text.push_str(&format!(
            "\n[[serviceEntry]]\nname = \"soak-{n}\"\nhosts = [\"soak-{n}.example.test\"]\n\
             ports = [{{ number = 80, name = \"http\", protocol = \"HTTP\" }}]\nlocation = \"MESH_EXTERNAL\"\n\
             resolution = \"STATIC\"\nendpoints = [{{ address = \"192.0.2.{}\" }}]\n\
             \n[[authorizationPolicy]]\nname = \"soak-{n}\"\n{policies_of}\naction = \"{}\"\n\
             rules = [{{ to = [{{ operation.paths = [\"/soak/{n}\"] }}] }}]\n",
            n % 250 + 1,
            if n % 2 == 0 { "DENY" } else { "ALLOW" },
        ));
    }
    // Never the same text twice in a row.
    text.push_str(&format!("# {number}\n"));
    text.push_str(&format!(
        "\n[[authorizationPolicy]]\nname = \"turn-{number}\"\n{policies_of}\naction = \"DENY\"\n\
         rules = [{{ to = [{{ operation.paths = [\"/turn/{number}\"] }}] }}]\n"
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        for bad in [
            &["--minutes"][..],
            &["--minutes", "x"],
            &["--seconds", "3"],
            &["--runs", "3"],
        ] {
            assert!(Options::parse(bad).is_err(), "{bad:?}");
        }
        let usual = Options::parse(&[]).expect("valid");
        assert_eq!((usual.span.as_secs(), usual.round()), (600, ROUND));
        let short = Options::parse(&["--seconds", "20"]).expect("valid");
        assert_eq!(short.round().as_secs(), 5);
    }

    /// Resident memory each 10 s, in bytes.
    fn memory(of: impl Fn(u64) -> u64, rounds: u64) -> Vec<(Duration, u64)> {
        let at = |n| (Duration::from_secs(10 * n), of(n));
        (1..=rounds).map(at).collect()
    }

    #[test]
    fn what_grows_is_seen_through_what_comes_and_goes() {
        const MB: u64 = 1_000_000;
        // As large as the configuration happens to be.
        let phase = |n: u64| 39 * MB + n * 37 % 200 * MB / 30;
        let holds = |memory: &[_]| {
            let (_, ended, bound) = judged(memory).expect("two rounds");
            ended <= bound
        };
        assert!(holds(&memory(phase, 60)));
        // 8 kB for each of ten reloads of a round; a byte for each of 70,000 requests.
        assert!(!holds(&memory(|n| phase(n) + n * 80_000, 60)));
        assert!(!holds(&memory(|n| phase(n) + n * 70_000, 60)));
        // What fills in the first minute has no part in it.
        assert!(holds(&memory(|n| phase(n) - 20 * MB / (n * n), 60)));
    }

    /// Whether a run of `rounds`, and of more where they are wanted, ends well; and how many it had.
    fn run(of: impl Fn(u64) -> u64, rounds: u64) -> (bool, u64) {
        let mut memory = Memory::default();
        let mut n = 0;
        while n < rounds || memory.goes_on() {
            n += 1;
            memory.taken.push((Duration::from_secs(10 * n), of(n)));
        }
        let (_, ended, bound) = judged(&memory.taken).expect("two rounds");
        (ended <= bound, n)
    }

    #[test]
    fn a_step_is_no_leak_and_a_leak_is_no_step() {
        const MB: u64 = 1_000_000;
        let phase = |n: u64| 39 * MB + n * 37 % 200 * MB / 30;
        assert_eq!(run(phase, 60), (true, 60));
        // Load beside the run begins or ends.
        for at in 7..=60 {
            let step = |n| phase(n) + if n >= at { 4 * MB } else { 0 };
            let (held, rounds) = run(step, 60);
            assert!(held && rounds <= 114, "step at {at}: {rounds}");
        }
        for leak in [70_000, 80_000, 1_000_000] {
            let (held, rounds) = run(|n| phase(n) + n * leak, 60);
            assert!(!held && rounds <= 114, "{leak}: {rounds}");
            // And one that a step hides.
            let (held, _) = run(
                |n| phase(n) + n * leak + if n >= 40 { 4 * MB } else { 0 },
                60,
            );
            assert!(!held, "{leak}, with a step");
        }
        // A short run is judged by what is allowed to it.
        assert_eq!(run(|n| 40 * MB + n * MB, 4), (true, 4));
        assert_eq!(run(|n| 40 * MB + n * 6 * MB, 4), (false, 8));
        assert!(bound(40 * MB, true) < 42 * MB && bound(40 * MB, false) > 44 * MB);
    }

    #[test]
    fn no_memory_is_compared_with_itself() {
        let of = |rounds| judged(&memory(|n| n, rounds));
        assert_eq!(
            of(20).map(|(begun, ended, _)| (begun, ended)),
            Some((10, 17))
        );
        assert_eq!(of(4).map(|(begun, ended, _)| (begun, ended)), Some((1, 3)));
        assert_eq!(of(2).map(|(begun, ended, _)| (begun, ended)), Some((1, 2)));
        assert_eq!((of(1), of(0)), (None, None));
    }

    #[test]
    fn configurations_differ() {
        let (one, other) = (churn(Job::Egress, 1), churn(Job::Egress, 2));
        assert_ne!(one, other);
        assert!(one.contains("soak-37") && !one.contains("soak-38"), "{one}");
    }
}
