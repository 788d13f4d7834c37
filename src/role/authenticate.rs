//! What the tokens of a request prove at all enforcement points that judge it.

use http::StatusCode;

use crate::jwt::model::KeySource;
use crate::jwt::{HeaderEdits, TokenError, TokenOutcome, TokenRules, is_cors_preflight};
use crate::policy::Request;
use crate::role::plan::Plan;
use crate::vocab::path::{CanonicalPath, PathNormalization};

/// Why a request does not come as far as authorization.
#[derive(Debug)]
pub enum TokenRefused {
    /// A token that does not verify.
    Invalid(InvalidToken),
    /// Without the token that stood in it, the target is no path.
    Target,
}

/// A token that does not verify.
#[derive(Clone, Debug)]
pub struct InvalidToken {
    /// 401, or 403 if only the audience is wrong.
    pub status: StatusCode,
    /// Response body.
    pub text: &'static str,
    /// Which rule it broke.
    pub error: TokenError,
    /// The source whose keys do not know the token's `kid`.
    pub unknown_kid: Option<KeySource>,
}

/// Verifies what the request presents, by `verify`, at each enforcement point of the plan; the claims of the last one that
/// saw a token count. What only verified claims may set, and what is not to be forwarded, is taken out of the request.
///
/// # Errors
/// `TokenRefused`.
pub fn tokens(
    plan: &Plan<'_>,
    request: &mut Request,
    mode: PathNormalization,
    mut verify: impl FnMut(&TokenRules, &Request) -> TokenOutcome,
) -> Result<(), TokenRefused> {
    // The token of a session is looked at in any case: the rules may say that it does not go upstream.
    if is_cors_preflight(&request.method, &request.headers) && request.claims.is_none() {
        without_tokens(plan, request);
        return Ok(());
    }
    // All look at the request as it came: what one of them takes out, another may refuse.
    let mut changes = Vec::new();
    for enforcement in plan.enforcements.iter().filter(|e| !e.tokens.is_empty()) {
        let edits = match verify(&enforcement.tokens, request) {
            TokenOutcome::Anonymous { edits } => edits,
            TokenOutcome::Valid { claims, edits } => {
                request.claims = Some(claims);
                edits
            }
            TokenOutcome::Invalid {
                status,
                text,
                error,
                unknown_kid,
            } => {
                return Err(TokenRefused::Invalid(InvalidToken {
                    status: StatusCode::from_u16(status).unwrap_or(StatusCode::UNAUTHORIZED),
                    text,
                    error,
                    unknown_kid,
                }));
            }
        };
        if !edits.is_empty() {
            changes.push(edits);
        }
    }
    for edits in changes {
        edits.apply(&mut request.headers);
        let target: Option<String> = request.path.as_ref().and_then(|p| edits.target(p));
        if let Some(target) = target {
            let again = CanonicalPath::parse(mode, &target);
            request.path = Some(again.map_err(|_e| TokenRefused::Target)?);
        }
    }
    Ok(())
}

/// Where tokens are not looked at, what only verified claims may set is not believed either.
pub fn without_tokens(plan: &Plan<'_>, request: &mut Request) {
    let rules = plan.enforcements.iter();
    let headers = rules.flat_map(|e| e.tokens.output_headers());
    HeaderEdits {
        remove: headers.cloned().collect(),
        ..HeaderEdits::default()
    }
    .apply(&mut request.headers);
}
