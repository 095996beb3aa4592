//! A network and a mount table of our own.
//!
//! The whole program moves into a new network namespace, and every member into another one. None of
//! them has a way out: the machine's own network is neither changed nor reachable, nothing has to be
//! removed afterwards, and all of it is gone with the last process, however that ends. The same holds
//! for mounts.
//!
//! This must happen while the program has one thread, since a user namespace (needed without root)
//! cannot be entered otherwise.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::ioctl;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::UnshareFlags;

/// Where the kernel hands out tunnel devices.
const TUN_PATH: &str = "/dev/net/tun";
/// Name of the device in each namespace.
const DEVICE: &str = "moot0";
/// Bytes of the largest packet. Larger than usual, since every packet passes through this program.
const MTU: u32 = 9000;

/// Proof that the program is in namespaces of its own.
#[derive(Clone, Copy, Debug)]
pub struct Isolated(());

/// Moves the program into a network and a mount namespace of its own. The error says what this
/// machine does not permit; nothing has changed then.
pub fn enter() -> Result<Isolated, String> {
    open_tun()?;
    run_ip(&["-V"])?;
    let mut flags = UnshareFlags::NEWNET | UnshareFlags::NEWNS;
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if !uid.is_root() {
        flags |= UnshareFlags::NEWUSER;
    }
    unshare(flags)?;
    if flags.contains(UnshareFlags::NEWUSER) {
        let write = |file: &str, text: String| {
            std::fs::write(file, text).map_err(|e| format!("cannot map ids file={file}: {e}"))
        };
        write("/proc/self/setgroups", "deny".into())?;
        write("/proc/self/uid_map", format!("0 {} 1", uid.as_raw()))?;
        write("/proc/self/gid_map", format!("0 {} 1", gid.as_raw()))?;
    }
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(|e| format!("cannot keep mounts private: {e}"))?;
    run_ip(&["link", "set", "lo", "up"])?;
    Ok(Isolated(()))
}

impl Isolated {
    /// Moves the calling thread, and all processes it starts from now on, into another network
    /// namespace.
    pub fn enter_another_network(self) -> Result<(), String> {
        unshare(UnshareFlags::NEWNET)?;
        run_ip(&["link", "set", "lo", "up"])
    }

    /// Makes a tunnel device with this address in the calling thread's network namespace. What is
    /// sent to it can be read from the descriptor, and what is written there arrives.
    pub fn device(self, address: std::net::Ipv4Addr, prefix_bits: u8) -> Result<OwnedFd, String> {
        let tun = open_tun()?;
        let request = InterfaceRequest::new(DEVICE);
        // SAFETY: TUNSETIFF reads a `struct ifreq`, which `InterfaceRequest` is laid out as.
        unsafe {
            let set = ioctl::Setter::<TUNSETIFF, InterfaceRequest>::new(request);
            ioctl::ioctl(&tun, set).map_err(|e| format!("cannot make a tunnel device: {e}"))?;
        }
        run_ip(&["address", "add", &format!("{address}/{prefix_bits}"), "dev", DEVICE])?;
        run_ip(&["link", "set", DEVICE, "mtu", &MTU.to_string(), "up"])?;
        Ok(tun)
    }

    /// Mounts a small file system in memory, visible to this program and its children only.
    pub fn mount_memory(self, at: &Path, bytes: u64) -> Result<(), String> {
        let options = std::ffi::CString::new(format!("size={bytes},mode=0700")).unwrap_or_default();
        rustix::mount::mount("tmpfs", at, "tmpfs", rustix::mount::MountFlags::empty(), options.as_c_str())
            .map_err(|e| format!("cannot mount memory at={}: {e}", at.display()))
    }

    /// Takes such a file system away again.
    pub fn unmount(self, at: &Path) -> Result<(), String> {
        rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH)
            .map_err(|e| format!("cannot unmount at={}: {e}", at.display()))
    }
}

fn unshare(flags: UnshareFlags) -> Result<(), String> {
    // SAFETY: only namespaces are left; the descriptor table stays shared.
    unsafe { rustix::thread::unshare_unsafe(flags) }
        .map_err(|e| format!("namespaces are not permitted here flags={flags:?}: {e}"))
}

fn open_tun() -> Result<OwnedFd, String> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(TUN_PATH, flags, Mode::empty())
        .map_err(|e| format!("cannot open tunnel devices path={TUN_PATH}: {e}"))
}

fn run_ip(arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new("ip");
    command.args(arguments).stdin(Stdio::null());
    let output = command.output().map_err(|e| format!("cannot run ip (package iproute2): {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("ip {} failed: {reason}", arguments.join(" ")))
}

/// `_IOW('T', 202, int)`, as in `linux/if_tun.h`.
const TUNSETIFF: ioctl::Opcode = ioctl::opcode::write::<std::ffi::c_int>(b'T', 202);
const IFF_TUN: u16 = 0x0001;
const IFF_NO_PI: u16 = 0x1000;

/// `struct ifreq` of `linux/if.h`, as far as TUNSETIFF reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

impl InterfaceRequest {
    fn new(device: &str) -> InterfaceRequest {
        let mut name = [0; 16];
        // The kernel wants a zero at the end.
        for (to, from) in name[..15].iter_mut().zip(device.bytes()) {
            *to = from;
        }
        InterfaceRequest { name, flags: IFF_TUN | IFF_NO_PI, rest: [0; 22] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_for_a_device_has_the_kernel_s_layout() {
        assert_eq!(std::mem::size_of::<InterfaceRequest>(), 40);
        assert_eq!(std::mem::offset_of!(InterfaceRequest, flags), 16);
        assert_eq!(TUNSETIFF, 0x4004_54ca);
    }
}
