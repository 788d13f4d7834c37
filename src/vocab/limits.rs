//! Every bound of the process in one place, with the relations between them.

/// Longest trust domain (SPIFFE-ID section 2.1).
pub const TRUST_DOMAIN_BYTES: usize = 255;
/// Longest SPIFFE ID (SPIFFE-ID section 2.3).
pub const SPIFFE_ID_BYTES: usize = 2048;
/// Certificates of one X509-SVID chain, leaf included.
pub const SVID_CHAIN_CERTS: usize = 10;
/// Longest gRPC message of the certificate service, a request or an answer.
pub const CERTIFICATE_MESSAGE_BYTES: usize = 64 * 1024;
/// Connections that the certificate service serves at a time; each node keeps one to be told of revocations.
pub const CERTIFICATE_CONNECTIONS: usize = NODES + 2000;
/// Revocations of one mesh, by serial, identity and node together.
pub const REVOCATIONS: usize = 10_000;
/// Longest serial number of a certificate (RFC 5280 section 4.1.2.2).
pub const SERIAL_BYTES: usize = 20;
/// Longest name of a node: a DNS label.
pub const NODE_NAME_BYTES: usize = 63;
/// Nodes, and join tokens, that one authority keeps.
pub const NODES: usize = 10_000;
/// Identities and DNS names that one node may ask for.
pub const NODE_GRANTS: usize = 1024;
/// What the authority has to keep besides certificates: nodes, join tokens, revocations. Its one file.
pub const LEDGER_BYTES: u64 = 64 << 20;
/// Longest line that the command line and a running authority say to each other.
pub const CONTROL_LINE_BYTES: u64 = 16 << 20;
/// Longest reason of a revocation.
pub const REASON_BYTES: usize = 200;
/// Roots that a trust domain has at a time; more than two only if a rotation follows another.
pub const ROOTS: usize = 8;
/// Longest answer to those who follow an authority's roots and revocations.
pub const NEWS_MESSAGE_BYTES: usize = 4 << 20;
/// All revocations of one authority in that answer, with their reasons; the rest of it is for the roots.
pub const REVOCATIONS_BYTES: usize = 3 << 20;
/// What a process keeps of that answer, as JSON, in which a byte may take six.
pub const TRUST_BYTES: u64 = 32 << 20;
/// How long an authority keeps a follower waiting when there is nothing new, in milliseconds.
pub const NEWS_WAIT_MS: u64 = 20_000;
/// Entries of `[workloadApi]`.
pub const WORKLOAD_API_ENTRIES: usize = 1024;
/// Longest hint of an entry.
pub const WORKLOAD_API_HINT_BYTES: usize = 255;
/// Connections that the Workload API serves at a time.
pub const WORKLOAD_API_CONNECTIONS: usize = 1024;
/// Connections among them that one user may have.
pub const WORKLOAD_API_CONNECTIONS_PER_USER: usize = 128;
/// Concurrent streams of one connection to the Workload API.
pub const WORKLOAD_API_STREAMS: u32 = 32;
/// Requests that one user may make of the Workload API within a second.
pub const WORKLOAD_API_REQUESTS_PER_USER: u32 = 200;
/// Longest request to the Workload API.
pub const WORKLOAD_API_REQUEST_BYTES: usize = 64 * 1024;
/// Longest answer of a Workload API that this process asks.
pub const WORKLOAD_API_ANSWER_BYTES: usize = 4 << 20;
/// Longest answer of an authority that is asked for a JWT-SVID.
pub const TOKEN_MESSAGE_BYTES: usize = 256 * 1024;
/// Audiences of one JWT-SVID.
pub const JWT_SVID_AUDIENCES: usize = 16;
/// Records of what the control thread decided that wait for their writer.
pub const CONTROL_RECORDS: usize = 4096;
/// Longest host of a request, port excluded (Istio bulletin 2024-003).
pub const HOST_BYTES: usize = 255;
/// Request or response head, request line included.
pub const HEAD_BYTES: usize = 64 * 1024;
/// Header fields of one head (Istio bulletin 2019-005).
pub const HEADERS: usize = 100;
/// Interim responses (1xx) that an upstream may send before its answer.
pub const INTERIM_RESPONSES: usize = 16;
/// Longest request target.
pub const TARGET_BYTES: usize = 16 * 1024;
/// Matches of one path that ask for the same, at one gateway and host or at one service: they are looked at one after the
/// other.
pub const ROUTE_MATCHES_PER_PATH: usize = 256;
/// Regular expressions of paths of one host that nothing tells apart but the whole of them.
pub const ROUTE_REGEXES_PER_HOST: usize = 64;
/// Longest timeout of a route, in milliseconds.
pub const ROUTE_TIMEOUT_MS: u64 = 24 * 3_600_000;
/// Attempts of one request beside the first one.
pub const ROUTE_RETRIES: usize = 10;
/// Longest configured back-off before a second attempt, in milliseconds.
pub const RETRY_BACKOFF_MS: u64 = 10_000;
/// Share of a core's requests that may be under way more than once, in percent.
pub const RETRY_BUDGET_PERCENT: u32 = 20;
/// So many may be in any case.
pub const RETRY_BUDGET_LEAST: u32 = 3;
/// Back-off before a second attempt where none is configured, in milliseconds.
pub const RETRY_BACKOFF_LEAST_MS: u64 = 25;
/// Longest body that is kept, so that it can be sent once more.
pub const REPEATED_BODY_BYTES: u64 = 16 * 1024;
/// How long a client may take for such a body, in milliseconds.
pub const KEPT_BODY_MS: u64 = 30_000;
/// Longest `x-request-id` that is recorded.
pub const RECORDED_NAME_BYTES: usize = 256;
/// Local rate limits of a mesh: each has a table of buckets on each core.
pub const RATE_LIMITS: usize = 64;
/// Buckets of a limit that tells callers apart, on each core.
pub const RATE_LIMIT_BUCKETS: usize = 16 * 1024;
/// Places in that table where the bucket of a key may be.
pub const RATE_LIMIT_WAYS: usize = 8;
/// Most tokens of a bucket.
pub const RATE_LIMIT_TOKENS: u32 = 1_000_000;
/// Longest interval after which tokens come, in milliseconds.
pub const RATE_LIMIT_INTERVAL_MS: u64 = 24 * 3_600_000;
/// Longest token, checked before anything of it is parsed.
pub const TOKEN_BYTES: usize = 16 * 1024;
/// Depth of JSON in tokens and key sets.
pub const JSON_DEPTH: usize = 64;
/// Depth of lists and tables in a file of Istio resources.
pub const DOCUMENT_DEPTH: usize = 64;
/// Values of one file of Istio resources, keys included.
pub const DOCUMENT_NODES: usize = 8_000_000;
/// Values that the aliases of one file may repeat.
pub const ALIASED_NODES: usize = 100_000;
/// Longest regular expression in a policy.
pub const REGEX_BYTES: usize = 1024;
/// Memory of one compiled regular expression.
pub const REGEX_COMPILED_BYTES: usize = 1 << 20;
/// Table of states of one regular expression; one that needs more is evaluated thread by thread.
pub const REGEX_TABLE_BYTES: usize = 1 << 18;
/// Compiled regular expression that is evaluated thread by thread: what one byte of a value may cost.
pub const REGEX_THREADS_BYTES: usize = 1 << 16;
/// One chunk-size line of a chunked body, extensions included.
pub const CHUNK_LINE_BYTES: usize = 256;
/// Longest value of one `baggage` member, as long as a DNS name may be.
pub const BAGGAGE_VALUE_BYTES: usize = 253;
/// Members of `baggage` that are looked at.
pub const BAGGAGE_MEMBERS: usize = 64;
/// Certificates of one ingress listener. Each is read again when any file changes.
pub const LISTENER_CERTIFICATES: usize = 1024;
/// Concurrent streams of one HTTP/2 connection.
pub const H2_STREAMS: u32 = 200;
/// Tasks of one HTTP/2 connection, streams that were reset and still wind down included; a peer that
/// needs more is cut off (CVE-2023-44487).
pub const H2_TASKS: usize = 400;
/// Streams that a client takes a server to allow before its settings have come: servers are to allow no fewer (RFC 9113
/// section 6.5.2).
pub const H2_STREAMS_AT_FIRST: u32 = 100;
/// Streams of one connection of requests from outside (Istio's edge profile).
pub const H2_EDGE_STREAMS: u32 = 100;
/// Receive window of a stream from outside (Istio's edge profile).
pub const H2_EDGE_STREAM_WINDOW_BYTES: u32 = 64 << 10;
/// Receive window of a connection from outside (Istio's edge profile).
pub const H2_EDGE_CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// What a stream from outside whose reader is slow takes of its connection's window.
pub const H2_EDGE_CHARGED_BYTES: u32 = 8 << 10;
/// What slow streams of a connection from outside may hold together without narrowing its window.
pub const H2_EDGE_ADVANCE_BYTES: u32 = 2 << 20;
/// Receive window of a stream within the mesh, and of one to an upstream.
pub const H2_STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// Receive window of a connection within the mesh, and of one to an upstream.
pub const H2_CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// What a stream within the mesh whose reader is slow takes of its connection's window.
pub const H2_CHARGED_BYTES: u32 = 32 << 10;
/// What slow streams of a connection within the mesh may hold together without narrowing its window.
pub const H2_ADVANCE_BYTES: u32 = 16 << 20;
/// Longest frame of a connection of requests that is taken.
pub const H2_FRAME_BYTES: u32 = 16 << 10;
/// How long a stream of requests that its client gives up unanswered must have been open so as not to count as abuse
/// (CVE-2023-44487), in milliseconds (Envoy's value).
pub const H2_EARLY_RESET_MS: u64 = 1000;
/// How long a stream to an upstream with something to send may wait for it to widen a window, in milliseconds (Envoy's idle
/// time of a stream).
pub const H2_ZERO_WINDOW_MS: u64 = 300_000;
/// How long a client may take nothing of its answer, in milliseconds (Envoy's idle time of a stream).
pub const RESPONSE_READ_MS: u64 = 300_000;
/// Waiting for a client in which `PACE_BYTES` of its body must come, in milliseconds (nginx's `client_body_timeout`).
pub const REQUEST_BODY_MS: u64 = 60_000;
/// What must move within such a time.
pub const PACE_BYTES: u64 = 1024;
/// Header list of an upstream's answer that is taken.
pub const H2_ANSWER_LIST_BYTES: u32 = 64 << 10;
/// Streams that this process opens on one HBONE connection before it opens another (ztunnel's default).
pub const HBONE_STREAMS_PER_CONNECTION: usize = 100;
/// Receive window of a tunnel (ztunnel's value).
pub const HBONE_STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Receive window of a connection that carries tunnels (ztunnel's value): larger than a tunnel's, so that one whose reader
/// is slow does not stop the others.
pub const HBONE_CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// What a tunnel whose reader is slow takes of its connection's window; what it holds beyond that is on account of
/// `HBONE_ADVANCE_BYTES`.
pub const HBONE_CHARGED_BYTES: u32 = 256 << 10;
/// What slow tunnels of one connection may hold together without narrowing its window.
pub const HBONE_ADVANCE_BYTES: u32 = 64 << 20;
/// Longest frame of a connection that carries tunnels (ztunnel's value).
pub const HBONE_FRAME_BYTES: u32 = 1 << 20;
/// Header list of a CONNECT that is taken (ztunnel's value).
pub const HBONE_HEADER_LIST_BYTES: u32 = 64 << 10;
/// Header list of the answer to a CONNECT that is taken (ztunnel's value).
pub const HBONE_ANSWER_LIST_BYTES: u32 = 16 << 10;
/// One compressed header block of a tunnel, continuations included.
pub const H2_BLOCK_BYTES: usize = 64 << 10;
/// CONTINUATION frames of one header block.
pub const H2_CONTINUATIONS: u32 = 16;
/// Table of the header decompression of one connection (RFC 9113's initial value).
pub const HPACK_TABLE_BYTES: usize = 4096;
/// One SETTINGS frame of an HTTP/2 connection.
pub const H2_SETTINGS_BYTES: u32 = 1024;
/// Frames that move nothing (PING, SETTINGS, empty DATA, small updates, resets) which a peer may send at once.
pub const H2_IDLE_FRAMES: u32 = 10_000;
/// Such frames that it may send in a second from then on, beside one for each frame that moves something.
pub const H2_IDLE_FRAMES_PER_S: u64 = 1000;
/// What a stream counts that the peer resets before anything came of it (CVE-2023-44487), or that it makes us reset, in a
/// bucket of the same size and filling, but that a stream which is answered puts in as much, and nothing else.
pub const H2_RESET_COST: u32 = 20;
/// Window updates below this many bytes move nothing.
pub const H2_SMALL_UPDATE_BYTES: u32 = 1024;
/// Streams that we have reset lately, whose frames may still be under way.
pub const H2_RESETS_KEPT: usize = 256;
/// What waits to be written to an HTTP/2 connection, beyond which its streams wait and nothing is read.
pub const H2_OUTBOX_BYTES: usize = 256 << 10;
/// Control groups that are looked through for one of them.
pub const CGROUPS: usize = 65_536;
/// Control groups whose paths one core keeps.
pub const CGROUPS_PER_CORE: usize = 4096;
/// Connections, and streams of HTTP/2 connections, that one core serves at a time.
pub const CONNECTIONS_PER_CORE: usize = 100_000;
/// Connections and tunnels of one workload at a time, in each direction, where the configuration says nothing else.
pub const CONNECTIONS_PER_WORKLOAD: usize = 100_000;
/// Connections of one source address at the ingress, where the configuration says nothing else.
pub const CONNECTIONS_PER_SOURCE: usize = 16 * 1024;
/// Counters that all source addresses share, at least.
pub const SOURCE_COUNTERS: usize = 16 * 1024;
/// At most, of 4 bytes each.
pub const SOURCE_COUNTERS_MOST: usize = 4 << 20;
/// Counters for each source that can have all of its connections while others have theirs.
pub const COUNTERS_PER_SOURCE: usize = 8;
/// Of the memory that the control group or the machine has, what the process may hold, where the configuration says
/// nothing else.
pub const MEMORY_PERCENT: u64 = 85;
/// Of its ceiling, what a process that refuses new work must have come below to take some again.
pub const MEMORY_ENOUGH_PERCENT: u64 = 95;
/// What a client that is refused for want of memory is told to wait, in seconds.
pub const OVERLOAD_RETRY_S: u64 = 1;
/// Sockets that one process hands over to another.
pub const HANDED_SOCKETS: usize = 16 * 1024;
/// Decision records that wait for the writer, per core.
pub const RECORDS_PER_CORE: usize = 16 * 1024;
/// Bytes of them, per core: once there are so many, further records are lost.
pub const RECORD_RING_BYTES: usize = 32 << 20;
/// Series of metrics that one core keeps, of connections and of requests each; what is more is counted in one series together.
pub const SERIES_PER_CORE: usize = 10_000;
/// Series of requests between the same two ends; what is more is counted in one series of theirs.
pub const SERIES_PER_PAIR: usize = 64;
/// New series that wait for the registry.
pub const SERIES_WAITING: usize = 4096;
/// How long a series that nothing open counts in is kept after its last use, in milliseconds.
pub const SERIES_IDLE_MS: u64 = 3_600_000;
/// Live connections that one answer of the admin endpoint tells, per core.
pub const LIVE_ROWS: usize = 10_000;
/// Verified tokens kept per core.
pub const TOKENS_PER_CORE: usize = 4096;
/// Longest token that the cache of verified tokens keeps; longer ones are verified each time.
pub const CACHED_TOKEN_BYTES: usize = 4 * 1024;
/// Keys of one key set.
pub const KEYS_PER_SET: usize = 128;
/// OIDC login cookie, sealed.
pub const COOKIE_BYTES: usize = 3800;
/// Cookies that one OIDC session may be cut into.
pub const SESSION_COOKIES: usize = 4;
/// OIDC logins that one browser may have under way; the oldest is dropped.
pub const LOGIN_FLOWS: usize = 4;
/// Cookies of logins that are looked at in one request.
pub const LOGIN_COOKIES: usize = 32;
/// Logins that are redeemed at one provider at a time; others wait.
pub const REDEEMED: usize = 32;
/// Those that wait for that; one more is told that its provider cannot be reached.
pub const REDEEMS_WAITING: usize = 256;
/// Both, of one client (IPv4 address, or /64 of IPv6), at all providers.
pub const REDEEMS_PER_CLIENT: usize = 64;
/// Where a login may return to; a longer target returns to `/`.
pub const RETURN_TO_BYTES: usize = 1024;
/// How long a login may take at the identity provider, in seconds.
pub const LOGIN_FLOW_S: i64 = 600;
/// JWKS and discovery documents.
pub const DISCOVERY_BYTES: usize = 1 << 20;
/// Announced body of a refused request that is read all the same, so that the client reads the answer.
pub const REFUSED_BODY_BYTES: u64 = 64 * 1024;
/// Answer of an external authorizer, its body or message.
pub const AUTHORIZER_ANSWER_BYTES: usize = 64 * 1024;
/// Questions to external authorizers that one core has under way; others wait, within their provider's time.
pub const AUTHORIZER_ASKS_PER_CORE: usize = 1024;
/// Beginning of a request body that is held for an external authorizer (`maxRequestBytes`).
pub const HELD_BODY_BYTES: usize = 1 << 20;
/// Bodies that one core holds for external authorizers at a time, together.
pub const HELD_BODIES_BYTES: usize = 64 << 20;
/// Idle HTTP/1 upstream connections kept per core and key: as many as a core's clients of HTTP/2 use at a time, or each of
/// the others would be made anew for its next request.
pub const IDLE_UPSTREAMS: usize = 256;
/// Addresses kept of one outside name.
pub const ADDRESSES_PER_NAME: usize = 16;
/// Longest body of a request that is mirrored.
pub const MIRRORED_BODY_BYTES: usize = 64 * 1024;
/// Copies of requests that one core has under way.
pub const MIRRORS_PER_CORE: usize = 256;
/// Slots of a table for consistent hashing.
pub const HASH_SLOTS: usize = 65_537;
/// Slots that are looked at for one key.
pub const HASH_WALK: usize = 256;
/// Endpoints of a service that one connection or request tries.
pub const ENDPOINTS_TRIED: usize = 8;
/// Names that are resolved at a time.
pub const LOOKUPS: usize = 16;
/// Longest TLS ClientHello inside a CONNECT, record headers included; with post-quantum key shares it is about 2 KiB.
pub const CLIENT_HELLO_BYTES: usize = 16 * 1024;
/// What may wait of a TLS handshake: its longest message, 64 KiB, in records of any size, and the record that is read.
pub const TLS_HANDSHAKE_BYTES: usize = 256 * 1024;
/// Longest TLS message after the handshake: a session ticket.
pub const POST_HANDSHAKE_BYTES: usize = 64 * 1024;
/// TLS records in a row that carry no data.
pub const RECORDS_WITHOUT_DATA: u32 = 32;
/// Small buffers, for one TLS record each, that a core keeps for reuse, per direction.
pub const SMALL_BUFFERS_PER_CORE: usize = 64;
/// Medium and large buffers, for 4 and 16 records, that a core keeps for reuse, per direction and size.
pub const LARGE_BUFFERS_PER_CORE: usize = 8;
/// Idle HTTP/1 upstream connections kept per core; a key may hold a name that the client chose.
pub const IDLE_UPSTREAMS_PER_CORE: usize = 1024;
/// HTTP/2 upstream connections kept per core.
pub const H2_UPSTREAMS_PER_CORE: usize = 512;

/// A handshake, of TLS or with the first frames of HTTP/2, in milliseconds. A connection of HTTP/1 that has said nothing after it is
/// idle: browsers open some before they need them.
pub const HANDSHAKE_MS: u64 = 10_000;
/// A whole request head, in milliseconds (slowloris).
pub const HEAD_MS: u64 = 15_000;
/// How long the control thread may take to tell the path of a control group, in milliseconds.
pub const CGROUP_MS: u64 = 2000;
/// Upstream TCP connect, in milliseconds (ztunnel's value).
pub const CONNECT_MS: u64 = 10_000;
/// How long a client may take to send what is held of its body, in milliseconds.
pub const HELD_BODY_MS: u64 = 30_000;
/// How long the rest of a small body may take whose request was answered before its end, in milliseconds.
pub const EARLY_BODY_MS: u64 = 15_000;
/// How long a refused request may take to send its small body, in milliseconds.
pub const REFUSED_BODY_MS: u64 = 250;
/// All addresses of one upstream together, TLS included, in milliseconds.
pub const CONNECT_ALL_MS: u64 = 30_000;
/// One name in DNS, both families, all nameservers, in milliseconds.
pub const LOOKUP_MS: u64 = 10_000;
/// Idle keep-alive connection downstream, in milliseconds.
pub const IDLE_MS: u64 = 300_000;
/// How long an upstream may leave a client waiting that sends its body only when it is asked to, in milliseconds; then the
/// client is asked (RFC 9110 section 10.1.1).
pub const CONTINUE_MS: u64 = 1000;
/// How long a WebSocket may be idle, in milliseconds, where the configuration says nothing else.
pub const STREAM_IDLE_MS: u64 = 3_600_000;
/// Between two looks at whether an exchange still moves, in milliseconds. An upstream that was asked and has not begun to
/// answer within one to two of them is given up.
pub const STALL_MS: u64 = 300_000;
/// Looks in a row without a byte either way after which an answer that has begun is given up (Envoy's TCP idle time, 1 h).
pub const STALLS: u32 = 12;
/// How long one side of a tunnel may be silent after the other side has ended, in milliseconds.
pub const HALF_CLOSED_MS: u64 = 3_600_000;
/// How long an upstream connection without an exchange is kept, in milliseconds.
pub const IDLE_UPSTREAM_MS: u64 = 60_000;
/// Longest idle time of a `connectionPool`, in milliseconds.
pub const POOL_IDLE_MS: u64 = 86_400_000;
/// Shortest interval of health checks, in milliseconds.
pub const CHECK_INTERVAL_MS: u64 = 10;
/// Longest interval of health checks, in milliseconds.
pub const CHECK_LONGEST_MS: u64 = 86_400_000;
/// Ports of endpoints that a process checks.
pub const CHECKED: usize = 10_000;
/// Health checks that are under way at a time.
pub const CHECKS: usize = 64;
/// Those of them that one service has at most.
pub const CHECKS_OF_SERVICE: usize = CHECKS / 2;
/// How long the answer to a copy of a request may take, in milliseconds.
pub const MIRROR_MS: u64 = 30_000;
/// How long an HBONE connection without a tunnel is kept, in milliseconds (ztunnel's value).
pub const IDLE_HBONE_MS: u64 = 300_000;
/// Between two HBONE keep-alive pings, in milliseconds (ztunnel's value).
pub const PING_MS: u64 = 10_000;
/// How long the answer to a ping may take, in milliseconds (ztunnel's value).
pub const PONG_MS: u64 = 20_000;
/// How long the client of a connection that we end may take to read our answer and end its side, in milliseconds.
pub const LINGER_MS: u64 = 1000;
/// What such a client may still send, in bytes.
pub const LINGER_BYTES: usize = 1 << 20;
/// Idle time after which the kernel asks whether the peer is still there, in seconds: a tunnel that is idle for good
/// reasons has no other time limit.
pub const KEEPALIVE_S: u32 = 120;
/// Between two such questions, in seconds.
pub const KEEPALIVE_INTERVAL_S: u32 = 20;
/// Unanswered questions after which the connection is broken.
pub const KEEPALIVE_PROBES: u32 = 3;
/// How long what was sent may be unacknowledged before the connection is broken, in milliseconds. It also ends an idle
/// connection after its first unanswered question, if this much has passed since the last answer; so it is as long as all
/// of them together.
pub const USER_TIMEOUT_MS: u32 = 180_000;
/// How long what is open may go on after the process was told to stop, in milliseconds, where the configuration says
/// nothing else.
pub const DRAIN_MS: u64 = 5000;
/// How long a process that ends still waits for the first bytes of a connection that it has accepted, in milliseconds.
pub const DRAIN_FIRST_MS: u64 = 2000;
/// How long the first byte of a client is waited for where plaintext is allowed, in milliseconds: a ClientHello comes at
/// once. Then the server is dialled, which may be the one to speak first.
pub const FIRST_BYTE_MS: u64 = 50;
/// How long a plaintext connection under STRICT may wait for its first byte before the reset, in milliseconds.
pub const RESET_WAIT_MS: u64 = 1000;

/// Longest time that an endpoint is left out after failed connects, in milliseconds (Envoy's `max_ejection_time`); a
/// longer `baseEjectionTime` holds.
pub const EJECTION_MS: u64 = 300_000;
/// Questions of captured DNS that wait for a nameserver at a time.
pub const DNS_QUESTIONS: usize = 1024;
/// Those of one workload, user or address.
pub const DNS_QUESTIONS_EACH: usize = DNS_QUESTIONS / 4;
/// TCP connections of captured DNS at a time.
pub const DNS_CONNECTIONS: usize = 256;
/// Those of one workload, user or address.
pub const DNS_CONNECTIONS_EACH: usize = DNS_CONNECTIONS / 4;
/// Longest question of captured DNS by UDP; longer ones are for TCP.
pub const DNS_DATAGRAM_BYTES: usize = 4096;
/// Longest DNS message (RFC 1035 4.2.2).
pub const DNS_MESSAGE_BYTES: usize = 65_535;
/// Addresses in one answer of captured DNS.
pub const DNS_ADDRESSES: usize = 64;
/// How long one nameserver may take to answer captured DNS, in milliseconds.
pub const DNS_ANSWER_MS: u64 = 2000;
/// How long a TCP connection of captured DNS may be silent, in milliseconds.
pub const DNS_IDLE_MS: u64 = 10_000;
/// How long the chain of an own SVID that was verified counts as verified between workloads of one process, in seconds. Its
/// validity and the revocations are looked at for each connection.
pub const OWN_SVID_VERIFIED_S: u64 = 60;
/// Chains of peers that count as verified, for each set of roots. Their validity and the revocations are looked at for each
/// connection.
pub const VERIFIED_CHAINS: usize = 1024;

const _: () = assert!(VERIFIED_CHAINS <= 65_536);
const _: () = assert!(REVOCATIONS_BYTES < NEWS_MESSAGE_BYTES);
/// Configuration that an appliance is given: all its files together, in bytes.
pub const APPLIANCE_CONFIG_BYTES: u64 = 4 << 20;
/// Files of it.
pub const APPLIANCE_CONFIG_FILES: usize = 1024;
/// Longest name of such a file; what an old tar header holds.
pub const APPLIANCE_NAME_BYTES: usize = 255;
/// Modules that an appliance loads.
pub const APPLIANCE_MODULES: usize = 256;

const _: () = assert!(6 * (NEWS_MESSAGE_BYTES as u64) < TRUST_BYTES);
const _: () = assert!(TARGET_BYTES < HEAD_BYTES);
const _: () = assert!(HELD_BODY_BYTES < HELD_BODIES_BYTES);
const _: () = assert!(H2_TASKS > H2_STREAMS as usize);
const _: () = assert!(H2_EDGE_CHARGED_BYTES * H2_EDGE_STREAMS < H2_EDGE_CONNECTION_WINDOW_BYTES);
const _: () = assert!(H2_CHARGED_BYTES * H2_STREAMS < H2_CONNECTION_WINDOW_BYTES);
const _: () = assert!(H2_EDGE_STREAM_WINDOW_BYTES >= 65_535);
const _: () = assert!(HBONE_STREAM_WINDOW_BYTES < HBONE_CONNECTION_WINDOW_BYTES);
const _: () = assert!(HBONE_CHARGED_BYTES < HBONE_STREAM_WINDOW_BYTES);
const _: () = assert!(HBONE_ANSWER_LIST_BYTES <= HBONE_HEADER_LIST_BYTES);
const _: () = assert!(H2_RESET_COST < H2_IDLE_FRAMES);
const _: () = assert!(TOKEN_BYTES < HEAD_BYTES);
const _: () = assert!(COOKIE_BYTES < 4096);
const _: () = assert!(REDEEMS_PER_CLIENT < REDEEMS_WAITING);
const _: () = assert!(SESSION_COOKIES + 2 * LOGIN_FLOWS < LOGIN_COOKIES);
const _: () = assert!(TOKEN_BYTES < WORKLOAD_API_REQUEST_BYTES);
const _: () = assert!(WORKLOAD_API_CONNECTIONS_PER_USER < WORKLOAD_API_CONNECTIONS);
const _: () =
    assert!(USER_TIMEOUT_MS >= 1000 * (KEEPALIVE_S + KEEPALIVE_INTERVAL_S * KEEPALIVE_PROBES));
const _: () = assert!(FIRST_BYTE_MS < RESET_WAIT_MS);
const _: () = assert!(SOURCE_COUNTERS < SOURCE_COUNTERS_MOST);
const _: () = assert!(CONNECT_MS < CONNECT_ALL_MS);
