//! `destinationRule.trafficPolicy`: how an endpoint is chosen, and which is left out.

use crate::config::place::At;
use crate::config::read::{Count, Millis, table, words};
use crate::upstream::balance::Simple;

table! {
    /// `destinationRule.trafficPolicy.loadBalancer`
    LoadBalancer {
        simple: Option<At<Simple>> = "simple",
        consistent_hash: Option<ConsistentHash> = "consistentHash",
        locality: Option<LocalityLb> = "localityLbSetting",
    }
    later ["warmup", "warmupDurationSecs"]
}

words!(Simple, "one of ROUND_ROBIN, LEAST_REQUEST, RANDOM", "ROUND_ROBIN" => Self::RoundRobin,
    "LEAST_REQUEST" => Self::LeastRequest, "RANDOM" => Self::Random, "UNSPECIFIED" => Self::RoundRobin);

table! {
    /// `loadBalancer.consistentHash`
    ConsistentHash {
        header: Option<At<String>> = "httpHeaderName",
        cookie: Option<HttpCookie> = "httpCookie",
        source_ip: Option<At<bool>> = "useSourceIp",
        query: Option<At<String>> = "httpQueryParameterName",
        ring: Option<RingHash> = "ringHash",
        maglev: Option<Maglev> = "maglev",
    }
    later ["minimumRingSize"]
}

table! {
    /// `consistentHash.httpCookie`
    HttpCookie {
        name: At<String> = "name",
        path: Option<At<String>> = "path",
        ttl: Option<At<Millis>> = "ttl",
    }
    later ["attributes"]
}

table! {
    /// `consistentHash.ringHash`
    RingHash {
        minimum: Option<At<u32>> = "minimumRingSize",
    }
}

table! {
    /// `consistentHash.maglev`
    Maglev {
        size: Option<At<u32>> = "tableSize",
    }
}

table! {
    /// `loadBalancer.localityLbSetting`
    LocalityLb {
        enabled: Option<bool> = "enabled",
        failover: Option<Vec<Failover>> = "failover",
    }
    later ["distribute", "failoverPriority"]
}

table! {
    /// `localityLbSetting.failover[]`
    Failover {
        from: At<String> = "from",
        to: At<String> = "to",
    }
}

table! {
    /// `destinationRule.trafficPolicy.outlierDetection`
    OutlierDetection {
        consecutive_failures: Option<Count> = "consecutiveLocalOriginFailures",
        consecutive_5xx: Option<Count> = "consecutive5xxErrors",
        consecutive_gateway: Option<Count> = "consecutiveGatewayErrors",
        interval: Option<At<Millis>> = "interval",
        base_ejection_time: Option<At<Millis>> = "baseEjectionTime",
        max_ejection_percent: Option<At<Count>> = "maxEjectionPercent",
        min_health_percent: Option<At<Count>> = "minHealthPercent",
    }
    later ["consecutiveErrors", "splitExternalLocalOriginErrors"]
}

table! {
    /// `destinationRule.trafficPolicy.connectionPool`
    ConnectionPool {
        tcp: Option<PoolTcp> = "tcp",
        http: Option<PoolHttp> = "http",
    }
}

table! {
    /// `connectionPool.tcp`
    PoolTcp {
        max_connections: Option<At<u32>> = "maxConnections",
        connect_timeout: Option<At<Millis>> = "connectTimeout",
        idle_timeout: Option<At<Millis>> = "idleTimeout",
    }
    later ["tcpKeepalive", "maxConnectionDuration"]
}

table! {
    /// `connectionPool.http`
    PoolHttp {
        max_requests: Option<At<u32>> = "http2MaxRequests",
        max_pending: Option<At<u32>> = "http1MaxPendingRequests",
        requests_per_connection: Option<At<u32>> = "maxRequestsPerConnection",
        max_retries: Option<At<u32>> = "maxRetries",
        idle_timeout: Option<At<Millis>> = "idleTimeout",
    }
    later ["h2UpgradePolicy", "useClientProtocol", "maxConcurrentStreams"]
}
