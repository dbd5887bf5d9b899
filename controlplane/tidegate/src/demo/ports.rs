//! Finds ports that are already in use before anything is started, and who holds them.
//!
//! A process may still take a port between this look and the node's start; then the node's own message, shown
//! from its log, tells the same story.

use super::error::DemoError;
use super::plan::Plan;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

/// Refuses to start when an address of the plan is taken.
///
/// # Errors
/// Names the node, the address and, where the kernel tells, the process that holds it.
pub fn check(plan: &Plan) -> Result<(), DemoError> {
    for node in &plan.nodes {
        let at = |port: u16| SocketAddr::new(IpAddr::V4(node.address), port);
        for port in node.tcp_ports(plan.dns_port) {
            judge(node.id, at(port), TcpListener::bind(at(port)).map(drop), "tcp")?;
        }
        for port in node.udp_ports(plan.dns_port) {
            judge(node.id, at(port), UdpSocket::bind(at(port)).map(drop), "udp")?;
        }
    }
    Ok(())
}

fn judge(
    node: &str,
    address: SocketAddr,
    bound: std::io::Result<()>,
    table: &'static str,
) -> Result<(), DemoError> {
    let Err(error) = bound else { return Ok(()) };
    match error.kind() {
        ErrorKind::AddrInUse => Err(DemoError::PortTaken {
            node: node.to_string(),
            address,
            holder: holder(address, table),
        }),
        ErrorKind::PermissionDenied => Err(DemoError::Option {
            name: "--dns-port",
            what: format!(
                "{address} needs root (ports below 1024 do); take one above, or run as root"
            ),
        }),
        _ => Err(DemoError::Option {
            name: "--net",
            what: format!("{address} cannot be used on this machine: {error}"),
        }),
    }
}

/// Name and process id of who holds an IPv4 port, as far as /proc shows it to us.
fn holder(address: SocketAddr, table: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/net/{table}")).ok()?;
    let inode = inode_of(&text, address)?;
    let target = format!("socket:[{inode}]");
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(open) = std::fs::read_dir(process.path().join("fd")) else { continue };
        for file in open.flatten() {
            if std::fs::read_link(file.path()).is_ok_and(|l| l == Path::new(&target)) {
                let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                return Some(format!("process {pid} ({})", name.trim()));
            }
        }
    }
    None
}

/// Inode of the socket bound to the port, on that address or on all, in the text of /proc/net/tcp or udp.
fn inode_of(table: &str, address: SocketAddr) -> Option<u64> {
    let IpAddr::V4(ip) = address.ip() else { return None };
    // The kernel prints the address as the number that its four bytes make in the machine's own order.
    let exact = format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port());
    let any = format!("00000000:{:04X}", address.port());
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let local = *fields.get(1)?;
        // 0A is LISTEN, 07 is what an unconnected UDP socket shows.
        let waiting = matches!(*fields.get(3)?, "0A" | "07");
        if waiting && (local == exact || local == any) { fields.get(9)?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn a_taken_port_is_named_with_its_holder() {
        // Goal: the message names node, address and process. Method: hold a port of an own loopback net.
        let plan = Plan::new(PathBuf::from("/demo"), 251, 5300, false);
        let taken = TcpListener::bind("127.251.31.1:8443").expect("loopback has room");
        let error = check(&plan).expect_err("the port is held").to_string();
        assert!(error.contains("127.251.31.1:8443") && error.contains("edge-a1"), "{error}");
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(taken);
    }

    #[test]
    fn the_kernel_table_is_read_by_address_and_port() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when ... inode\n";
        let number = u32::from_ne_bytes([127, 0, 0, 1]);
        let row = format!("   0: {number:08X}:1F90 00000000:0000 0A 0:0 00:0 0 0 0 4242 1\n");
        let table = format!("{head}{row}");
        assert_eq!(inode_of(&table, "127.0.0.1:8080".parse().unwrap()), Some(4242));
        assert_eq!(inode_of(&table, "127.0.0.2:8080".parse().unwrap()), None);
        assert_eq!(inode_of("", "127.0.0.1:8080".parse().unwrap()), None);
    }
}
