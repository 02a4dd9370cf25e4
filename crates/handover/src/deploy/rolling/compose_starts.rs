//! Containers whose start Compose has to have asked for: those that are more than there were, and those of services for which it
//! does something only when it starts them itself (files that are in no file, `post_start`). Its call waits until we have started the
//! container, with the traffic for it led elsewhere; then Compose goes on.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use handover_core::compose::calls::name_aside;
use handover_core::observation::Container;
use tokio::sync::oneshot;

use crate::deploy::gate::ContainerEvents;
use crate::deploy::rolling::replace::{Hands, found};
use crate::engine_proxy::HeldCall;
use crate::event::DrainSummary;
use crate::failure::{Exit, Failure, Result};

impl Hands<'_> {
    /// Starts a container that is more than there were, and keeps traffic away from it until it is ready. One that fails is
    /// removed. `not_ready`: others of its service to which nothing may be led.
    pub(crate) async fn join(
        &self,
        id: &str,
        service: &str,
        not_ready: &BTreeSet<String>,
        call: HeldCall,
    ) -> Result<()> {
        let Some(other) = self.another(service, not_ready).await? else {
            // Nobody serves, so there is nothing to keep traffic at.
            call.pass();
            return Ok(());
        };
        let mut changes: ContainerEvents = self.deploy.engine.container_events(&self.deploy.project.name).boxed();
        let ports = self.deploy.used_ports(&other).await?;
        let started = self.switch.start(id, &other).await?;
        call.pass();
        match self.gate(&ports).pass(&[id.to_owned()], &mut changes).await {
            Ok(_) => {
                self.switch.free(&started).await?;
                self.routers.serves(service, &started).await
            }
            Err(failure) => {
                self.take_back(&other, id, Some(&started)).await?;
                Err(failure)
            }
        }
    }

    /// Replaces a container by one that Compose starts: Compose takes the old one for removed, and we stop and remove it once the
    /// new one has the traffic, or keep it aside. `hooks`: whether Compose has done what it does after the start; none if it does nothing.
    /// A failure before traffic has moved for good leaves the old one serving and the new one removed.
    pub(crate) async fn replace_when_compose_starts(
        &self,
        old: &Container,
        new: &str,
        call: HeldCall,
        hooks: Option<oneshot::Receiver<bool>>,
        keep: bool,
    ) -> Result<DrainSummary> {
        let engine = &self.deploy.engine;
        let started = async {
            call.pass();
            match hooks {
                None => Ok(()),
                Some(hooks) => hooks.await.ok().filter(|well| *well).map(drop).ok_or_else(|| {
                    Failure::new(Exit::DeployFailed, format!("Compose did not get {} started", old.name))
                        .because("a post_start command failed, or Compose ended")
                }),
            }
        };
        let monitor = self.deploy.project.services.get(&old.service).map_or(0.0, |service| service.update.monitor);
        let drained = self.replace(old, new, monitor, started, std::future::pending()).await?;
        engine.stop(std::slice::from_ref(&old.id)).await?;
        if keep {
            engine.rename(&old.id, &name_aside(new, &old.name)).await?;
        } else {
            engine.remove_replaced(&old.id).await?;
        }
        engine.rename(new, &old.name).await?;
        found(self.deploy, new, &old.name).await?;
        Ok(drained)
    }
}
