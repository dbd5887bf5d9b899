//! What a daemon tells about itself: the access log line and the counters, each declared once in one table.
//!
//! Must stay true: no I/O and no clock here; bytes from clients reach a log line only escaped; counting takes
//! no lock and no memory.
#![forbid(unsafe_code)]

pub mod access_log;
pub mod counters;
pub mod histogram;
pub mod json;

pub use access_log::{ACCESS_LOG_FIELDS, TransactionEnd};
pub use counters::{
    COUNTERS, Counter, CounterRow, Counters, Kind, Totals, render_labels, render_prometheus,
    to_json,
};
pub use histogram::{BUCKETS_US, Histogram};
