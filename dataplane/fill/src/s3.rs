//! An origin that is an S3 bucket: where its objects lie, and who asks for them.
//!
//! Must stay true: it is only read; what a client says of itself (Authorization, cookies) never goes there; credentials are
//! taken as they are at the moment of each request, so that they can be changed while the node runs.

use crate::exchange::Request;
use crate::sigv4::{Credentials, ToSign, encode_path, sign};
use arc_swap::ArcSwap;
use std::path::PathBuf;
use tidegate_http::Method;

/// How a bucket is asked.
#[derive(Debug)]
pub struct HopS3 {
    pub region: String,
    /// Put before each path, not encoded: `/bucket` (path style) and a prefix, or either, or nothing.
    pub before: String,
    pub credentials: ArcSwap<Credentials>,
    /// Where these come from.
    pub file: PathBuf,
}

impl HopS3 {
    /// `request` as the bucket wants it.
    ///
    /// # Errors
    /// What keeps it from being asked.
    pub(crate) fn request(
        &self,
        request: &Request,
        unix_seconds: u64,
    ) -> Result<Request, &'static str> {
        if !matches!(request.method, Method::Get | Method::Head) {
            return Err("an S3 origin is only read, by GET and HEAD");
        }
        // A query would be S3's own (versions, lists, configuration), not content.
        let path = request.target.split('?').next().unwrap_or_default();
        let target = encode_path(&self.before, path);
        let to_sign = ToSign {
            method: request.method.as_str(),
            path: &target,
            host: &request.authority,
            region: &self.region,
        };
        let mut fields = request.fields.clone();
        for own in ["authorization", "cookie"] {
            fields.remove(own);
        }
        for (name, value) in sign(&to_sign, &[], &self.credentials.load(), unix_seconds) {
            fields.set(name, value).map_err(|_| "its signature is no field value")?;
        }
        Ok(Request { target, fields, ..request.clone() })
    }
}
