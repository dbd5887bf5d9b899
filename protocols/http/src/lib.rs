//! What an HTTP message means, whatever version carried it: heads, fields, dates, caching words, ranges.
//!
//! Must stay true: no I/O, no clock, no thread; every parser takes bytes from outside and answers with a
//! value or a typed refusal, never a panic; a value that exists has passed the checks of its constructor.
#![forbid(unsafe_code)]

pub mod authority;
pub mod cache_control;
pub mod cmcd;
mod code;
pub mod coding;
pub mod conditional;
pub mod date;
pub mod etag;
pub mod fields;
pub mod head;
pub mod hop_by_hop;
pub mod huffman;
pub mod media_type;
pub mod method;
pub mod path;
pub mod prefix;
pub mod range;
pub mod status;
pub mod structured;
mod text;

pub use authority::{Authority, AuthorityError};
pub use cache_control::CacheControl;
pub use conditional::{Precondition, Validators};
pub use etag::EntityTag;
pub use fields::{FieldError, Fields};
pub use head::{RequestHead, ResponseHead, Scheme, Version};
pub use media_type::media_type_for;
pub use method::Method;
pub use path::{PathError, canonical_path};
pub use range::{ContentRange, RangeSpecs, Resolved};
pub use text::{is_token, is_token_byte, is_value_byte, list_members, trim};
