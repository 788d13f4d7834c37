//! The keeper against a real key server, and its waits on a clock that the test moves.

use super::*;

use std::cell::RefCell;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const ED: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"IBprU49Q7Fh4QnGw3LC_2cIjv3Bf0dEdIKLguMvOzGM"}]}"#;
const SOON: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(3600);

/// A key server that answers what `script` says at the time, and counts.
struct Server {
    source: KeySource,
    body: Rc<RefCell<String>>,
    asked: watch::Receiver<usize>,
}

async fn serve() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let source = KeySource::Uri(format!("http://{}/jwks", listener.local_addr().unwrap()));
    let body = Rc::new(RefCell::new(ED.to_owned()));
    let (count, asked) = watch::channel(0);
    let answers = Rc::clone(&body);
    tokio::task::spawn_local(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 2048];
            let _read = stream.read(&mut request).await.unwrap();
            let text = answers.borrow().clone();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len());
            stream
                .write_all(format!("{head}{text}").as_bytes())
                .await
                .unwrap();
            count.send_modify(|n| *n += 1);
        }
    });
    Server {
        source,
        body,
        asked,
    }
}

fn rule(source: &KeySource) -> JwtRule {
    JwtRule {
        issuer: String::new(),
        audiences: Vec::new(),
        keys: source.clone(),
        from_headers: Vec::new(),
        from_params: Vec::new(),
        from_cookies: Vec::new(),
        forward_original_token: false,
        output_payload_to_header: None,
        output_claim_to_headers: Vec::new(),
        space_delimited_claims: Vec::new(),
        require_expiration: false,
        timeout_ms: 1000,
        reach: Reach::default(),
    }
}

fn sources_of(sources: &[&KeySource]) -> Sources {
    let rules: Vec<JwtRule> = sources.iter().map(|source| rule(source)).collect();
    Sources::of(&rules)
}

fn run(test: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test());
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(SOON, future).await.expect("in time")
}

fn start(server: &Server, timetable: Timetable) -> (JwksHandle, watch::Receiver<Arc<KeySets>>) {
    let sources = sources_of(&[&server.source]);
    let (handle, published, keeper) =
        JwksHandle::new(HttpClient::loopback_only(), timetable, sources);
    tokio::task::spawn_local(keeper.run());
    (handle, published)
}

#[test]
fn an_unknown_kid_brings_new_keys_but_not_more_often_than_allowed() {
    run(async || {
        let mut server = serve().await;
        let least = Duration::from_millis(300);
        let (handle, mut published) = start(
            &server,
            Timetable {
                refresh: LONG,
                at_most_every: least,
                retry: LONG,
                first_retry: LONG,
            },
        );
        let begun = Instant::now();
        soon(published.changed()).await.unwrap();
        assert_eq!(published.borrow_and_update().map[&server.source].len(), 1);
        *server.body.borrow_mut() = r#"{"keys":[]}"#.to_owned();
        for _ in 0..20 {
            handle.unknown_kid(&server.source);
        }
        handle.unknown_kid(&KeySource::Uri("http://127.0.0.1:1/not-ours".to_owned()));
        soon(published.changed()).await.unwrap();
        assert!(begun.elapsed() >= least, "{:?}", begun.elapsed());
        let sets = published.borrow_and_update().clone();
        assert_eq!((sets.map[&server.source].len(), sets.generation), (0, 2));
        assert_eq!(
            *server.asked.borrow_and_update(),
            2,
            "twenty signals make one fetch"
        );
    });
}

