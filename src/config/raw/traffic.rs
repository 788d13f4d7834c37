//! `destinationRule.trafficPolicy`: how an endpoint is chosen, and which is left out.

use crate::config::place::At;
use crate::config::read::{Count, Millis, table, words};
use crate::upstream::balance::Simple;

table! {
    /// `destinationRule.trafficPolicy.loadBalancer`
    LoadBalancer {
        /// How one is taken of those that are equally near.
        /// Default: that of a rule for more hosts, else ROUND_ROBIN
        /// Example: `"ROUND_ROBIN"`
        simple: Option<At<Simple>> = "simple",
        /// The same endpoint for the same key.
        consistent_hash: Option<ConsistentHash> = "consistentHash",
        /// Endpoints nearby come first.
        locality: Option<LocalityLb> = "localityLbSetting",
    }
    later ["warmup", "warmupDurationSecs"]
}

words!(Simple, "one of ROUND_ROBIN, LEAST_REQUEST, RANDOM", "ROUND_ROBIN" => Self::RoundRobin,
    "LEAST_REQUEST" => Self::LeastRequest, "RANDOM" => Self::Random, "UNSPECIFIED" => Self::RoundRobin);

table! {
    /// `loadBalancer.consistentHash`
    ConsistentHash {
        /// The key is a header field.
        /// Example: `"x-user"`
        header: Option<At<String>> = "httpHeaderName",
        /// The key is a cookie.
        cookie: Option<HttpCookie> = "httpCookie",
        /// The key is the client's address.
        /// Example: `true`
        source_ip: Option<At<bool>> = "useSourceIp",
        /// The key is a query parameter.
        /// Example: `"user"`
        query: Option<At<String>> = "httpQueryParameterName",
        /// The endpoint that wins a slot, by weight.
        ring: Option<RingHash> = "ringHash",
        /// Maglev's table.
        maglev: Option<Maglev> = "maglev",
    }
    later ["minimumRingSize"]
}

table! {
    /// `consistentHash.httpCookie`
    HttpCookie {
        /// Name of the cookie.
        /// Example: `"cart"`
        name: At<String> = "name",
        /// Its path, when it is set here.
        /// Example: `"/"`
        path: Option<At<String>> = "path",
        /// Sets it, where a request has none, for this time; 0s for as long as the browser runs.
        /// Example: `"1h"`
        ttl: Option<At<Millis>> = "ttl",
    }
    later ["attributes"]
}

table! {
    /// `consistentHash.ringHash`
    RingHash {
        /// Slots at least, at most 65536.
        /// Default: `1024`
        minimum: Option<At<u32>> = "minimumRingSize",
    }
}

table! {
    /// `consistentHash.maglev`
    Maglev {
        /// Size of the table, a prime of at most 65537.
        /// Default: `65537`
        size: Option<At<u32>> = "tableSize",
    }
}

table! {
    /// `loadBalancer.localityLbSetting`
    LocalityLb {
        /// Whether endpoints nearby come first.
        /// Default: `true`
        enabled: Option<bool> = "enabled",
        /// Which region takes over from which.
        failover: Option<Vec<Failover>> = "failover",
    }
    later ["distribute", "failoverPriority"]
}

table! {
    /// `localityLbSetting.failover[]`
    Failover {
        /// Region.
        /// Example: `"eu"`
        from: At<String> = "from",
        /// Region that takes over.
        /// Example: `"us"`
        to: At<String> = "to",
    }
}

table! {
    /// `destinationRule.trafficPolicy.outlierDetection`
    OutlierDetection {
        /// Failed connects in a row; 0 turns it off.
        /// Default: `3`
        consecutive_failures: Option<Count> = "consecutiveLocalOriginFailures",
        /// Answers with a status from 500 on in a row; 0 turns it off.
        /// Default: `5`
        consecutive_5xx: Option<Count> = "consecutive5xxErrors",
        /// Answers with 502, 503 or 504 in a row; 0 turns it off.
        /// Default: `0`
        consecutive_gateway: Option<Count> = "consecutiveGatewayErrors",
        /// Time in which the failures in a row must fall.
        /// Default: any
        /// Example: `"10s"`
        interval: Option<At<Millis>> = "interval",
        /// How long an endpoint is left out, times how often it was.
        /// Default: `"5s"`
        base_ejection_time: Option<At<Millis>> = "baseEjectionTime",
        /// Share of the endpoints that may be left out.
        /// Default: `100`
        max_ejection_percent: Option<At<Count>> = "maxEjectionPercent",
        /// Share of healthy endpoints below which none is left out.
        /// Default: `0`
        min_health_percent: Option<At<Count>> = "minHealthPercent",
    }
    later ["consecutiveErrors", "splitExternalLocalOriginErrors"]
}

table! {
    /// `destinationRule.trafficPolicy.connectionPool`
    ConnectionPool {
        /// Limits of connections.
        tcp: Option<PoolTcp> = "tcp",
        /// Limits of requests.
        http: Option<PoolHttp> = "http",
    }
}

