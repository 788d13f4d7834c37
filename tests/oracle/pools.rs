//! The alphabets: values of policies, each in every form of the policy semantics.

pub(crate) const PRINCIPALS: &[&str] = &[
    "cluster.local/ns/default/sa/frontend",
    "*",
    "td1/ns/default/sa/frontend",
    "td2/ns/default/sa/reviews",
    "foreign/ns/default/sa/frontend",
    "*/ns/default/sa/frontend",
    "*local/ns/edge/sa/ingress",
    "td*/ns/default/sa/frontend",
    "*/sa/ingress",
    "*/sa/frontend*",
    "cluster.local/ns/default/*",
    "cluster.local/ns/default/sa/*",
    "cluster.local/*",
    "td1",
    "td1/x",
    "*s",
    "**",
    "cluster.local/ns/*/sa/frontend",
    "old-td.local/ns/default/sa/frontend/x",
];

/// Identities that callers have, but for `spiffe://`.
pub(crate) const IDS: &[&str] = &[
    "cluster.local/ns/default/sa/frontend",
    "td1/ns/default/sa/frontend",
    "td2/ns/default/sa/frontend",
    "td2/ns/default/sa/reviews",
    "cluster.local/ns/edge/sa/ingress",
    "old-td.local/ns/edge/sa/ingress",
    "foreign/ns/default/sa/frontend",
    "td1/ns/default/sa/frontend/x",
    "td1",
    "td1/x",
    "cluster.local/ns/default/svc/frontend",
    "td2/ns/edge-prod/sa/frontend",
    "foreign/x/ns/default/sa/frontend",
];

pub(crate) const NAMESPACES: &[&str] = &[
    "default", "edge", "*", "d*", "*-prod", "edge*", "*fault", "e*ge", "other",
];

pub(crate) const ACCOUNTS: &[&str] = &[
    "frontend",
    "default/frontend",
    "edge/ingress",
    "reviews",
    "default/reviews",
    "istio-system/frontend",
];

pub(crate) const TRUST_DOMAINS: &[&str] = &[
    "td1",
    "cluster.local",
    "*",
    "foreign",
    "td*",
    "*local",
    "td2",
    "old-td.local",
];

pub(crate) const REQUEST_PRINCIPALS: &[&str] = &[
    "*",
    "https://a.com/user-1",
    "https://a.com/*",
    "https://a.com/user*",
    "issuer-2/*",
    "*/user-1",
    "*a.com/user-1",
    "*-1",
    "issuer*",
    "https*",
    "issuer-2",
    "https://a*",
    "*/*",
    "https*/user-1",
    "issuer-2/a/b",
    "issuer-2/user-2",
];

pub(crate) const BLOCKS: &[&str] = &[
    "10.0.0.0/8",
    "10.1.2.3",
    "10.1.2.99/24",
    "0.0.0.0/0",
    "::/0",
    "::1",
    "fd00::/8",
    "fd00::1:0/112",
    "::ffff:10.1.0.0/112",
    "192.168.0.1/31",
    "::ffff:192.168.0.1",
    "10.1.2.3/0",
    "fd00::1/127",
];

/// Addresses that connections have.
pub(crate) const ADDRESSES: &[&str] = &[
    "10.1.2.3",
    "192.168.0.1",
    "fd00::1",
    "::1",
    "::ffff:10.1.9.9",
    "192.168.0.0",
    "fe80::1",
    "127.0.0.1",
];

pub(crate) const HOSTS: &[&str] = &[
    "a.com",
    "A.Com",
    "a.com:*",
    "*.com",
    "a.com:8080",
    "*",
    "api*",
    "b.example.",
    "*:8080",
    "a.com.:8080",
    "10.0.0.1",
    "[fd00::1]*",
    "a.*",
];

/// Hosts that requests name.
pub(crate) const AUTHORITIES: &[&str] = &[
    "a.com",
    "A.COM.",
    "a.com:8080",
    "b.example",
    "api",
    "api.default:80",
    "10.0.0.1",
    "[fd00::1]:8080",
    "sub.a.com",
];

