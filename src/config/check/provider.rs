//! `[[extensionProvider]]`, and URLs that keys are fetched from.

use url::{Host, Url};

use crate::config::check::Context;
use crate::config::checked::{Mesh, OidcProvider, Secret};
use crate::config::place::{At, Place};
use crate::config::raw::File;
use crate::config::raw::mesh::{ExtensionProvider, Oidc};

const REDIRECT_PATH: &str = "/oidc/callback";
const LOGOUT_PATH: &str = "/oidc/logout";

/// Every `[[extensionProvider]]`.
pub(crate) fn providers(files: &[File], mesh: &mut Mesh, cx: &mut Context<'_>) {
    for raw in files
        .iter()
        .flat_map(|f| f.extension_provider.iter().flatten())
    {
        let provider = provider(raw, cx);
        mesh.oidc_providers.push(provider);
    }
}

fn provider(raw: &ExtensionProvider, cx: &mut Context<'_>) -> OidcProvider {
    let oidc = &raw.oidc;
    let allow_http_loopback = oidc.allow_http_loopback.unwrap_or(false);
    cx.fetched_url(&oidc.issuer.place, &oidc.issuer, allow_http_loopback);
    let path = |cx: &mut Context<'_>, at: Option<&At<String>>, default: &str| {
        let valid = |p: &str| {
            p.starts_with('/')
                && p.bytes()
                    .all(|b| (0x21..0x7f).contains(&b) && !b"?#{}*\\".contains(&b))
        };
        if let Some(at) = at.filter(|at| !valid(at)) {
            cx.out.error(
                &at.place,
                format!("`{}` is not a path such as `{default}`", at.escape_debug()),
            );
        }
        at.map_or(default, |at| &at.value).to_owned()
    };
    let redirect_path = path(cx, oidc.redirect_path.as_ref(), REDIRECT_PATH);
    let logout_path = path(cx, oidc.logout_path.as_ref(), LOGOUT_PATH);
    if redirect_path == logout_path {
        let at = oidc.logout_path.as_ref().or(oidc.redirect_path.as_ref());
        cx.out.error(
            at.map_or(&raw.name.place, |at| &at.place),
            "redirectPath and logoutPath are the same",
        );
    }
    let mut scopes: Vec<String> = oidc
        .scopes
        .iter()
        .flatten()
        .map(|at| at.value.clone())
        .collect();
    if scopes.is_empty() {
        scopes.push("openid".to_owned());
    }
    if let Some(first) = oidc
        .scopes
        .as_ref()
        .and_then(|s| s.first())
        .filter(|_| !scopes.iter().any(|s| s == "openid"))
    {
        cx.out
            .error(&first.place, "an OIDC login needs the scope `openid`");
    }
    OidcProvider {
        name: raw.name.value.clone(),
        issuer: oidc.issuer.value.clone(),
        client_id: oidc.client_id.clone(),
        client_secret: client_secret(oidc, cx),
        redirect_path,
        logout_path,
        scopes,
        cookie_key: oidc.cookie_key.as_ref().and_then(|at| cx.secret(at)),
        allow_http_loopback,
    }
}

fn client_secret(oidc: &Oidc, cx: &mut Context<'_>) -> Option<Secret> {
    match (&oidc.client_secret, &oidc.client_secret_file) {
        (Some(_), Some(at)) => {
            cx.out.error(
                &at.place,
                "`clientSecret` and `clientSecretFile` exclude each other",
            );
            None
        }
        (Some(at), None) => cx.secret(at),
        (None, Some(at)) => Some(Secret::File(cx.path(at))),
        (None, None) => None,
    }
}

impl Context<'_> {
    /// A URL that this process fetches: `https`, or `http` to a loopback address if `loopback_http`.
    pub(crate) fn fetched_url(&mut self, place: &Place, text: &str, loopback_http: bool) -> bool {
        let problem = url_problem(text, loopback_http);
        if let Some(problem) = problem {
            self.out
                .error(place, format!("`{}`: {problem}", text.escape_debug()));
        }
        problem.is_none()
    }
}

fn url_problem(text: &str, loopback_http: bool) -> Option<&'static str> {
    let Ok(url) = Url::parse(text) else {
        return Some("not a URL");
    };
    let loopback = match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.to_canonical().is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    match url.scheme() {
        "https" => {}
        "http" if loopback_http && loopback => {}
        "http" if loopback_http => return Some("expected https, or http to a loopback address"),
        "http" => return Some("expected https"),
        _ => return Some("expected an https URL"),
    }
    if url.host_str().is_none_or(str::is_empty) || url.port() == Some(0) {
        return Some("expected a host, and a port from 1 to 65535 if any");
    }
    let link_local = match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_link_local(),
        Some(Host::Ipv6(ip)) => ip.is_unicast_link_local(),
        Some(Host::Domain(_)) | None => false,
    };
    if link_local {
        return Some("a link-local address is where machines keep their metadata, not keys");
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Some("a user, a password or a fragment has no place here");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (text, loopback_http, valid) in [
            ("https://auth.example.com", false, true),
            ("https://auth.example.com:8443/keys?x=1", false, true),
            ("http://auth.example.com/keys", true, false),
            ("http://127.0.10.41:18081/jwks.json", true, true),
            ("http://127.0.10.41:18081/jwks.json", false, false),
            ("http://[::1]/x", true, true),
            ("http://[::ffff:127.0.0.1]/x", true, true),
            ("http://localhost/x", true, true),
            ("http://localhost.example.com/x", true, false),
            ("http://127.0.0.1@evil.example/x", true, false),
            ("https://user@auth.example.com", false, false),
            ("https://auth.example.com:0/", false, false),
            ("https://auth.example.com:99999/", false, false),
            ("https://169.254.169.254/latest", false, false),
            ("ftp://auth.example.com", false, false),
            ("auth.example.com", false, false),
            ("https://", false, false),
        ] {
            assert_eq!(url_problem(text, loopback_http).is_none(), valid, "{text}");
        }
    }
}
