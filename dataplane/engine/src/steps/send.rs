//! Steps 7 and 8, dress and send: what a client gets, and how it leaves: an object, one answer for him alone, or a refusal.
//!
//! Must stay true: each answer says by `Cache-Status` how it came about, and no more than its client may know.

use super::deliver::{self, Delivered, Portion};
use super::encode;
use super::fill::Wanted;
use super::keep::admit;
use super::{pass, synth};
use crate::client::{Client, Outlet};
use crate::clock::now_ms;
use crate::fill::Fill;
use crate::object::Object;
use crate::pace::Manner;
use crate::reader::ObjectReader;
use crate::transaction::Notes;
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tidegate_contract::Pacing;
use tidegate_fill::Answer;
use tidegate_http::coding::{self, Coding};
use tidegate_http::{Fields, RequestHead};
use tidegate_types::Forward;
use tidegate_types::cache_status::key_parameter;

/// This node's member of `Cache-Status` behind those of `upstream`, with as much in it as this client may know (reliability
/// design 2.3, 32: a key or a detail could tell of others' requests). The log gets the rest.
pub(crate) fn cache_status(
    wanted: &Wanted<'_>,
    upstream: Option<&Bytes>,
    notes: &mut Notes,
) -> Vec<u8> {
    let me = &wanted.view.me.id;
    let own = notes.status.render(me).to_string();
    let told = match notes.status.detail {
        _ if notes.has_token => Some(own.clone() + &key_parameter(&wanted.routed.key.text)),
        Some(_) => Some(notes.status.without_detail().render(me).to_string()),
        None => None,
    };
    let field = deliver::cache_status(upstream, told.as_deref().unwrap_or(&own));
    notes.cache_status = Some(own);
    field
}

/// Has the answer, of so many body bytes if that is known, leave as the behaviour and the player want it.
pub(crate) fn set_manner<O: Outlet>(
    wanted: &Wanted<'_>,
    client: &mut Client<'_, O>,
    body: Option<u64>,
    notes: &mut Notes,
) {
    let core = wanted.core;
    // The fleet gets what it asks for as it asks for it.
    let rule = if wanted.for_viewer { wanted.behaviour.pacing } else { Pacing::default() };
    let manner = Manner::of(&rule, notes.cmcd.as_deref(), body);
    let pace = manner.pace;
    notes.pace_kbps = pace.wish.into_iter().chain(pace.ceiling).min().map(|rate| rate / 125);
    core.count(|c| &c.paced_answers_total, u64::from(notes.pace_kbps.is_some()));
    let Err(error) = client.set_manner(&manner) else { return };
    core.count(|c| &c.pacing_failed_total, 1);
    if let Some(congestion) = manner.congestion
        && !core.node.congestion_told.swap(true, Ordering::Relaxed)
    {
        eprintln!(
            "tidegated: congestion control {}: {error}; connections go on with the system's\n    mend: load it (modprobe tcp_{}) \
             and allow it (sysctl net.ipv4.tcp_allowed_congestion_control), or take it out of `pacing`",
            congestion.name(),
            congestion.name()
        );
    }
}

