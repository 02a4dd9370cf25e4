//! After rolling: the old containers' addresses are given up once nobody calls them any more.

use super::steps::Deploy;
use super::switch::Switch;
use crate::event::{Event, Step};
use crate::failure::{Failure, Result};

impl Deploy {
    /// Lets every nginx among the peers resolve its names anew: it does so only when it reads its configuration. One whose
    /// configuration is broken is left alone, and named.
    pub(super) async fn reload_nginx(&self, switch: &Switch) {
        for (id, name) in switch.nginx().await {
            let reloaded = async {
                let (code, printed) = self.engine.exec(&id, &["nginx", "-t"]).await?;
                if code != 0 {
                    return Ok::<_, Failure>(Err(printed));
                }
                let (code, printed) = self.engine.exec(&id, &["nginx", "-s", "reload"]).await?;
                Ok(if code == 0 { Ok(()) } else { Err(printed) })
            };
            let why = match reloaded.await {
                Ok(Ok(())) => {
                    self.events.emit(Event::Reloaded { peer: name });
                    continue;
                }
                Ok(Err(printed)) => printed.trim().replace('\n', "; "),
                Err(failure) => failure.why.unwrap_or(failure.what),
            };
            self.events.emit(Event::Note(format!(
                "{name} runs nginx, which resolves names once, and it cannot be reloaded ({why}): reload it, or it goes on \
                 calling an address that is gone"
            )));
        }
    }

    /// Waits until nobody uses the addresses that are gone, and names those who still do at the deadline.
    pub(super) async fn until_unused(&self, switch: &Switch) -> Result<()> {
        let _waiting = self.events.waiting();
        let stragglers = self.events.step(Step::Unused, switch.until_unused(self.drain_deadline())).await?;
        for one in stragglers {
            self.events.emit(Event::Note(format!(
                "{} goes on calling {}, where a container was that is gone ({} connections were led on): it has resolved the \
                 name once; restart it or let it resolve names anew, because the lead ends now",
                one.peer, one.address, one.connections
            )));
        }
        Ok(())
    }
}
