//! Answers made here: errors and refusals. The one place that turns them into responses.
//!
//! Must stay true: nothing a client sent is echoed; every answer says in one line what is wrong and what to do.

use crate::client::{BodyLength, Client, Outlet};
use std::io;
use tidegate_http::Fields;
use tidegate_http::status::reason;

/// Answers with `status` and a line of text.
pub async fn answer<O: Outlet>(
    client: &mut Client<'_, O>,
    status: u16,
    text: &str,
    mut fields: Fields,
) -> io::Result<()> {
    let body = format!("{status} {}: {text}\n", reason(status));
    let mut made = fields
        .set("content-type", "text/plain; charset=utf-8")
        .and_then(|()| fields.set("cache-control", "no-store"));
    if matches!(status, 502..=504) {
        made = made.and_then(|()| fields.set("retry-after", "1"));
    }
    debug_assert!(made.is_ok(), "values made here are well-formed");
    client.head(status, fields, BodyLength::Known(body.len() as u64));
    client.body(&body.into()).await?;
    client.finish().await
}
