//! A command as a process: its runtime, and how it is told to end.

use crate::failure::Failure;

/// Runs a command's future to its end on a runtime of its own.
pub fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Failure::machine(format!("cannot start threads: {e}")))?;
    runtime.block_on(future)
}

/// Waits for SIGTERM or SIGINT, and takes them from the call on: one that comes before the first poll is not lost.
///
/// To be called inside a runtime.
pub fn told_to_end() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async {
        let (Ok(mut term), Ok(mut int)) = signals else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    }
}