pub(crate) const PORTS: &[&str] = &["80", "8080", "443", "0", "080", "65535"];

pub(crate) const PORT_NUMBERS: &[u16] = &[80, 8080, 443, 0, 65535, 9090];

pub(crate) const METHODS: &[&str] = &["GET", "POST", "P*", "*", "*T", "get", "PUT", "**", "G*T"];

/// Methods that requests have.
pub(crate) const VERBS: &[&str] = &["GET", "POST", "PUT", "PATCH", "FETCH"];

pub(crate) const PATHS: &[&str] = &[
    "/api/v1/users/{*}",
    "/api/*",
    "/admin",
    "*",
    "/api/v1/users/7",
    "*/7",
    "/api/{**}",
    "/api/{*}/users/{**}",
    "/api/{**}/7",
    "/{*}",
    "/{**}",
    "/admin*",
    "/{*}/{*}/",
    "/api/v1/users/{*}/",
    "/a*i",
    "*.txt",
    "/{**}/x.txt",
    "/",
    "**",
    "/api/v1/{*}/{*}/{**}/end",
];

pub(crate) const PATH_REGEXES: &[&str] = &[
    "/api/v[0-9]+/users/[^/]+",
    "/admin(/.*)?",
    ".*",
    r"/api/.*/\d+",
    "(?i)/ADMIN",
    "/a|/api/v1/users/7",
    ".*\\.txt",
    "/",
    "/[a-z]{3}/.*",
];

/// Targets that requests have; each is normalized by a mode drawn beside it.
pub(crate) const TARGETS: &[&str] = &[
    "/api/v1/users/7",
    "/",
    "/admin",
    "/ADMIN",
    "/api/v1/users/",
    "/api/v1/users/7/",
    "/api/v1/users/7/orders",
    "/api/v1/users/a[b]",
    "/api//users/7",
    "/api/%2e%2e/admin",
    "/admin/x.txt",
    "/api/",
    "/api",
    "//admin",
    "/x%2fadmin",
    "/api/v1/users/7/end",
    "/api/v1/a/b/end",
    "/a*i",
    "/api/v1/users/%C3%A9",
];

/// What a condition may name: key, values, regular expressions (none where values are no strings).
pub(crate) const KEYS: &[(&str, &[&str], &[&str])] = &[
    ("request.query[currency]", QUERY, QUERY_REGEXES),
    ("request.query[currency]", QUERY, QUERY_REGEXES),
    ("request.query[a b]", QUERY, QUERY_REGEXES),
    ("request.query[Currency]", QUERY, QUERY_REGEXES),
    ("request.headers[x-a]", HEADER, HEADER_REGEXES),
    ("request.headers[X-B]", HEADER, HEADER_REGEXES),
    ("request.headers[x-a]", HEADER, HEADER_REGEXES),
    ("request.headers[:method]", METHODS, &["GET|PUT", "P.*"]),
    (
        "request.headers[:authority]",
        HOSTS,
        &["a\\.com(:\\d+)?", ".*8080"],
    ),
    (
        "request.headers[:path]",
        &[
            "/api/*",
            "*currency=eur",
            "/admin",
            "*",
            "/",
            "/api/v1/users/7?currency=eur",
        ],
        &[".*currency=eur.*", "/admin(\\?.*)?"],
    ),
    ("source.ip", BLOCKS, &[]),
    ("remote.ip", BLOCKS, &[]),
    ("destination.ip", BLOCKS, &[]),
    ("destination.port", PORTS, &[]),
    ("time", WINDOWS, &[]),
    ("source.namespace", NAMESPACES, &["default|other", "e.*"]),
    (
        "source.principal",
        PRINCIPALS,
        &[".*/sa/frontend", "td[12]/.*"],
    ),
    (
        "source.serviceAccount",
        ACCOUNTS,
        &["default/.*", ".*/ingress"],
    ),
    ("source.trustDomain", TRUST_DOMAINS, &["td\\d", ".*local"]),
    (
        "request.auth.principal",
        REQUEST_PRINCIPALS,
        &["https://.*", ".*/user-[0-9]"],
    ),
    (
        "request.auth.audiences",
        AUDIENCES,
        &["bookstore.*", "[a-z]+"],
    ),
    ("request.auth.presenter", AUDIENCES, &["[a-z]+"]),
    ("request.auth.claims[groups]", CLAIMS, CLAIM_REGEXES),
    ("request.auth.claims[groups]", CLAIMS, CLAIM_REGEXES),
    ("request.auth.claims[scope]", CLAIMS, CLAIM_REGEXES),
    ("request.auth.claims[teams]", CLAIMS, CLAIM_REGEXES),
    ("request.auth.claims[realm][roles]", CLAIMS, CLAIM_REGEXES),
    (
        "request.auth.claims[realm][deep][name]",
        CLAIMS,
        CLAIM_REGEXES,
    ),
    ("request.auth.claims[a.b]", CLAIMS, CLAIM_REGEXES),
    (
        "request.auth.claims[iss]",
        &["https://a.com", "issuer*", "*"],
        &[],
    ),
    (
        "connection.sni",
        &["a.com", "A.COM", "*.com", "*", "b.*"],
        &["[a-z.]+", "b\\..*"],
    ),
];

