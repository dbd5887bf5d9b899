//! What operators order of a node, on its admin port: purges, and that a retired device be used again. Each order is signed
//! (`tidegate_contract::admin`).
//!
//! ```text
//! POST /purge   {"mode": "soft" | "hard", one of:
//!                "url": "http://films.example.net/a/b.m4s?x=1"
//!                "delivery_service": "films", and one of "prefix": "/a", "tag": "show-17", "all": true
//!                "id": text of the caller, given back}
//! 200 {"id", "node", "mode", "purged", "number", "durable": true}
//!
//! POST /rejoin  {"device": its uuid or path}
//! 200 {"node", "uuid", "path", "at_once"}
//! ```
//! Must stay true: nothing is looked at before the signature fits; 200 is said only of what a restart cannot undo.

use crate::catch_up;
use crate::client::{Client, Outlet};
use crate::clock::wall_ms;
use crate::explain::plain_get;
use crate::node::Core;
use crate::purge::{PurgeError, ROLL_SPAN_MAX, purge};
use crate::route::route;
use crate::steps::synth;
use crate::transaction::Exchange;
use crate::view::View;
use serde::Deserialize;
use serde_json::json;
use std::io;
use std::rc::Rc;
use tidegate_cache::purge::{Mode, Target};
use tidegate_contract::Order;
use tidegate_http::{Fields, Method};
use tidegate_ring::timeout;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(default)]
    id: String,
    #[serde(default)]
    mode: Soft,
    url: Option<String>,
    delivery_service: Option<String>,
    prefix: Option<String>,
    tag: Option<String>,
    #[serde(default)]
    all: bool,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Soft {
    #[default]
    Soft,
    Hard,
}

/// What an order comes to: the service, what is purged of it, and how it is named in the answer.
struct Named {
    service: String,
    what: What,
    shown: String,
}

enum What {
    Service,
    Url(String),
    Prefix(String),
    Tag(String),
}

impl What {
    fn target(&self) -> Target<'_> {
        match self {
            What::Service => Target::Service,
            What::Url(key) => Target::Url(key),
            What::Prefix(prefix) => Target::Prefix(prefix),
            What::Tag(tag) => Target::Tag(tag),
        }
    }
}

impl Asked {
    fn mode(&self) -> Mode {
        match self.mode {
            Soft::Soft => Mode::Soft,
            Soft::Hard => Mode::Hard,
        }
    }
}

/// An order of the purge log.
pub struct Logged {
    pub id: String,
    pub service: String,
    pub handle: u64,
    pub mode: Mode,
}

/// What an order of the purge log reaches. It was good when it was given: where what it names cannot be found any more, it
/// reaches all of its delivery service. `None`: it is no order of this release, or names nothing.
pub fn logged(view: &View, order: &str) -> Option<Logged> {
    let asked: Asked = serde_json::from_str(order).ok()?;
    let named = name(view, &asked).ok();
    let service = match &named {
        Some(named) => named.service.clone(),
        None => asked.delivery_service.clone()?,
    };
    let target = named.as_ref().map_or(Target::Service, |named| named.what.target());
    let handle = target.handle(&service).or_else(|_| Target::Service.handle(&service)).ok()?;
    Some(Logged { handle, mode: asked.mode(), id: asked.id, service })
}

/// Follows a purge order, or says why not.
pub async fn purge_order<O: Outlet>(
    core: &Rc<Core>,
    client: &mut Client<'_, O>,
    exchange: &Exchange,
) -> io::Result<()> {
    let view = core.node.view.load_full();
    if let Err((status, text)) = authorize(&view, exchange) {
        return refuse(client, status, &text).await;
    }
    let asked: Asked = match serde_json::from_slice(&exchange.body) {
        Ok(asked) => asked,
        Err(error) => {
            return synth::answer(client, 400, &format!("the order: {error}"), Fields::new()).await;
        }
    };
    let named = match name(&view, &asked) {
        Ok(named) => named,
        Err(text) => return synth::answer(client, 400, &text, Fields::new()).await,
    };
    let mode = asked.mode();
    match purge(core, &asked.id, &named.service, named.what.target(), mode).await {
        Ok(number) => {
            catch_up::told(&core.node.stores, &asked.id).await;
            eprintln!(
                "tidegated {}: purged ({}) {} of {}{}",
                view.me.id,
                mode.name(),
                named.shown.escape_debug(),
                named.service,
                if asked.id.is_empty() {
                    String::new()
                } else {
                    format!(", order {}", asked.id.escape_debug())
                },
            );
            let answer = json!({
                "id": asked.id,
                "node": view.me.id,
                "delivery_service": named.service,
                "mode": mode.name(),
                "purged": named.shown,
                "number": number,
                "durable": true,
            });
            crate::admin::text(client, "application/json", answer.to_string()).await
        }
        Err(PurgeError::Target(error)) => {
            synth::answer(client, 400, &error.to_string(), Fields::new()).await
        }
        Err(error) => {
            eprintln!("tidegated {}: {error}", view.me.id);
            synth::answer(client, 503, &error.to_string(), Fields::new()).await
        }
    }
}