/// Sends an object; `false`: its first bytes could not be had, and nothing was sent.
pub(crate) async fn send_object<O: Outlet>(
    wanted: &Wanted<'_>,
    client: &mut Client<'_, O>,
    request: &RequestHead,
    object: Arc<Object>,
    fill: Option<Arc<Fill>>,
    upstream: Option<Bytes>,
    notes: &mut Notes,
) -> io::Result<bool> {
    let core = wanted.core;
    admit(core, &object, wanted.behaviour.store_admission);
    let portion = deliver::portion(request, &object, now_ms());
    let end = match &portion {
        Portion::Single(range) => Some(range.end() + 1),
        Portion::Multi(ranges) => ranges.first().map(|range| range.end() + 1),
        _ => None,
    };
    let mut reader = ObjectReader::new(
        core.clone(),
        wanted.view.clone(),
        wanted.service,
        object.clone(),
        fill,
        wanted.routed.target.clone(),
        wanted.place(),
        end,
    );
    if notes.status.hit && deliver::first_missing_block(&portion, &object, &reader).is_some() {
        notes.status.hit = false;
        notes.status.fwd = Some(Forward::Partial);
        client.confirm().await?; // its bytes have to be asked for
    }
    if client.is_early() {
        core.count(|c| &c.early_hits_total, 1);
    }
    if notes.status.hit {
        core.count(|c| &c.hits_total, 1);
    } else {
        core.count(|c| &c.misses_total, 1);
    }
    let body = match &portion {
        Portion::Whole => object.total(),
        Portion::Single(range) => Some(range.end() - range.start() + 1),
        _ => None,
    };
    set_manner(wanted, client, body, notes);
    let secure = client.is_secure();
    // Only for viewers: one form goes from tier to tier.
    let encodable = wanted.behaviour.compress && wanted.for_viewer && encode::is_encodable(&object);
    let coding = match portion {
        Portion::Whole | Portion::NotModified if encodable => {
            coding::preferred(request.fields.get_all("accept-encoding"))
        }
        _ => None,
    };
    let form = match coding {
        Some(coding) if portion == Portion::Whole => {
            Box::pin(encode::coded_form(core, &object, coding, &mut reader)).await
        }
        _ => None,
    };
    let is_coded = form.is_some() || portion == Portion::NotModified;
    let coding = coding.filter(|_| is_coded);
    let fields = || fields_of(wanted, &object, secure, encodable, coding);
    // What clients see of other tiers' hits is theirs; on our own hit it would be old news.
    let upstream = upstream.as_ref().filter(|_| !notes.status.hit);
    let cache_status = cache_status(wanted, upstream, notes);
    let generation = generation_of(wanted, secure);
    let dress = deliver::Dress { fields: &fields, cache_status, generation };
    let delivered = match &form {
        Some(form) => deliver::deliver_form(core, client, &object, form, &dress).await,
        None => deliver::deliver(core, client, &object, portion, &dress, &mut reader).await,
    };
    if notes.status.hit {
        core.count(|c| &c.bytes_hit_total, client.sent);
    }
    match delivered? {
        Delivered::Complete => {}
        Delivered::Broken => {
            core.count(|c| &c.answers_cut_total, 1);
            notes.error = Some("the object's bytes could not be had".to_owned());
        }
        Delivered::Unbegun => {
            notes.error = Some("the object's first bytes could not be had".to_owned());
            return Ok(false);
        }
    }
    Ok(true)
}

/// The fields of all answers with this object, as this client may have them.
pub(crate) fn fields_of(
    wanted: &Wanted<'_>,
    object: &Object,
    secure: bool,
    encodable: bool,
    coding: Option<Coding>,
) -> Fields {
    let mut fields = object.head.fields.clone();
    if object.head.status == 200 {
        let _left_out = fields.set("accept-ranges", "bytes");
    }
    if encodable {
        encode::mark_vary(&mut fields);
    }
    if let Some(coding) = coding {
        encode::mark_coded(&mut fields, coding);
    }
    let me = &wanted.view.me.id;
    deliver::client_fields(&mut fields, wanted.rules(), me, secure, wanted.http3_port());
    fields
}

/// Names the lines that [`fields_of`] makes: answers over HTTP and HTTPS differ by what may be said on one of them only, and
/// those to the fleet are not shaped.
pub(crate) fn generation_of(wanted: &Wanted<'_>, secure: bool) -> u64 {
    let kind = if wanted.for_viewer { u64::from(secure) } else { 2 };
    wanted.view.generation * 3 + kind
}

/// Fields that this tier adds to an answer that does not come from an object.
fn dress(
    wanted: &Wanted<'_>,
    fields: &mut Fields,
    secure: bool,
    upstream: Option<&Bytes>,
    notes: &mut Notes,
) {
    let me = &wanted.view.me.id;
    deliver::client_fields(fields, wanted.rules(), me, secure, wanted.http3_port());
    // Members of servers' ids, fixed words and a key's printable characters: always a field value.
    let _left_out = fields.set("cache-status", cache_status(wanted, upstream, notes));
}

pub(crate) async fn relay<O: Outlet>(
    wanted: &Wanted<'_>,
    client: &mut Client<'_, O>,
    answer: Answer,
    notes: &mut Notes,
) -> io::Result<()> {
    wanted.core.count(|c| &c.misses_total, 1);
    notes.status.fwd_status = Some(answer.head.status);
    let upstream = answer.head.fields.combined("cache-status").map(|v| Bytes::copy_from_slice(&v));
    let secure = client.is_secure();
    set_manner(wanted, client, answer.body.length(), notes);
    let whole = pass::relay(client, answer, |fields| {
        dress(wanted, fields, secure, upstream.as_ref(), notes);
    })
    .await?;
    wanted.core.count(|c| &c.bytes_sent_total, client.sent);
    if !whole {
        notes.error = Some("the next hop's body broke off".to_owned());
    }
    Ok(())
}

pub(crate) async fn refuse<O: Outlet>(
    wanted: &Wanted<'_>,
    client: &mut Client<'_, O>,
    status: u16,
    text: &str,
    notes: &mut Notes,
) -> io::Result<()> {
    let mut fields = Fields::new();
    if status == 405 {
        let _left_out = fields.set("allow", wanted.behaviour.methods.join(", "));
    }
    dress(wanted, &mut fields, client.is_secure(), None, notes);
    synth::answer(client, status, text, fields).await
}
