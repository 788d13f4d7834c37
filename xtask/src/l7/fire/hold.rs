//! Connections that do nothing.

use std::io::{Read as _, Write as _};
use std::rc::Rc;

use anyhow::{Context as _, Result};
use tokio::task::spawn_local;

use super::h1::{Asker, OPENING};
use super::tls::Dialer;
use super::{Shot, within};

/// Opens `connections` and makes one request on each, prints `ready`, keeps them until the input ends, and then makes
/// another request on each: none of them may have been lost.
pub(super) async fn hold(shot: &Shot) -> Result<()> {
    let dialer = Dialer::new(shot, "http/1.1")?;
    let request: Rc<[u8]> = shot.http1(false).into();
    let mut held = Vec::new();
    while held.len() < shot.connections {
        let many = OPENING.min(shot.connections - held.len());
        let opening = (0..many).map(|_| {
            let (dialer, request, shot) = (dialer.clone(), Rc::clone(&request), shot.clone());
            spawn_local(async move {
                let mut asker = within(Asker::opened(&dialer, &shot, &request)).await?;
                asker.rest();
                anyhow::Ok(asker)
            })
        });
        for one in opening.collect::<Vec<_>>() {
            held.push(one.await??);
        }
    }
    println!("ready");
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    for asker in &mut held {
        let asked = within(asker.ask()).await;
        asked.context("a held connection is gone")?;
    }
    Ok(())
}
