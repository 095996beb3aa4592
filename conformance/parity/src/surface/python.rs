//! The public names of a Python module, from its source by Python's own parser.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::Surface;

const READER: &str = include_str!("python.py");

/// Reads a module of the package in this folder: the package itself, or one of its modules.
pub fn surface(package: &Path, module: &str) -> Result<Surface, String> {
    let mut command = Command::new("python3");
    command.arg("-").arg(package).arg(module);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("python3 does not start: {error}"))?;
    let mut input = child.stdin.take().ok_or("python3 has no input")?;
    input.write_all(READER.as_bytes()).map_err(|error| format!("python3 does not listen: {error}"))?;
    drop(input);
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} cannot be read: {}", package.display(), text.trim()));
    }
    let names = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    Ok(Surface { names, ..Surface::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_followed_to_where_they_are_written() {
        let folder = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("tests/python/pond");
        let surface = surface(&folder, "").unwrap();
        let names: Vec<_> = surface.names.keys().map(String::as_str).collect();
        assert_eq!(names, ["Client", "Client.close", "Client.open", "Duck", "Duck.name", "Pond", "quack"]);
        let parameters: Vec<_> = surface.names["Client.open"].iter().map(String::as_str).collect();
        assert_eq!(parameters, ["ttl", "url"]);
    }

    #[test]
    fn a_module_beside_it_is_read_by_its_name() {
        let folder = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("tests/python/pond");
        let surface = surface(&folder, "sync").unwrap();
        assert!(surface.has("Client.open") && !surface.has("quack"), "{surface:?}");
    }
}
