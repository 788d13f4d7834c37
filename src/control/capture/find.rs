//! Whose control group a number is, for the data cores: looked up beside the control thread, and for all who wait in one
//! walk, so that a user who makes groups holds up neither it nor others.

use std::collections::BTreeSet;

use tokio::sync::{mpsc, oneshot};

use crate::control::ask;
use crate::control::capture::cgroup::paths_of;

/// The number of a group, and where its path goes; `None` if there is no such group.
pub type Sought = (u64, oneshot::Sender<Option<String>>);

/// Answers until nobody can ask any more.
pub async fn find(mut asked: mpsc::Receiver<Sought>) {
    let mut waiting: Vec<Sought> = Vec::new();
    while asked.recv_many(&mut waiting, ask::WAITING).await > 0 {
        // A core that gave up waiting has refused the connection.
        waiting.retain(|(_, answer)| !answer.is_closed());
        let ids: BTreeSet<u64> = waiting.iter().map(|(id, _)| *id).collect();
        let walk = tokio::task::spawn_blocking(move || paths_of(&ids));
        let found = walk.await.unwrap_or_default();
        for (id, answer) in waiting.drain(..) {
            drop(answer.send(found.get(&id).cloned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::linux::fs::MetadataExt as _;

    use super::*;
    use crate::control::capture::cgroup::{Mount, mounts};

    #[tokio::test]
    async fn all_who_wait_are_answered() {
        let root = Mount::find(&mounts())
            .expect("control groups version 2 are mounted")
            .root;
        let id = std::fs::metadata(&root).unwrap().st_ino();
        let (asker, asked) = mpsc::channel(ask::WAITING);
        let mut told = Vec::new();
        for id in [id, u64::MAX, id] {
            let (answer, waits) = oneshot::channel();
            asker.try_send((id, answer)).unwrap();
            told.push(waits);
        }
        drop(asker);
        find(asked).await;
        let mut found = Vec::new();
        for waits in told {
            found.push(waits.await.unwrap());
        }
        let root = Some("/".to_owned());
        assert_eq!(found, [root.clone(), None, root]);
    }
}
