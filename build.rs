//! Compiles the messages in `proto/`; protox reads them, so no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(
        ["mcloud/v1/grants.proto", "mcloud/v1/host.proto", "mcloud/v1/release.proto", "mcloud/v1/sync.proto"],
        ["proto"],
    )?;
    prost_build::Config::new().bytes(["."]).compile_fds(files)?;
    Ok(())
}
