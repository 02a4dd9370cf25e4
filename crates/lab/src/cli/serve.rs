//! `handover-lab serve`: the service as a process, with what it does on signals.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use handover_lab::serve::{OnTerm, Running, ServeOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The exit code of a process that SIGTERM has ended.
const DIED_ON_TERM: u8 = 143;

enum Ended {
    Signal,
    Time,
}

/// Serves until a signal or `--exit-after-ms`.
pub(super) fn run(options: &ServeOptions) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return super::complain(&error),
    };
    let code = match runtime.block_on(serve(options)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => super::complain(&error),
    };
    // A name look-up that hangs must not keep the process.
    runtime.shutdown_background();
    code
}

async fn serve(options: &ServeOptions) -> io::Result<u8> {
    // As process 1 of a container there is no default action: without a handler SIGTERM would be ignored.
    let mut signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let ended = ended(&mut signals, options.exit_after_ms);
    tokio::pin!(ended);
    let start = async {
        tokio::time::sleep(Duration::from_millis(options.boot_ms)).await;
        if options.never_listen {
            println!("never listening");
            return std::future::pending().await;
        }
        Running::start(options).await
    };
    let running = tokio::select! {
        running = start => Some(running?),
        how = &mut ended => return Ok(stopped(&how, options)),
    };
    let Some(running) = running else { return Ok(0) };
    let addresses: Vec<String> = (running.http.iter().map(|address| format!("http {address}")))
        .chain(running.udp.iter().map(|address| format!("udp {address}")))
        .collect();
    let (version, instance) = (&running.version, &running.instance);
    println!("listening {} version={version} instance={instance}", addresses.join(" "));
    let how = ended.await;
    if matches!((&how, options.on_term), (Ended::Signal, OnTerm::Graceful)) {
        println!("finishing after {} requests", running.requests());
        running.finish().await;
    }
    Ok(stopped(&how, options))
}

fn stopped(how: &Ended, options: &ServeOptions) -> u8 {
    let code = match (how, options.on_term) {
        (Ended::Time, _) => options.exit_code,
        (Ended::Signal, OnTerm::Graceful) => 0,
        (Ended::Signal, OnTerm::Die) => DIED_ON_TERM,
    };
    println!("stopped with code {code}");
    code
}

async fn ended(signals: &mut [Signal; 2], exit_after_ms: Option<u64>) -> Ended {
    let [terminate, interrupt] = signals;
    let time = async {
        match exit_after_ms {
            Some(time) => tokio::time::sleep(Duration::from_millis(time)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = terminate.recv() => Ended::Signal,
        _ = interrupt.recv() => Ended::Signal,
        () = time => Ended::Time,
    }
}
