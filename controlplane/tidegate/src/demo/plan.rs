//! Who takes part in the demo: one table of nodes, with the addresses and ports of each.
//!
//! Must stay true: every node has a loopback address of its own, so that all can use the same ports, as
//! separate machines would.

use serde::Serialize;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;

/// What a node does; the order is the order of starting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    Origin,
    Parent,
    Edge,
    Monitor,
    Router,
}

impl Tier {
    /// The word of the snapshot's `role`.
    pub fn word(self) -> &'static str {
        match self {
            Tier::Origin => "origin",
            Tier::Parent => "parent",
            Tier::Edge => "edge",
            Tier::Monitor => "monitor",
            Tier::Router => "router",
        }
    }

    /// True for the roles that `tidegated` plays.
    pub fn is_data_plane(self) -> bool {
        matches!(self, Tier::Origin | Tier::Parent | Tier::Edge)
    }
}

/// One process of the demo.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub id: &'static str,
    pub tier: Tier,
    /// Cache group; `None` for nodes that belong to none.
    pub group: Option<&'static str>,
    pub address: Ipv4Addr,
}

/// What is the same for all nodes, and the nodes.
#[derive(Debug, Clone)]
pub struct Plan {
    pub nodes: Vec<Node>,
    /// Folder of the demo, absolute.
    pub dir: PathBuf,
    pub dns_port: u16,
    /// `Location` of a 302 names the edge (needs DNS) or gives its address.
    pub location_is_name: bool,
}

/// Ports are the same on every node: each has its own address.
pub const HTTP_PORT: u16 = 8080;
pub const HTTPS_PORT: u16 = 8443;
pub const ADMIN_PORT: u16 = 9080;
pub const HEARTBEAT_PORT: u16 = 9099;
/// Not 5353: multicast DNS daemons of desktops hold that on every address.
pub const DNS_PORT: u16 = 5300;
/// Zone that the demo's router answers for; `.test` never exists in public (RFC 6761).
pub const ZONE: &str = "tidegate.test";
/// The one delivery service.
pub const SERVICE: &str = "film";
/// First label of the routed name.
pub const ROUTING_NAME: &str = "cdn";

impl Plan {
    /// The demo's CDN on 127.`net`.x.x.
    pub fn new(dir: PathBuf, net: u8, dns_port: u16, location_is_name: bool) -> Plan {
        let nodes = TABLE
            .iter()
            .map(|&(id, tier, group, third, fourth)| Node {
                id,
                tier,
                group,
                address: Ipv4Addr::new(127, net, third, fourth),
            })
            .collect();
        Plan { nodes, dir, dns_port, location_is_name }
    }

    /// The node that routes.
    pub fn router(&self) -> &Node {
        let router = self.nodes.iter().find(|n| n.tier == Tier::Router);
        router.expect("the table of nodes has a router, as its test asserts")
    }

    /// Host and port that viewers ask first.
    pub fn entry(&self) -> String {
        if self.location_is_name {
            format!("{}.{ZONE}:{HTTP_PORT}", self.router().id)
        } else {
            format!("{}:{HTTP_PORT}", self.router().address)
        }
    }
}

impl Node {
    /// Where health and status are asked.
    pub fn admin(&self) -> SocketAddr {
        SocketAddr::V4(SocketAddrV4::new(self.address, ADMIN_PORT))
    }

    /// TCP ports that this node will listen on.
    pub fn tcp_ports(&self, dns_port: u16) -> Vec<u16> {
        match self.tier {
            Tier::Edge => vec![HTTP_PORT, HTTPS_PORT, ADMIN_PORT],
            Tier::Origin | Tier::Parent => vec![HTTP_PORT, ADMIN_PORT],
            Tier::Router => vec![HTTP_PORT, ADMIN_PORT, dns_port],
            Tier::Monitor => vec![ADMIN_PORT],
        }
    }

    /// UDP ports that this node will listen on.
    pub fn udp_ports(&self, dns_port: u16) -> Vec<u16> {
        match self.tier {
            Tier::Router => vec![HEARTBEAT_PORT, dns_port],
            Tier::Monitor => vec![HEARTBEAT_PORT],
            _ => Vec::new(),
        }
    }
}

type Row = (&'static str, Tier, Option<&'static str>, u8, u8);

/// id, tier, cache group, last two bytes of the address.
const TABLE: [Row; 9] = [
    ("origin-1", Tier::Origin, None, 10, 1),
    ("parent-1", Tier::Parent, Some("core"), 20, 1),
    ("parent-2", Tier::Parent, Some("core"), 20, 2),
    ("edge-a1", Tier::Edge, Some("pop-a"), 31, 1),
    ("edge-a2", Tier::Edge, Some("pop-a"), 31, 2),
    ("edge-b1", Tier::Edge, Some("pop-b"), 32, 1),
    ("edge-b2", Tier::Edge, Some("pop-b"), 32, 2),
    ("monitor-1", Tier::Monitor, None, 50, 1),
    ("router-1", Tier::Router, None, 40, 1),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tier_is_there_and_every_address_is_used_once() {
        let plan = Plan::new(PathBuf::from("/demo"), 7, 5300, false);
        let count = |t| plan.nodes.iter().filter(|n| n.tier == t).count();
        assert_eq!([Tier::Origin, Tier::Parent, Tier::Edge].map(count), [1, 2, 4]);
        assert_eq!([Tier::Monitor, Tier::Router].map(count), [1, 1]);
        let mut addresses: Vec<_> = plan.nodes.iter().map(|n| n.address).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), plan.nodes.len());
        assert!(addresses.iter().all(|a| a.octets()[..2] == [127, 7]));
        assert_eq!(plan.entry(), "127.7.40.1:8080");
    }
}
