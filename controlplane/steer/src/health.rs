//! Health as plain data: what `decide` is told about the servers.

use serde::Serialize;
use std::collections::HashMap;

/// What is held of each server.
#[derive(Debug, Clone, Default)]
pub struct Health {
    servers: HashMap<String, ServerHealth>,
    /// For servers that are not named: up in a hypothetical world, down in the real one.
    assume_up: bool,
}

/// What is held of one server, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerHealth {
    pub state: State,
    pub why: String,
}

/// Whether a server may get clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Up,
    /// Finishes what it has; gets no new clients.
    Draining,
    Down,
}

impl Health {
    /// A world in which every server is up, for questions without a router at hand.
    pub fn all_up() -> Health {
        Health { servers: HashMap::new(), assume_up: true }
    }

    pub fn set(&mut self, server: impl Into<String>, state: State, why: impl Into<String>) {
        self.servers.insert(server.into(), ServerHealth { state, why: why.into() });
    }

    pub fn state(&self, server: &str) -> State {
        match self.servers.get(server) {
            Some(health) => health.state,
            None if self.assume_up => State::Up,
            None => State::Down,
        }
    }

    pub fn why(&self, server: &str) -> &str {
        match self.servers.get(server) {
            Some(health) => &health.why,
            None if self.assume_up => "taken as up",
            None => "no heartbeat heard yet",
        }
    }
}
