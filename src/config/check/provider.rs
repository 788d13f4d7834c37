//! `[[extensionProvider]]`.

use crate::config::check::Context;
use crate::config::check::authorizer::authorizer;
use crate::config::check::url::UrlRules;
use crate::config::checked::{Mesh, OidcProvider, Secret, Subject};
use crate::config::place::At;
use crate::config::raw::File;
use crate::config::raw::mesh::{ExtensionProvider, Oidc};
use crate::config::read::Table as _;

const REDIRECT_PATH: &str = "/oidc/callback";
const LOGOUT_PATH: &str = "/oidc/logout";

/// Every `[[extensionProvider]]`.
pub(crate) fn providers(files: &[File], mesh: &mut Mesh, cx: &mut Context<'_>) {
    for raw in files
        .iter()
        .flat_map(|f| f.extension_provider.iter().flatten())
    {
        let kinds = [raw.oidc.is_some(), raw.http.is_some(), raw.grpc.is_some()];
        match kinds.into_iter().filter(|is| *is).count() {
            // One that is there and could not be read is a problem of its own.
            0 if raw.whole() => cx.out.error(
                &raw.name.place,
                "expected one of `oidc`, `envoyExtAuthzHttp`, `envoyExtAuthzGrpc`",
            ),
            0 | 1 => {}
            _ => cx.out.error(
                &raw.name.place,
                "`oidc`, `envoyExtAuthzHttp` and `envoyExtAuthzGrpc` exclude each other",
            ),
        }
        if let Some(oidc) = &raw.oidc {
            let provider = provider(raw, oidc, cx);
            mesh.oidc_providers.push(provider);
        }
        let authorizer = authorizer(raw, mesh, cx);
        mesh.authorizers.extend(authorizer);
    }
}

fn provider(raw: &ExtensionProvider, oidc: &Oidc, cx: &mut Context<'_>) -> OidcProvider {
    let allow_http_loopback = oidc.allow_http_loopback.unwrap_or(false);
    let rules = UrlRules::provider(allow_http_loopback);
    cx.fetched_url(&oidc.issuer.place, &oidc.issuer, rules);
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
        (None, Some(at)) => {
            let secret = Secret::File(cx.path(at));
            let subject = Subject::Secret(secret.clone());
            cx.out.name_file(&at.place, subject);
            Some(secret)
        }
        (None, None) => None,
    }
}
