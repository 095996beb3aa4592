//! Regenerates `proto/src/gen/` from `proto/proto/`.
//!
//! ```text
//! cargo run -p folkmoot-proto-gen             write the files
//! cargo run -p folkmoot-proto-gen -- --check  write nothing; exit 1 if a committed file differs
//! ```
//!
//! The output is committed, so that building Folkmoot takes neither a protobuf compiler nor a build
//! script. The parser is `protox`, in Rust, so that no `protoc` is needed here either.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, process};

/// Entry points; the files they import come along.
const PROTO_FILES: [&str; 6] = [
    "mvccpb/kv.proto",
    "authpb/auth.proto",
    "etcdserverpb/rpc.proto",
    "v3lockpb/v3lock.proto",
    "v3electionpb/v3election.proto",
    "health/health.proto",
];

/// Field names of which snake case makes nonsense, and the names people expect. The wire knows
/// fields by number only, so this changes nothing but the Rust name.
const RENAMED_FIELDS: [(&str, &str); 2] = [("peer_ur_ls", "peer_urls"), ("client_ur_ls", "client_urls")];

const STUBS_ONLY_WITH_GRPC: &str = "#[cfg(feature = \"grpc\")]";

fn main() -> ExitCode {
    let check = match env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--check" => true,
        _ => {
            eprintln!("usage: folkmoot-proto-gen [--check]");
            return ExitCode::from(2);
        }
    };
    match run(check) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("folkmoot-proto-gen: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether the committed files are, or now are, what the `.proto` files say.
fn run(check: bool) -> Result<bool, Box<dyn Error>> {
    // Asked for when it runs: clones may share one build, and each is to look at its own files.
    let here =
        std::env::var_os("CARGO_MANIFEST_DIR").ok_or("to be run by 'cargo run -p folkmoot-proto-gen'")?;
    let proto_crate = Path::new(&here).parent().ok_or("the generator's folder has no parent")?;
    let committed_dir = proto_crate.join("src/gen");
    let wanted = generate(&proto_crate.join("proto"))?;
    if check {
        return Ok(report_differences(&wanted, &read_dir(&committed_dir)?));
    }
    fs::create_dir_all(&committed_dir)?;
    for stale in read_dir(&committed_dir)?.keys() {
        if !wanted.contains_key(stale) {
            fs::remove_file(committed_dir.join(stale))?;
        }
    }
    for (name, text) in &wanted {
        fs::write(committed_dir.join(name), text)?;
        println!("wrote {}", committed_dir.join(name).display());
    }
    Ok(true)
}

/// File name to Rust source, one file for each protobuf package.
fn generate(proto_root: &Path) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
    let scratch = Scratch::new()?;
    let descriptors = protox::compile(PROTO_FILES, [proto_root])?;
    tonic_prost_build::configure()
        .out_dir(&scratch.0)
        .bytes(".")
        .client_mod_attribute(".", STUBS_ONLY_WITH_GRPC)
        .server_mod_attribute(".", STUBS_ONLY_WITH_GRPC)
        .compile_fds(descriptors)?;
    let mut files = read_dir(&scratch.0)?;
    for text in files.values_mut() {
        for (from, to) in RENAMED_FIELDS {
            *text = text.replace(from, to);
        }
    }
    Ok(files)
}

fn report_differences(wanted: &BTreeMap<String, String>, committed: &BTreeMap<String, String>) -> bool {
    let mut same = true;
    for (name, text) in wanted {
        if committed.get(name) != Some(text) {
            eprintln!("proto/src/gen/{name} is not what the .proto files say");
            same = false;
        }
    }
    for name in committed.keys() {
        if !wanted.contains_key(name) {
            eprintln!("proto/src/gen/{name} belongs to no .proto file");
            same = false;
        }
    }
    if !same {
        eprintln!("run: cargo run -p folkmoot-proto-gen");
    }
    same
}

fn read_dir(dir: &Path) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        files.insert(name, fs::read_to_string(entry.path())?);
    }
    Ok(files)
}

/// A folder of our own for the generator's output, removed again at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch, Box<dyn Error>> {
        let dir = env::temp_dir().join(format!("folkmoot-proto-gen-{}", process::id()));
        fs::create_dir(&dir)?;
        Ok(Scratch(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Left-over files in the temporary folder harm nobody, so a failure is not worth a word.
        let _ = fs::remove_dir_all(&self.0);
    }
}
