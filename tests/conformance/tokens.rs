//! Which token of a case counts: a plain model of request authentication, without signatures. The claims go to
//! the policy engine; token verification itself has its own cases and its own tests.

use ringgate::policy::{Point, attaches};
use ringgate::vocab::claims::Claims;
use serde_json::Value;

use crate::istio::{Mesh, of_kind, target};
use crate::{strings, text};

/// Seconds that `exp` and `nbf` are stretched by.
const LEEWAY: i64 = 60;

/// Claims of the request, `None` if anonymous; or the status that answers it.
pub(crate) fn claims(
    case: &Value,
    mesh: &Mesh,
    point: Option<&Point>,
) -> Result<Option<Claims>, &'static str> {
    let request = &case["request"];
    let attached = |p: &&Value| {
        point.is_none_or(|point| {
            let target = target(&p["spec"]).unwrap();
            attaches(
                &target,
                text(&p["metadata"], "namespace"),
                point,
                mesh.scope(),
            )
        })
    };
    let policies = of_kind(&case["policies"], "RequestAuthentication").filter(attached);
    let mut rules: Vec<&Value> = policies
        .flat_map(|p| p["spec"]["jwtRules"].as_array().into_iter().flatten())
        .collect();
    rules.sort_by_key(|r| text(r, "issuer"));
    let header = |name: &str| {
        let mut headers = request["headers"].as_array().into_iter().flatten();
        headers.any(|h| h[0].as_str().is_some_and(|n| n.eq_ignore_ascii_case(name)) && h[1] != "")
    };
    if text(request, "method") == "OPTIONS"
        && header("origin")
        && header("access-control-request-method")
    {
        return Ok(None);
    }
    let now = request["now"].as_i64().unwrap_or(1_763_800_000);
    let mut accepted: Option<Claims> = None;
    let mut refused = None;
    for token in request["tokens"].as_array().into_iter().flatten() {
        let looking: Vec<&Value> = rules
            .iter()
            .copied()
            .filter(|r| looks_at(r, &token["in"]))
            .collect();
        if looking.is_empty() {
            continue;
        }
        match verify(token, &looking, now) {
            Ok(claims) => {
                let same = |a: &Claims| a.request_principal() == claims.request_principal();
                if accepted.as_ref().is_some_and(|a| !same(a)) {
                    refused = Some("401");
                }
                accepted.get_or_insert(claims);
            }
            Err(status) => refused = refused.or(Some(status)),
        }
    }
    refused.map_or(Ok(accepted), Err)
}

fn verify(token: &Value, rules: &[&Value], now: i64) -> Result<Claims, &'static str> {
    let claims = token["claims"].as_object().ok_or("401")?;
    let time = |name: &str| {
        claims
            .get(name)
            .map(|v| v.as_i64().ok_or("401"))
            .transpose()
    };
    let rule = rules
        .iter()
        .find(|r| Some(text(r, "issuer")) == claims.get("iss").and_then(Value::as_str));
    let rule = rule
        .filter(|r| text(r, "jwks") != "INVALID" && text(token, "signature") != "invalid")
        .ok_or("401")?;
    let expired = time("exp")?.is_some_and(|exp| now > exp + LEEWAY);
    if expired || time("nbf")?.is_some_and(|nbf| nbf > now + LEEWAY) {
        return Err("401");
    }
    let audiences = strings(&rule["audiences"]);
    let given = match claims.get("aud") {
        Some(Value::String(one)) => vec![one.clone()],
        Some(many @ Value::Array(_)) => strings(many),
        _ => Vec::new(),
    };
    if !audiences.is_empty() && !audiences.iter().any(|a| given.contains(a)) {
        return Err("403");
    }
    Ok(Claims::new(
        claims.clone(),
        strings(&rule["spaceDelimitedClaims"]),
    ))
}

/// Whether a rule looks where the token is: its own locations, or the defaults if it names none.
fn looks_at(rule: &Value, place: &Value) -> bool {
    let (header, prefix) = match place.get("header").and_then(Value::as_str) {
        Some(header) => (header, text(place, "prefix")),
        None if place.is_object() => ("", ""),
        None => ("authorization", "Bearer "),
    };
    let query = text(place, "query");
    let cookie = text(place, "cookie");
    let own = ["fromHeaders", "fromParams", "fromCookies"]
        .iter()
        .any(|k| rule[k].as_array().is_some_and(|a| !a.is_empty()));
    if !own {
        return query == "access_token"
            || (header.eq_ignore_ascii_case("authorization")
                && prefix.eq_ignore_ascii_case("Bearer "));
    }
    let mut headers = rule["fromHeaders"].as_array().into_iter().flatten();
    headers.any(|h| {
        text(h, "name").eq_ignore_ascii_case(header) && prefix.starts_with(text(h, "prefix"))
    }) || strings(&rule["fromParams"]).iter().any(|p| p == query)
        || strings(&rule["fromCookies"]).iter().any(|c| c == cookie)
}
