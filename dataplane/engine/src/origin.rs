//! The origin role: serves the files below one directory, with validators and types, whole and in ranges.
//!
//! Must stay true: no path leaves the directory: names are checked one by one (no `..`, no hidden files, no
//! separators inside a name), and the opened file's real path must lie below the directory's, so that a symbolic
//! link out of it is not followed either. A file that changes while it is sent ends the answer short.

use crate::client::{BodyLength, Client, Outlet};
use crate::clock::wall_ms;
use crate::node::Core;
use crate::steps::synth;
use crate::view::View;
use std::fs::{self, Metadata};
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tidegate_http::conditional::{evaluate, if_range_allows};
use tidegate_http::path::file_names;
use tidegate_http::{
    ContentRange, Fields, Method, Precondition, RangeSpecs, RequestHead, Resolved, Validators,
    canonical_path, date, media_type_for,
};
use tidegate_ring::{Buf, File};

/// Bytes read at a time: one arena chunk is not worth it for the page cache.
const READ_BYTES: u64 = 256 * 1024;

/// Answers one request from the directory.
pub async fn answer<O: Outlet>(
    core: &Rc<Core>,
    view: &View,
    client: &mut Client<'_, O>,
    request: &RequestHead,
) -> io::Result<()> {
    if !matches!(request.method, Method::Get | Method::Head) {
        let mut fields = Fields::new();
        let _left_out = fields.set("allow", "GET, HEAD");
        return synth::answer(client, 405, "an origin directory answers GET and HEAD", fields)
            .await;
    }
    let Some(root) = view.me.machine.origin_root.as_deref() else {
        return synth::answer(
            client,
            500,
            "this origin has no directory; set origin_root",
            Fields::new(),
        )
        .await;
    };
    match open(Path::new(root), &request.path) {
        Ok((file, meta, path)) => send(core, client, request, file, &meta, &path).await,
        Err((status, text)) => synth::answer(client, status, text, Fields::new()).await,
    }
}

/// Opens the file that a path names.
fn open(root: &Path, path: &str) -> Result<(fs::File, Metadata, PathBuf), (u16, &'static str)> {
    const NOT_FOUND: (u16, &str) = (404, "no such file below the origin directory");
    let canonical = canonical_path(path)
        .map_err(|_| (400, "the path leaves the directory or holds forbidden bytes"))?;
    if canonical.ends_with('/') {
        return Err(NOT_FOUND); // the name of a directory, and one file has one name
    }
    let names = file_names(&canonical).ok_or(NOT_FOUND)?;
    let mut full = root.to_path_buf();
    full.extend(names.iter().filter(|name| !name.is_empty()));
    let real = fs::canonicalize(&full).map_err(|_| NOT_FOUND)?;
    let real_root =
        fs::canonicalize(root).map_err(|_| (500, "the origin directory cannot be read"))?;
    if !real.starts_with(&real_root) {
        return Err(NOT_FOUND);
    }
    let file = fs::File::open(&real).map_err(|_| NOT_FOUND)?;
    let meta = file.metadata().map_err(|_| NOT_FOUND)?;
    if !meta.is_file() {
        return Err(NOT_FOUND);
    }
    Ok((file, meta, full))
}

async fn send<O: Outlet>(
    core: &Rc<Core>,
    client: &mut Client<'_, O>,
    request: &RequestHead,
    file: fs::File,
    meta: &Metadata,
    path: &Path,
) -> io::Result<()> {
    let now = wall_ms() / 1000;
    let modified = u64::try_from(meta.mtime()).unwrap_or(0);
    let total = meta.len();
    // Inode and nanoseconds tell apart what a rename put in place within one second.
    let tag =
        format!("\"{:x}-{:x}-{:x}-{:x}\"", meta.ino(), meta.mtime(), meta.mtime_nsec(), total);
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let mut fields = Fields::with_capacity(8);
    let made = fields
        .append("date", date::format(now))
        .and_then(|()| fields.append("etag", tag))
        .and_then(|()| fields.append("last-modified", date::format(modified)))
        .and_then(|()| fields.append("content-type", media_type_for(extension)))
        .and_then(|()| fields.append("accept-ranges", "bytes"));
    debug_assert!(made.is_ok(), "values made here are well-formed");
    let validators = Validators::from_fields(&fields, now);
    match evaluate(&request.method, &request.fields, &validators, now) {
        Precondition::Proceed => {}
        Precondition::NotModified => {
            fields.remove("content-type");
            client.head(304, fields, BodyLength::Absent);
            return client.finish().await;
        }
        Precondition::PreconditionFailed => {
            client.head(412, fields, BodyLength::Known(0));
            return client.finish().await;
        }
    }
    let specs = request
        .fields
        .get("range")
        .filter(|_| request.method == Method::Get)
        .and_then(RangeSpecs::parse);
    let allowed = if_range_allows(&request.fields, &validators, Some(now), now);
    let range: RangeInclusive<u64> =
        match specs.filter(|_| allowed).map(|specs| specs.resolve(total)) {
            Some(Resolved::Single(range)) => {
                let value =
                    ContentRange { range: Some(range.clone()), length: Some(total) }.to_string();
                let _left_out = fields.set("content-range", value);
                client.head(206, fields, BodyLength::Known(range.end() - range.start() + 1));
                range
            }
            Some(Resolved::Unsatisfiable) => {
                let value = ContentRange { range: None, length: Some(total) }.to_string();
                let _left_out = fields.set("content-range", value);
                fields.remove("content-type");
                client.head(416, fields, BodyLength::Known(0));
                return client.finish().await;
            }
            // Several ranges: parents ask for one; others get the whole, which is always allowed.
            Some(Resolved::Whole | Resolved::Multi(_)) | None => {
                client.head(200, fields, BodyLength::Known(total));
                if total == 0 {
                    return client.finish().await;
                }
                0..=total - 1
            }
        };
    if !client.head_only {
        let file = File::from_std(file);
        let stamp = (meta.len(), meta.mtime(), meta.mtime_nsec());
        let (mut at, end) = (*range.start(), range.end() + 1);
        while at < end {
            let buf = Buf::heap((end - at).min(READ_BYTES) as usize);
            let (outcome, mut buf) = file.read_at(buf, at).await;
            let n = outcome?;
            // Cut short, or written over in place: bytes of two versions must not pass for one.
            if n == 0 || file.stamp()? != stamp {
                client.abort();
                return Ok(());
            }
            buf.truncate(n);
            core.count(|c| &c.bytes_sent_total, n as u64);
            client.body(&buf.freeze()).await?;
            at += n as u64;
        }
    }
    client.finish().await
}
