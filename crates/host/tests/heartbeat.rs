//! A session whose other end has stopped to say that it is there. Needs root.

#[allow(dead_code)] // other tests use the rest
mod support;

use std::time::{Duration, Instant};

use handover_host::protocol::SILENCE;
use serde_json::json;
use support::{Helper, Outcome};

#[test]
fn a_session_ends_when_its_heartbeat_stops_and_one_without_goes_on() -> Outcome {
    let mut without = Helper::start(&["session"])?;
    let mut session = Helper::start(&["session"])?;
    assert_eq!(session.ask(json!("heartbeat"))?, json!({}));
    let began = Instant::now();
    // Its input stays open, as that of a machine that is gone does.
    let ended = session.child.wait()?;
    assert!(ended.success(), "{ended}");
    let after = began.elapsed();
    assert!(after >= SILENCE - Duration::from_secs(1) && after < SILENCE + Duration::from_secs(5), "{after:?}");
    assert!(without.ask(json!({"listeners": {}}))?["listeners"].is_array());
    Ok(())
}
