//! Kernels that lack what handover needs: refused before anything moves, in the kernel's words, with what works nevertheless.
//!
//! The test runs on an engine of its own, whose containers' system calls are answered as such a kernel would (`scripts/test`):
//!
//! `scripts/engines up 28-no-nftables --add-runtime lacking="$PWD/scripts/lib/runc-without-nftables" --default-runtime lacking`

use crate::bad_input::refused;
use crate::harness::{Stack, WEB};

/// A service without ports that is rolled.
const APP: &str = "services: {app: {image: '${LAB}', environment: {VERSION: '${VERSION}'}}}\n";

/// What is refused with these words is deployed in place, as the refusal says.
#[track_caller]
fn deployed_in_place(stack: &Stack, file: &str, service: &str) {
    stack.compose_file(&format!("{file}\nx-handover: {{services: {{{service}: {{strategy: in-place}}}}}}\n"));
    stack.up(&[]).expect_success();
    stack.assert_done();
    // The first deploy and one without changes need nothing of the kernel.
    stack.up(&[]).expect_success().expect_says("nothing to do");
}

#[test]
fn without_nftables() {
    let kernels_words = "Protocol not supported";
    let mut stack = Stack::new("no-nftables");
    stack.compose_file(WEB);
    stack.up(&[]).expect_success();
    stack.set("VERSION", "v2");
    let way_out = "web: { strategy: in-place }";
    refused(&stack, &[], 7, &["published ports cannot be led to a stand-in here", kernels_words, way_out]);
    deployed_in_place(&stack, WEB, "web");

    let mut stack = Stack::new("no-nftables");
    let rolled = format!("{APP}x-handover: {{services: {{app: {{strategy: rolling}}}}}}\n");
    stack.compose_file(&rolled);
    stack.up(&[]).expect_success();
    stack.set("VERSION", "v2");
    refused(&stack, &[], 7, &["app cannot be rolled here", kernels_words, "app: { strategy: in-place }"]);
    deployed_in_place(&stack, APP, "app");
}
