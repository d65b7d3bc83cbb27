//! Compiles the messages in `proto/`; protox reads them, so no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = ["grants", "host", "proxy", "release", "sync"].map(|file| format!("mcloud/v1/{file}.proto"));
    let files = protox::compile(files, ["proto"])?;
    prost_build::Config::new().bytes(["."]).compile_fds(files)?;
    Ok(())
}
