//! `mcloud`: the client, and with `mcloud server` the daemon of a host.

fn main() -> std::process::ExitCode {
    // Fault points take their orders from `FAILPOINTS`, in a build that has any.
    #[cfg(feature = "faults")]
    let _faults = fail::FailScenario::setup();
    mcloud::cli::run(std::env::args_os())
}