#[test]
fn the_last_good_set_stays_and_an_equal_one_changes_nothing() {
    run(async || {
        let mut server = serve().await;
        let often = Duration::from_millis(20);
        let (_handle, mut published) = start(
            &server,
            Timetable {
                refresh: often,
                at_most_every: often,
                retry: often,
                first_retry: often,
            },
        );
        soon(published.changed()).await.unwrap();
        let good = published.borrow_and_update().clone();
        soon(server.asked.wait_for(|n| *n >= 3)).await.unwrap();
        assert!(
            !published.has_changed().unwrap(),
            "equal sets keep the generation"
        );
        *server.body.borrow_mut() = "<html>out of order</html>".to_owned();
        let failing = *server.asked.borrow() + 3;
        soon(server.asked.wait_for(|n| *n >= failing))
            .await
            .unwrap();
        assert!(!published.has_changed().unwrap());
        assert!(Arc::ptr_eq(&good, &published.borrow()));
    });
}

#[test]
fn sources_come_and_go() {
    run(async || {
        let server = serve().await;
        let (handle, mut published) = start(&server, Timetable::default());
        soon(published.changed()).await.unwrap();
        published.borrow_and_update();
        let inline = KeySource::Inline(ED.to_owned());
        handle.set_sources(sources_of(&[&inline]));
        let wanted = |sets: &Arc<KeySets>| sets.map.keys().eq([&inline]);
        soon(published.wait_for(wanted)).await.unwrap();
        drop(handle);
        soon(async { while published.changed().await.is_ok() {} }).await;
    });
}

#[test]
fn rules_with_one_source_share_its_fetches() {
    run(async || {
        let mut server = serve().await;
        let mut slow = rule(&server.source);
        slow.timeout_ms = 3000;
        let mut inside = rule(&server.source);
        inside.reach.private = true;
        let sources = Sources::of([&rule(&server.source), &slow, &inside]);
        let fetching = sources.0[&server.source];
        assert_eq!(fetching.timeout, Duration::from_secs(3));
        assert_eq!((fetching.reach.private, fetching.reach.http), (true, false));
        let (_handle, mut published, keeper) =
            JwksHandle::new(HttpClient::loopback_only(), Timetable::default(), sources);
        tokio::task::spawn_local(keeper.run());
        soon(published.changed()).await.unwrap();
        assert_eq!(*server.asked.borrow_and_update(), 1);
    });
}

/// A keeper whose only source fails at once, without a network, and one of its failures.
fn failing() -> (JwksHandle, watch::Receiver<Arc<KeySets>>, Keeper, KeySource) {
    let source = KeySource::Uri("ftp://issuer.example/keys".to_owned());
    let (handle, published, mut keeper) = JwksHandle::new(
        HttpClient::loopback_only(),
        Timetable::default(),
        sources_of(&[&source]),
    );
    keeper.adopt();
    (handle, published, keeper, source)
}

async fn fail(keeper: &mut Keeper) {
    let mut fetches = JoinSet::new();
    keeper.start_due(&mut fetches);
    let (source, number, outcome) = fetches.join_next().await.unwrap().unwrap();
    assert!(outcome.is_err());
    keeper.settle(source, number, outcome);
}

#[tokio::test(start_paused = true)]
async fn failures_wait_longer_and_longer_and_a_new_kid_shortens_that() {
    for known in [false, true] {
        let (_handle, _published, mut keeper, source) = failing();
        let waits: &[u64] = if known {
            keeper.adopt_set(source.clone(), KeySet::parse(ED).unwrap());
            &[10_000, 20_000, 40_000, 80_000, 160_000, 300_000, 300_000]
        } else {
            &[500, 1000, 2000, 4000, 8000, 16_000, 32_000]
        };
        for milliseconds in waits {
            fail(&mut keeper).await;
            let wait = keeper.state[&source].due - Instant::now();
            let least = Duration::from_millis(*milliseconds);
            assert!(wait >= least && wait <= least + least / 10, "{wait:?}");
            tokio::time::advance(wait).await;
        }
    }
    let (_handle, _published, mut keeper, source) = failing();
    // So long that a new `kid` comes before it.
    for _ in 0..7 {
        fail(&mut keeper).await;
        let wait = keeper.state[&source].due - Instant::now();
        tokio::time::advance(wait).await;
    }
    fail(&mut keeper).await;
    keeper.bring_forward(&source);
    assert_eq!(
        keeper.state[&source].due - Instant::now(),
        Duration::from_secs(10)
    );
}