/// When requests and connections come: around the ends of the windows.
pub(crate) const TIMES: &[i64] = &[
    1_795_593_600, // Wed 2026-11-25T08:00:00Z
    1_795_593_599, // Wed 2026-11-25T07:59:59Z
    1_795_629_599, // Wed 2026-11-25T17:59:59Z
    1_795_908_600, // Sat 2026-11-28T23:30:00Z
    1_796_013_000, // Mon 2026-11-30T04:30:00Z
    1_774_747_800, // Sun 2026-03-29T01:30:00Z, the clocks have just been changed
    1_783_290_600, // Sun 2026-07-05T22:30:00Z
];

const WINDOWS: &[&str] = &[
    "08:00-18:00",
    "Mon-Fri 08:00-18:00 UTC",
    "Sat 22:00-06:00",
    "Wed,Sun 00:00-24:00 Europe/Berlin",
    "Fri-Mon 23:00-05:00 -05:00",
    "Mon 00:00-01:00 +02:00",
    "03:00-04:00 Europe/Berlin",
    "2026-11-25T08:00:00Z/2026-11-26T00:00:00Z",
    "../2026-11-01T00:00:00Z",
    "2026-07-05T22:30:00Z/..",
];

const QUERY: &[&str] = &[
    "eur", "usd", "*", "e*", "*r", "a b", "x&y", "%zz", "\u{e9}", "**",
];
const QUERY_REGEXES: &[&str] = &["eur|usd", "[a-z]{3}", ".*", ".", "a.b"];

/// Pieces of queries; a request has up to four.
pub(crate) const QUERY_PIECES: &[&str] = &[
    "currency=eur",
    "currency=usd",
    "currency=%65ur",
    "%63urrency=eur",
    "currency",
    "currency=",
    "Currency=eur",
    "a+b=eur",
    "a%20b=a+b",
    "currency=x%26y",
    "currency=%zz",
    "currency=%c3%a9",
    "currency=%bd",
    "",
    "=eur",
    "currency=eur;currency=usd",
    "currency=%",
    "currency=a=b",
];

const HEADER: &[&str] = &["good", "*", "bad", "g*", "*d", "a,b", "Good", "go*d", "**"];
const HEADER_REGEXES: &[&str] = &["good|bad", ".*", "[a-z]+", "a,.", "."];

/// Values that header fields have.
pub(crate) const FIELDS: &[&[u8]] = &[
    b"good",
    b"bad",
    b" \tgood\t ",
    b"",
    b"a,b",
    b"Good",
    b"good,bad",
    b"go*d",
    b"\xbd",
    b" ",
];

const AUDIENCES: &[&str] = &["bookstore", "*", "book*", "*store", "other"];

const CLAIMS: &[&str] = &[
    "staff",
    "*",
    "st*",
    "*ff",
    "read",
    "read write",
    "admin",
    "7",
    "true",
];
const CLAIM_REGEXES: &[&str] = &["staff|admin", ".*", "[a-z]+", "read.*"];