table! {
    /// `connectionPool.tcp`
    PoolTcp {
        /// Connections at a time; not where requests share connections.
        /// Default: no limit
        /// Example: `1000`
        max_connections: Option<At<u32>> = "maxConnections",
        /// How long it may take to connect, at most 30s.
        /// Default: 10 seconds
        /// Example: `"2s"`
        connect_timeout: Option<At<Millis>> = "connectTimeout",
        /// How long nothing may move on a connection of bytes, either way.
        /// Default: no limit
        /// Example: `"1h"`
        idle_timeout: Option<At<Millis>> = "idleTimeout",
    }
    later ["tcpKeepalive", "maxConnectionDuration"]
}

table! {
    /// `connectionPool.http`
    PoolHttp {
        /// Requests at a time.
        /// Default: no limit
        /// Example: `1000`
        max_requests: Option<At<u32>> = "http2MaxRequests",
        /// Requests that wait for a connection at a time.
        /// Default: no limit
        /// Example: `1024`
        max_pending: Option<At<u32>> = "http1MaxPendingRequests",
        /// Requests of one connection; 0 is any number.
        /// Default: any number
        /// Example: `1000`
        requests_per_connection: Option<At<u32>> = "maxRequestsPerConnection",
        /// Requests that are sent once more at a time.
        /// Default: no limit
        /// Example: `100`
        max_retries: Option<At<u32>> = "maxRetries",
        /// How long a connection is kept without a request.
        /// Default: 60 seconds
        /// Example: `"30s"`
        idle_timeout: Option<At<Millis>> = "idleTimeout",
    }
    later ["h2UpgradePolicy", "useClientProtocol", "maxConcurrentStreams"]
}

table! {
    /// `destinationRule.trafficPolicy.healthCheck`, which Istio does not have: the words are Envoy's
    HealthCheck {
        /// From the beginning of one check to that of the next, 10ms to 24h.
        /// Default: `"10s"`
        interval: Option<At<Millis>> = "interval",
        /// How long a check may take, 10ms to 24h; the next one begins after it.
        /// Default: `"1s"`
        timeout: Option<At<Millis>> = "timeout",
        /// Checks in a row that fail, after which an endpoint is left out.
        /// Default: `3`
        unhealthy: Option<At<Count>> = "unhealthyThreshold",
        /// Checks in a row that succeed, after which it is back.
        /// Default: `2`
        healthy: Option<At<Count>> = "healthyThreshold",
        /// Asks by HTTP, at the ports that speak it.
        http: Option<HttpHealthCheck> = "httpHealthCheck",
        /// Connects, at every port.
        tcp: Option<TcpHealthCheck> = "tcpHealthCheck",
        /// Asks grpc.health.v1, at the ports of HTTP2 and GRPC.
        grpc: Option<GrpcHealthCheck> = "grpcHealthCheck",
    }
    later ["initialJitter", "intervalJitter", "intervalJitterPercent", "altPort", "reuseConnection", "noTrafficInterval",
        "noTrafficHealthyInterval", "unhealthyInterval", "unhealthyEdgeInterval", "healthyEdgeInterval"]
}

table! {
    /// `healthCheck.httpHealthCheck`
    HttpHealthCheck {
        /// What is asked for.
        /// Example: `"/healthz"`
        path: At<String> = "path",
        /// The host that is asked for.
        /// Default: the first host of the service
        /// Example: `"api.example.com"`
        host: Option<At<String>> = "host",
        /// `GET` or `HEAD`.
        /// Default: `"GET"`
        method: Option<At<CheckMethod>> = "method",
        /// Which answers are good.
        /// Default: 200 alone
        expected: Option<Vec<StatusRange>> = "expectedStatuses",
    }
    later ["send", "receive", "requestHeadersToAdd", "requestHeadersToRemove", "serviceNameMatcher",
        "retriableStatuses", "codecClientType"]
}

/// `httpHealthCheck.method`: what asks and changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CheckMethod {
    Get,
    Head,
}

words!(CheckMethod, "GET or HEAD", "GET" => Self::Get, "HEAD" => Self::Head);

table! {
    /// `httpHealthCheck.expectedStatuses[]`
    StatusRange {
        /// The first status, 100 to 599.
        /// Example: `200`
        start: At<u32> = "start",
        /// The one after the last, at most 600.
        /// Example: `300`
        end: At<u32> = "end",
    }
}

table! {
    /// `healthCheck.tcpHealthCheck`
    TcpHealthCheck {
    }
    later ["send", "receive", "proxyProtocolConfig"]
}

table! {
    /// `healthCheck.grpcHealthCheck`
    GrpcHealthCheck {
        /// The service whose state is asked for.
        /// Default: the server as a whole
        /// Example: `"shop.Ledger"`
        service_name: Option<At<String>> = "serviceName",
        /// `:authority` of the question.
        /// Default: the first host of the service
        /// Example: `"ledger.example.com"`
        authority: Option<At<String>> = "authority",
    }
    later ["initialMetadata"]
}
