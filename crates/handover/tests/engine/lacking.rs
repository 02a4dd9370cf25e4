//! Kernels and engines that lack what handover needs: refused before anything moves, in the kernel's words, with what works
//! nevertheless.
//!
//! Each test runs on an engine of its own, whose containers' system calls are answered as there (`scripts/test`):
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

/// A service behind some proxy, whose calls would be led where they come from.
const ROLLED: &str = "x-handover: {services: {app: {strategy: rolling}}}\n";

#[test]
fn where_no_namespace_of_another_container_can_be_entered() {
    let mut stack = Stack::new("no-setns");
    stack.compose_file(&format!("{APP}{ROLLED}"));
    stack.up(&[]).expect_success();
    stack.set("VERSION", "v2");
    let kernels_words = "Operation not permitted";
    refused(&stack, &[], 7, &["app cannot be rolled here", kernels_words, "app: { strategy: in-place }"]);
    deployed_in_place(&stack, APP, "app");
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
    stack.compose_file(&format!("{APP}{ROLLED}"));
    stack.up(&[]).expect_success();
    stack.set("VERSION", "v2");
    refused(&stack, &[], 7, &["app cannot be rolled here", kernels_words, "app: { strategy: in-place }"]);
    deployed_in_place(&stack, APP, "app");
}
