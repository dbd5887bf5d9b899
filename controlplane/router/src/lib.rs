//! The traffic router: DNS answers and HTTP 302 redirects from one decision (`tidegate-steer`).
//!
//! Must stay true: the client's address is the address of the socket's peer (or, in DNS, the client subnet
//! that the resolver tells): nothing in a request can change it; a `Location` is built only from configured
//! names; a request never waits for anything but its own socket.
#![forbid(unsafe_code)]

mod admin;
mod decision_log;
mod dns;
mod http;
mod limit;
mod serve;
mod view;
mod zone;

pub use decision_log::{DecisionLog, LogTarget};
pub use limit::{Limiter, Permission};
pub use serve::{Router, RouterOptions, Sockets, start};
pub use view::RouterView;
pub use zone::{Answered, Zone, answer};
