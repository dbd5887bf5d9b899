//! Pass: one client, one next hop, nothing stored. The body flows through at the pace of the slower side.

use crate::client::{BodyLength, Client, Outlet};
use std::io;
use tidegate_fill::Answer;
use tidegate_http::{Fields, hop_by_hop};

/// Sends the next hop's answer on. `Ok(false)`: its body broke off, and the client's connection ends with it.
pub async fn relay<O: Outlet>(
    client: &mut Client<'_, O>,
    mut answer: Answer,
    finish_fields: impl FnOnce(&mut Fields),
) -> io::Result<bool> {
    let mut fields = std::mem::take(&mut answer.head.fields);
    hop_by_hop::remove(&mut fields);
    let status = answer.head.status;
    let announced = || fields.get_str("content-length").and_then(|value| value.parse().ok());
    let length = match (status, answer.body.length()) {
        (204 | 304, _) => BodyLength::Absent,
        _ if client.head_only => announced().map_or(BodyLength::Unknown, BodyLength::Known),
        (_, Some(length)) => BodyLength::Known(length),
        (_, None) => BodyLength::Unknown,
    };
    finish_fields(&mut fields);
    client.head(status, fields, length);
    if client.head_only {
        drop(answer.body); // asked for by a GET: nobody wants it, however long it is
        client.finish().await?;
        return Ok(true);
    }
    loop {
        match answer.body.next().await {
            Ok(Some(bytes)) => client.body(&bytes).await?,
            Ok(None) => break,
            Err(_) => {
                client.abort();
                return Ok(false);
            }
        }
    }
    client.finish().await?;
    Ok(true)
}
