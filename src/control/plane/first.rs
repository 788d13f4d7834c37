//! What a start waits for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::PlaneError;
use crate::control::svid::SvidSet;
use crate::identity::svid::WantedSvid;

/// How long the first identities may take, in seconds.
const ALL_S: u64 = 60;
/// How long the next one may take once there is one.
const NEXT: Duration = Duration::from_secs(10);

/// Waits for the identities. One that is refused, as what is revoked is, does not keep the others from being served;
/// without any nothing can be. Those that are missing are asked for all the same, and what needs one is refused until it
/// is there.
pub(super) async fn identities(
    svids: &mut watch::Receiver<Arc<SvidSet>>,
    wanted: &[WantedSvid],
) -> Result<(), PlaneError> {
    let end = Instant::now() + Duration::from_secs(ALL_S);
    loop {
        let set = Arc::clone(&svids.borrow_and_update());
        let mut missing = wanted
            .iter()
            .filter(|want| !set.by_id.contains_key(&want.id))
            .peekable();
        if missing.peek().is_none() {
            return Ok(());
        }
        let some = !set.by_id.is_empty();
        let until = if some {
            end.min(Instant::now() + NEXT)
        } else {
            end
        };
        match timeout_at(until, svids.changed()).await {
            Ok(Ok(())) => {}
            Err(_elapsed) if some => {
                for want in missing {
                    tracing::error!(id = %want.id, "no SVID yet; what needs it is refused, the rest starts without it");
                }
                return Ok(());
            }
            Ok(Err(_)) | Err(_) => return Err(PlaneError::NoIdentities(ALL_S)),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::UnixTime;

    use super::*;
    use crate::control::authority::Authority;
    use crate::vocab::spiffe::{SpiffeId, TrustDomain};

    fn want(name: &str) -> WantedSvid {
        WantedSvid {
            id: SpiffeId::parse(&format!("spiffe://cluster.local/ns/default/sa/{name}")).unwrap(),
            dns_names: Vec::new(),
        }
    }

    /// A set with the SVIDs of `names`.
    fn set(names: &[&str]) -> Arc<SvidSet> {
        let now = UnixTime::now();
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let authority = Authority::in_memory(domain, now).unwrap();
        let svid = |name: &&str| {
            let id = want(name).id;
            let svid = authority.issue(&id, &[], NEXT, now).unwrap();
            (id, Arc::new(svid))
        };
        Arc::new(SvidSet {
            by_id: names.iter().map(svid).collect(),
            ..SvidSet::default()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn one_identity_that_is_refused_does_not_stop_the_others() {
        let wanted = [want("a"), want("b"), want("c")];
        let (tell, mut told) = watch::channel(set(&[]));
        let began = Instant::now();
        let waiting = async {
            let done = identities(&mut told, &wanted).await;
            (done, began.elapsed())
        };
        let telling = async {
            // Each of them is waited for anew.
            tokio::time::sleep(Duration::from_secs(40)).await;
            tell.send_replace(set(&["b"]));
            tokio::time::sleep(NEXT / 2).await;
            tell.send_replace(set(&["b", "c"]));
        };
        let ((done, took), ()) = tokio::join!(waiting, telling);
        assert!(done.is_ok(), "{done:?}");
        assert_eq!(took.as_secs(), 40 + 5 + 10);
        // All of them: nothing is waited for.
        tell.send_replace(set(&["a", "b", "c"]));
        assert!(identities(&mut told, &wanted).await.is_ok());
        assert_eq!(began.elapsed(), took);
    }

    #[tokio::test(start_paused = true)]
    async fn without_any_identity_there_is_no_start() {
        let (_tell, mut told) = watch::channel(set(&[]));
        let began = Instant::now();
        let done = identities(&mut told, &[want("a")]).await;
        assert!(
            matches!(done, Err(PlaneError::NoIdentities(ALL_S))),
            "{done:?}"
        );
        assert_eq!(began.elapsed().as_secs(), ALL_S);
        assert!(
            identities(&mut told, &[]).await.is_ok(),
            "nothing is wanted"
        );
    }
}
