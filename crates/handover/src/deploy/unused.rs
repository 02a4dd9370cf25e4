//! After rolling: the old containers' addresses are given up once nobody calls them any more.

use std::time::Duration;

use super::kept_leads;
use super::steps::Deploy;
use super::switch::Switch;
use crate::engine::Role;
use crate::event::{Event, Step};
use crate::failure::{Failure, Result};

/// No proxy that finds containers by itself takes longer to notice; who calls an address then will go on doing so.
const LONGEST: Duration = Duration::from_secs(10);

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

    /// Waits until nobody uses the addresses that are gone. For those who still do after as long as any proxy needs to notice, the
    /// leads are kept beyond this deploy, and they are named.
    pub(super) async fn until_unused(&self, switch: &Switch) -> Result<()> {
        let _waiting = self.events.waiting();
        let stragglers = self.events.step(Step::Unused, switch.until_unused(LONGEST)).await?;
        if stragglers.is_empty() {
            return Ok(());
        }
        kept_leads::keep(self, switch.tables_for(&stragglers).await).await?;
        let keeper = Role::Keeper.container_name(&self.project.name);
        for one in stragglers {
            self.events.emit(Event::Note(format!(
                "{} goes on calling {}, where a container was that is gone ({} connections were led on): it resolves names once. \
                 Container {keeper} leads it on until it is restarted; restart it when it suits, or let it resolve names anew",
                one.peer, one.address, one.connections
            )));
        }
        Ok(())
    }
}
