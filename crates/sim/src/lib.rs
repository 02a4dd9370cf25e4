//! A simulated host: the engine, the kernel's rules, our helpers, Compose and clients as one state machine under a paused clock. The
//! deploy's own code runs in it, from its command line on, and everything that can break in between breaks where a test says so.
//!
//! Faithful where it counts: addresses are given again at once, names resolve to all containers that run, a killed guard leaves its
//! table, the engine finishes what it has begun for somebody who is gone. Not here: what a drain reads in packets, the taking over of
//! connections, relays, routers' own configuration; they have tests with a kernel.

pub mod clients;
pub mod compose;
pub mod engine_api;
pub mod helpers;
pub mod kernel;
pub mod process;
pub mod stacks;
pub mod story;
pub mod world;

/// Runs something in a world of its own: one thread, a clock that jumps to the next thing that happens, nothing of this machine.
///
/// # Panics
/// If `work` does, or the machine has no thread left.
pub fn simulate<T: Send + 'static>(work: impl AsyncFnOnce() -> T + Send + 'static) -> T {
    let in_world = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime without any driver but time").block_on(work())
    };
    // All that a deploy may wait for is one value, and large without optimisation.
    let thread = std::thread::Builder::new().stack_size(64 << 20).spawn(in_world);
    match thread.expect("a thread").join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