/// Whether this order may be followed; what to answer otherwise.
fn authorize(view: &View, exchange: &Exchange) -> Result<(), (u16, String)> {
    let request = &exchange.request;
    if request.method != Method::Post {
        return Err((405, "orders are given by POST".to_owned()));
    }
    let Some(key) = &view.admin_key else {
        let text = "this CDN has no admin key; make keys/admin.key with `tidegate snapshot keygen` and publish it";
        return Err((403, text.to_owned()));
    };
    let target = request.target();
    let order = Order { method: "POST", node: &view.me.id, target: &target, body: &exchange.body };
    key.verify(&order, request.fields.get_str("authorization"), wall_ms() / 1000)
        .map_err(|error| (403, error.to_string()))
}

async fn refuse<O: Outlet>(client: &mut Client<'_, O>, status: u16, text: &str) -> io::Result<()> {
    let mut fields = Fields::new();
    if status == 405 {
        let _left_out = fields.set("allow", "POST");
    }
    synth::answer(client, status, text, fields).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rejoin {
    device: String,
}

/// Lets a retired device be used again, or says why not.
pub async fn rejoin_order<O: Outlet>(
    core: &Rc<Core>,
    client: &mut Client<'_, O>,
    exchange: &Exchange,
) -> io::Result<()> {
    let view = core.node.view.load_full();
    if let Err((status, text)) = authorize(&view, exchange) {
        return refuse(client, status, &text).await;
    }
    let Rejoin { device } = match serde_json::from_slice(&exchange.body) {
        Ok(asked) => asked,
        Err(error) => return refuse(client, 400, &format!("the order: {error}")).await,
    };
    let rejoining = match core.node.stores.rejoin(&device) {
        Ok(rejoining) => rejoining,
        Err(why) => return refuse(client, 400, &why).await,
    };
    let entry = &rejoining.entry;
    match timeout(ROLL_SPAN_MAX, rejoining.receipt.wait()).await {
        Ok(Ok(())) => {
            eprintln!(
                "tidegated {}: store {}: it rejoins, and begins empty",
                view.me.id, entry.path
            );
            let answer = json!({
                "node": view.me.id,
                "uuid": format!("{:032x}", entry.uuid),
                "path": entry.path,
                "at_once": rejoining.at_once,
            });
            crate::admin::text(client, "application/json", answer.to_string()).await
        }
        Ok(Err(why)) => refuse(client, 503, &format!("the roll is not on disk: {why}")).await,
        Err(_) => refuse(client, 503, "the roll was not written in time; try again").await,
    }
}

fn name(view: &View, asked: &Asked) -> Result<Named, String> {
    let given = [asked.url.is_some(), asked.prefix.is_some(), asked.tag.is_some(), asked.all];
    if given.iter().filter(|one| **one).count() != 1 {
        return Err("give exactly one of url, prefix, tag and all".to_owned());
    }
    if let Some(url) = &asked.url {
        return name_url(view, asked, url);
    }
    let service = asked.delivery_service.as_deref().ok_or("give delivery_service")?;
    if !view.services().iter().any(|known| known.service.id == service) {
        return Err(format!(
            "there is no active delivery service `{}`; see `tidegate snapshot show`",
            service.escape_debug()
        ));
    }
    let service = service.to_owned();
    Ok(match (&asked.prefix, &asked.tag) {
        (Some(prefix), _) => {
            let prefix = tidegate_http::canonical_path(prefix).map_err(|_| {
                "prefix: it has no one meaning, or does not begin with `/`".to_owned()
            })?;
            Named { service, shown: format!("prefix {prefix}"), what: What::Prefix(prefix) }
        }
        (None, Some(tag)) => {
            Named { service, shown: format!("tag {tag}"), what: What::Tag(tag.clone()) }
        }
        (None, None) => Named { service, shown: "all".to_owned(), what: What::Service },
    })
}

fn name_url(view: &View, asked: &Asked, url: &str) -> Result<Named, String> {
    let wrong = || "url: write it like http://films.example.net/a/b.m4s?x=1".to_owned();
    let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(wrong());
    }
    let rest = rest.split('#').next().unwrap_or(rest);
    let (host, target) = rest.split_at(rest.find('/').ok_or_else(wrong)?);
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    };
    let request = plain_get(host, path.to_owned(), query)?;
    let routed = match route(view, &request) {
        None => return Err("url: no delivery service answers to this host".to_owned()),
        Some(Err(text)) => return Err(format!("url: {text}")),
        Some(Ok(routed)) => routed,
    };
    let service = view.services()[routed.service].service.id.clone();
    if asked.delivery_service.as_ref().is_some_and(|given| *given != service) {
        return Err(format!("url: this host belongs to delivery service {service}"));
    }
    let shown = format!("url {}", routed.key.text);
    Ok(Named { service, what: What::Url(routed.key.text), shown })
}