#[tokio::test(start_paused = true)]
async fn a_good_set_is_never_older_than_allowed() {
    let (_handle, published, mut keeper, source) = failing();
    let mut fetches = JoinSet::new();
    keeper.start_due(&mut fetches);
    let (_, number, _) = fetches.join_next().await.unwrap().unwrap();
    keeper.settle(source.clone(), number, Ok(KeySet::parse(ED).unwrap()));
    assert_eq!(published.borrow().map[&source].len(), 1);
    let wait = keeper.state[&source].due - Instant::now();
    let most = Duration::from_secs(300);
    assert!(wait <= most && wait >= most - most / 10, "{wait:?}");
    // A fetch that fails leaves it where it is, one of a source that was gone meanwhile does nothing.
    tokio::time::advance(wait).await;
    fail(&mut keeper).await;
    assert_eq!(published.borrow().map[&source].len(), 1);
    keeper.settle(source.clone(), number, Ok(KeySet::default()));
    assert_eq!(published.borrow().map[&source].len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_source_may_no_longer_reach_is_forgotten() {
    let (handle, published, mut keeper, source) = failing();
    let allow = |reach: Reach| {
        let mut rule = rule(&source);
        rule.reach = reach;
        Sources::of([&rule])
    };
    let all = Reach {
        http: true,
        private: true,
    };
    fail(&mut keeper).await;
    tokio::time::advance(Duration::from_secs(3)).await;
    handle.set_sources(allow(all));
    keeper.adopt();
    let wait = keeper.state[&source].due - Instant::now();
    assert_eq!(wait, Duration::from_secs(7), "it may succeed now");
    tokio::time::advance(wait).await;
    let mut fetches = JoinSet::new();
    keeper.start_due(&mut fetches);
    let (_, number, _) = fetches.join_next().await.unwrap().unwrap();
    keeper.settle(source.clone(), number, Ok(KeySet::parse(ED).unwrap()));
    assert!(published.borrow().map.contains_key(&source));
    handle.set_sources(allow(Reach { http: false, ..all }));
    keeper.adopt();
    assert!(!published.borrow().map.contains_key(&source));
    assert_eq!(keeper.state[&source].started, None, "and asked for anew");
}

/// What a local issuer answers, by path.
type Site = Rc<RefCell<BTreeMap<&'static str, String>>>;

/// Serves `site` at a port of loopback, over TLS if there is a configuration for it.
async fn issuer(site: Site, tls: Option<Arc<rustls::ServerConfig>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::task::spawn_local(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            match &tls {
                Some(tls) => {
                    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(tls));
                    // A client that does not like the certificate goes away.
                    if let Ok(stream) = acceptor.accept(tcp).await {
                        answer_one(stream, &site).await;
                    }
                }
                None => answer_one(tcp, &site).await,
            }
        }
    });
    port
}

async fn answer_one(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, site: &Site) {
    let mut asked = [0; 2048];
    let n = stream.read(&mut asked).await.unwrap();
    let text = String::from_utf8_lossy(&asked[..n]);
    let path = text.split(' ').nth(1).unwrap_or_default();
    let found = site.borrow().get(path).cloned();
    let status = if found.is_some() {
        "200 OK"
    } else {
        "404 Not Found"
    };
    let body = found.unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
}

fn metadata(issuer: &str, jwks_uri: &str) -> String {
    serde_json::json!({"issuer": issuer, "jwks_uri": jwks_uri}).to_string()
}

const WELL_KNOWN: &str = "/.well-known/openid-configuration";
const OF_TENANT: &str = "/tenant/.well-known/openid-configuration";

