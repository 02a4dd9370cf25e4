//! Leads that outlive their deploy: for peers that go on calling an address that is gone, until they start anew or the next deploy
//! takes the leads over.

use handover_core::observation::Observation;
use handover_core::redirect::peers::{AddressLead, PeerTable};
use handover_host::protocol::{PeersCounted, PeersLoaded, SessionOp};

use crate::deploy::context::Deploy;
use crate::engine::Role;
use crate::failure::{Exit, Failure, Result};
use crate::helper::Helper;

/// The leads that an earlier deploy has kept; none if it kept none.
pub(crate) async fn kept(deploy: &Deploy, observed: &Observation) -> Result<Vec<AddressLead>> {
    let Some(keeper) = observed.keeper.as_ref().filter(|keeper| keeper.running) else {
        return Ok(Vec::new());
    };
    let helper = Helper::new("keeper", deploy.engine.attach(&keeper.id).await?);
    let counted: PeersCounted = helper.ask(SessionOp::PeerCounters { sandboxes: Vec::new() }).await?;
    let leads = counted.peers.into_iter().flat_map(|peer| peer.leads).filter(|lead| lead.led);
    Ok(leads.map(|lead| AddressLead { from: lead.from, to: lead.to }).collect())
}

/// Ends an earlier deploy's keeper: its leads are held by this deploy now. May be repeated.
pub(crate) async fn end_keeper(deploy: &Deploy, observed: &Observation) -> Result<()> {
    match &observed.keeper {
        Some(keeper) => deploy.engine.remove_all(std::slice::from_ref(&keeper.id)).await,
        None => Ok(()),
    }
}

/// Keeps these tables beyond this deploy. The engine removes the keeper when it ends.
pub(crate) async fn keep(deploy: &Deploy, tables: Vec<PeerTable>) -> Result<()> {
    let project = &deploy.project.name;
    let id = deploy.engine.create_ours(Role::Keeper, project, &deploy.image, "").await?.ok_or_else(|| {
        Failure::new(Exit::Host, format!("the container name {} is taken", Role::Keeper.container_name(project)))
    })?;
    let helper = Helper::new("keeper", deploy.engine.start_ours(&id).await?);
    let loaded: Result<PeersLoaded> = helper.ask(SessionOp::Peers { tables }).await;
    if loaded.is_err() {
        deploy.engine.remove_all(&[id]).await?;
    }
    loaded.map(drop)
}
