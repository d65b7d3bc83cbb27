//! `mcloud`: the client, and with `mcloud server` the daemon of a host.

fn main() -> std::process::ExitCode {
    mcloud::cli::run(std::env::args_os())
}
