//! What others ask of a sandbox's actor. It takes one order at a time, in the order in which they
//! came, so that two pauses, or a pause and a fork, can never meet. Removal is no order: it
//! outranks them all.

use std::path::PathBuf;

use model::NetworkSpec;
use tokio::sync::{mpsc, oneshot};

use super::Handle;
use super::manager::Refused;
use super::state::Phase;

/// Orders that wait. Whoever comes when there are more waits, too.
const QUEUE: usize = 16;

#[derive(Debug)]
pub(crate) enum Order {
    Pause,
    Resume,
    /// Copies this instant into the directory, which is made; the sandbox goes on as it was.
    Capture {
        to: PathBuf,
        memory: bool,
    },
    /// Puts the instant that is in the directory in the place of the present one, and pauses the
    /// sandbox there.
    RollBack {
        to: PathBuf,
    },
    /// Other rules for where it may connect to.
    Network(NetworkSpec),
}

/// An order, and who waits for its outcome.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) order: Order,
    reply: oneshot::Sender<Result<(), Refused>>,
}

pub(crate) type Receiver = mpsc::Receiver<Asked>;

pub(crate) fn channel() -> (mpsc::Sender<Asked>, Receiver) {
    mpsc::channel(QUEUE)
}

impl Asked {
    /// Nobody waiting any more is fine: the order is carried out all the same.
    pub(crate) fn answer(self, outcome: Result<(), Refused>) {
        let _ = self.reply.send(outcome);
    }
}

impl Handle {
    /// Answers when the order has been carried out, or refused; at once when the sandbox is to be
    /// removed.
    pub(crate) async fn ask(&self, order: Order) -> Result<(), Refused> {
        let (reply, outcome) = oneshot::channel();
        let removed = || Refused::of(&Phase::Removing);
        let asked = async {
            self.orders
                .send(Asked { order, reply })
                .await
                .map_err(|_| removed())?;
            outcome.await.map_err(|_| removed())?
        };
        self.unless_removed(asked)
            .await
            .unwrap_or_else(|| Err(removed()))
    }
}