#[test]
fn an_issuer_alone_is_discovered() {
    run(async || {
        let site = Site::default();
        let at = format!("http://127.0.0.1:{}", issuer(Rc::clone(&site), None).await);
        let client = HttpClient::loopback_only();
        let ask = async |issuer: &str| {
            let source = KeySource::Discovery(issuer.to_owned());
            let client = client.for_rule(&source, Reach::default());
            fetch(&client, &source, SOON).await
        };
        let say = |path, text: String| drop(site.borrow_mut().insert(path, text));
        let (keys, tenant) = (format!("{at}/keys"), format!("{at}/tenant"));
        say("/keys", ED.to_owned());
        say(WELL_KNOWN, metadata(&at, &keys));
        say(OF_TENANT, metadata(&tenant, &keys));
        assert_eq!(ask(&at).await.unwrap().len(), 1);
        assert_eq!(ask(&tenant).await.unwrap().len(), 1);
        // Byte for byte: a slash more is another issuer.
        let slash = format!("{at}/");
        let refused = ask(&slash).await;
        assert!(
            matches!(&refused, Err(JwksError::Discovery(DiscoveryError::Issuer { found })) if *found == at),
            "{refused:?}"
        );
        say(WELL_KNOWN, metadata("https://evil.example", &keys));
        assert!(matches!(
            ask(&at).await,
            Err(JwksError::Discovery(DiscoveryError::Issuer { .. }))
        ));
        say(WELL_KNOWN, serde_json::json!({"issuer": at}).to_string());
        assert!(matches!(
            ask(&at).await,
            Err(JwksError::Discovery(DiscoveryError::Document(_)))
        ));
        for (uri, inside) in [
            ("http://169.254.169.254/latest", true),
            ("http://10.0.0.1/keys", true),
            ("https://10.0.0.1/keys", true),
            ("file:///etc/passwd", false),
        ] {
            say(WELL_KNOWN, metadata(&at, uri));
            match ask(&at).await {
                Err(JwksError::Fetch(FetchError::Address)) if inside => {}
                Err(JwksError::Fetch(FetchError::Url)) if !inside => {}
                other => panic!("{uri}: {other:?}"),
            }
        }
        say(WELL_KNOWN, metadata(&at, &format!("{at}/gone")));
        assert!(matches!(
            ask(&at).await,
            Err(JwksError::Fetch(FetchError::Status(404)))
        ));
        say("/keys", "<html></html>".to_owned());
        say(WELL_KNOWN, metadata(&at, &keys));
        assert!(matches!(ask(&at).await, Err(JwksError::KeySet(_))));
    });
}

#[test]
fn an_https_issuer_is_verified_and_stays_with_https() {
    run(async || {
        let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let roots = dir.path().join("roots.pem");
        tokio::fs::write(&roots, signed.cert.pem()).await.unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(signed.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![signed.cert.der().clone()], key.unwrap())
            .unwrap();
        let site = Site::default();
        let port = issuer(Rc::clone(&site), Some(Arc::new(tls))).await;
        let at = format!("https://localhost:{port}");
        let source = KeySource::Discovery(at.clone());
        let client = HttpClient::new(&roots).unwrap();
        let ask = async |client: &HttpClient| {
            fetch(&client.for_rule(&source, Reach::default()), &source, SOON).await
        };
        let say = |path, text: String| drop(site.borrow_mut().insert(path, text));
        say("/keys", ED.to_owned());
        say(WELL_KNOWN, metadata(&at, &format!("{at}/keys")));
        assert_eq!(ask(&client).await.unwrap().len(), 1);
        say(WELL_KNOWN, metadata(&at, "http://localhost/keys"));
        assert!(matches!(
            ask(&client).await,
            Err(JwksError::Discovery(DiscoveryError::Insecure(_)))
        ));
        // The system's roots know nothing of this server.
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        tokio::fs::write(&roots, other.cert.pem()).await.unwrap();
        let stranger = HttpClient::new(&roots).unwrap();
        assert!(matches!(
            ask(&stranger).await,
            Err(JwksError::Discovery(DiscoveryError::Fetch(
                FetchError::Connect(_)
            )))
        ));
    });
}
