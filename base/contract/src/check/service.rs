//! Delivery services, their behaviours and host names.

use super::{Checker, Object, matches_everything, printable};
use crate::snapshot::*;
use std::collections::{HashMap, HashSet};

impl<'a> Checker<'a> {
    pub(super) fn delivery_service(&mut self, index: usize, service: &'a DeliveryService) {
        let object = Object::DeliveryService(index);
        self.label(object, "id", &service.id);
        self.label(object, "routing_name", &service.routing_name);
        self.name(object, "origin_host", &service.origin_host);
        if let Some(hash) = &service.debug_token_sha256
            && crate::hex::decode::<32>(hash).is_none()
        {
            self.tell(
                object,
                "debug_token_sha256",
                "the SHA-256 of a token is 64 hexadecimal digits",
                "write what `printf %s TOKEN | sha256sum` prints, or remove it",
            );
        }
        if service.origins.is_empty() {
            self.tell(object, "origins", "no origin", "name at least one server with role origin");
        }
        for origin in &service.origins {
            match self.servers.get(origin.as_str()).map(|i| &self.snapshot.servers[*i]) {
                None => self.dangling(object, "origins", "server", origin),
                Some(server) if server.role != Role::Origin => {
                    let what = format!("server `{origin}` has another role than origin");
                    self.tell(object, "origins", what, "name a server with role = \"origin\"");
                }
                Some(_) => {}
            }
        }
        self.repeated(object, "origins", &service.origins);
        let mut names = HashSet::new();
        let last = service.behaviours.len().saturating_sub(1);
        for (position, behaviour) in service.behaviours.iter().enumerate() {
            let here = Object::Behaviour(index, position);
            if !names.insert(behaviour.name.as_str()) {
                self.duplicate(here, "behaviour", &behaviour.name);
            }
            if matches_everything(&behaviour.path) && position != last {
                self.tell(
                    here,
                    "path",
                    format!(
                        "`{}` matches everything, so that no later behaviour is ever reached",
                        behaviour.path
                    ),
                    "move this behaviour to the end",
                );
            }
            self.behaviour(here, behaviour);
        }
        if !service.behaviours.last().is_some_and(|b| matches_everything(&b.path)) {
            self.tell(
                object,
                "behaviours",
                "the last behaviour does not match everything",
                "end with a [[behaviour]] with path = \"*\"",
            );
        }
    }

    fn behaviour(&mut self, here: Object, behaviour: &Behaviour) {
        self.label(here, "name", &behaviour.name);
        if let Err(what) = glob(&behaviour.path) {
            self.tell(here, "path", what, "write a path like \"/videos/*\" or \"*.m3u8\"");
        }
        let seconds = [
            ("default_ttl_seconds", behaviour.default_ttl_seconds),
            ("override_ttl_seconds", behaviour.override_ttl_seconds),
            ("stale_while_revalidate_seconds", Some(behaviour.stale_while_revalidate_seconds)),
            ("stale_if_error_seconds", Some(behaviour.stale_if_error_seconds)),
            ("negative_ttl_seconds", Some(behaviour.negative_ttl_seconds)),
        ];
        for (field, value) in seconds {
            self.range(here, field, u64::from(value.unwrap_or(0)), 0, TTL_SECONDS_MAX);
        }
        for parameter in behaviour.cache_key.drop.iter().chain(&behaviour.cache_key.keep) {
            let stem = parameter.strip_suffix('*').unwrap_or(parameter);
            if parameter.is_empty() || stem.contains(['*', '&', '=', '#']) || !printable(stem) {
                let what = format!("`{}` is no query parameter", parameter.escape_default());
                self.tell(
                    here,
                    "cache_key",
                    what,
                    "write a name, or the start of one followed by `*`",
                );
            }
        }
        if behaviour.methods.is_empty() {
            self.tell(
                here,
                "methods",
                "no method is answered",
                "write methods = [\"GET\", \"HEAD\"]",
            );
        }
        for method in &behaviour.methods {
            if !METHODS.contains(&method.as_str()) {
                let what = format!("method `{}` is not known", method.escape_default());
                self.tell(here, "methods", what, format!("choose from {}", METHODS.join(", ")));
            }
        }
        for name in &behaviour.vary_ignore {
            let plain = name.strip_suffix('*').unwrap_or(name);
            let good = |b: u8| is_token_byte(b) && !b.is_ascii_uppercase();
            if name.is_empty() || !plain.bytes().all(good) {
                let what = format!("`{}` names no request field", name.escape_default());
                let mend = "write names in lower case, or the start of one followed by `*`";
                self.tell(here, "vary_ignore", what, mend);
            }
        }
        if let Some(redirect) = &behaviour.redirect {
            self.redirect(here, redirect);
        }
        self.pacing(here, &behaviour.pacing);
        let cors = behaviour.cors_allow_origin.as_deref();
        if cors.is_some_and(|value| value.is_empty() || !printable(value)) {
            let mend = "write \"*\" or an origin like \"https://player.example\"";
            self.tell(here, "cors_allow_origin", "not a field value", mend);
        }
        for rule in &behaviour.response_headers {
            let (name, value) = match rule {
                HeaderRule::Set { name, value } | HeaderRule::Add { name, value } => {
                    (name, value.as_str())
                }
                HeaderRule::Remove { name } => (name, ""),
            };
            if name.is_empty() || !name.bytes().all(is_token_byte) {
                let what = format!("`{}` is no field name", name.escape_default());
                self.tell(here, "response_headers", what, "use letters, digits and `-`");
            } else if FRAMING_FIELDS.contains(&name.to_ascii_lowercase().as_str()) {
                let what = format!("`{name}` frames the message and belongs to the server");
                self.tell(here, "response_headers", what, "leave this rule out");
            }
            if value.bytes().any(|b| b < b' ' || b == 0x7f) {
                let what =
                    format!("the value of `{}` holds control characters", name.escape_default());
                self.tell(here, "response_headers", what, "write it on one line");
            }
        }
    }

    fn pacing(&mut self, here: Object, pacing: &Pacing) {
        if let Some(rate) = pacing.rate_max_kbps {
            self.range(here, "rate_max_kbps", u64::from(rate), RATE_KBPS_MIN, RATE_KBPS_MAX);
        }
        self.range(here, "burst", pacing.burst_bytes, 0, BURST_BYTES_MAX);
        if !BITRATE_FACTORS.contains(&pacing.bitrate_factor) {
            let what = format!("bitrate_factor {} is out of range", pacing.bitrate_factor);
            let (min, max) = (BITRATE_FACTORS.start(), BITRATE_FACTORS.end());
            let mend = format!("write one from {min} (just enough) to {max}");
            self.tell(here, "bitrate_factor", what, mend);
        }
    }

    fn redirect(&mut self, here: Object, redirect: &Redirect) {
        const STATUSES: [u16; 5] = [301, 302, 303, 307, 308];
        if !STATUSES.contains(&redirect.status) {
            let what = format!("status {} is no redirect to a location", redirect.status);
            self.tell(here, "redirect", what, "choose from 301, 302, 303, 307, 308");
        }
        let to = redirect.to.as_str();
        if !["https://", "http://", "/"].iter().any(|start| to.starts_with(start)) || !printable(to)
        {
            let what = format!("`{}` is no location", to.escape_default());
            let mend = "write https://..., http://... or a path, without spaces";
            self.tell(here, "redirect", what, mend);
        }
        for (index, piece) in to.split('{').enumerate() {
            let name = piece.split_once('}').map(|(name, _)| name);
            let known = matches!(name, Some("host" | "path" | "query"));
            let stray = if index == 0 { piece.contains('}') } else { !known };
            if stray {
                let what = format!("`{to}` holds a brace that encloses nothing known");
                self.tell(here, "redirect", what, "known are {host}, {path} and {query}");
                break;
            }
        }
        let same_place =
            ["https://{host}{path}", "http://{host}{path}"].iter().any(|same| to.starts_with(same));
        if same_place && !redirect.only_http {
            let what = "it leads back to the request itself";
            self.tell(here, "redirect", what, "add only_http = true, or change the location");
        }
    }

    /// A host belongs to one service, and only one service answers for addresses.
    pub(super) fn hosts(&mut self) {
        let mut owners: HashMap<String, &str> = HashMap::new();
        let mut address_default: Option<&str> = None;
        for (index, service) in self.snapshot.delivery_services.iter().enumerate() {
            let object = Object::DeliveryService(index);
            for host in &service.hosts {
                self.name(object, "hosts", host);
                match owners.insert(host.clone(), &service.id) {
                    Some(other) if other == service.id => {
                        self.tell(
                            object,
                            "hosts",
                            format!("host `{host}` is named twice"),
                            "leave one out",
                        );
                    }
                    Some(other) => {
                        let what =
                            format!("host `{host}` belongs to delivery service `{other}` already");
                        self.tell(object, "hosts", what, "name each host in one delivery service");
                    }
                    None => {}
                }
                let routed =
                    host.strip_suffix(&self.snapshot.zone).and_then(|rest| rest.strip_suffix('.'));
                // Routers answer for content under their own names; caches tell their health there.
                let is_cache = |id: &&str| {
                    let server = self.servers.get(id).map(|index| &self.snapshot.servers[*index]);
                    server.is_some_and(|s| !matches!(s.role, Role::Router | Role::Monitor))
                };
                if let Some(server) = routed.filter(is_cache) {
                    let what = format!("host `{host}` is the name of server `{server}` itself");
                    self.tell(
                        object,
                        "hosts",
                        what,
                        "use another name: nodes ask each other's health there",
                    );
                }
                if let Some((_, id)) = routed.and_then(|rest| rest.rsplit_once('.'))
                    && id != service.id
                {
                    let what = format!("host `{host}` lies under delivery service name `{id}`");
                    self.tell(
                        object,
                        "hosts",
                        what,
                        "use a name outside the zone, or under this service's id",
                    );
                }
            }
            if service.address_default {
                if let Some(first) = address_default {
                    let what = format!("`{first}` is address_default already");
                    self.tell(object, "address_default", what, "mark at most one delivery service");
                }
                address_default.get_or_insert(&service.id);
            }
        }
    }
}

fn glob(path: &str) -> Result<(), String> {
    if !path.starts_with(['/', '*']) {
        return Err(format!("path `{}` begins with neither `/` nor `*`", path.escape_default()));
    }
    if path.len() > GLOB_BYTES_MAX {
        return Err(format!("path has more than {GLOB_BYTES_MAX} bytes"));
    }
    if path.contains("**") {
        return Err(format!("path `{path}`: `**` means no more than `*`"));
    }
    if path.matches('*').count() > GLOB_STARS_MAX {
        return Err(format!("path `{path}` has more than {GLOB_STARS_MAX} `*`"));
    }
    match path.chars().find(|c| !c.is_ascii_graphic() || "[]{}\\#".contains(*c)) {
        Some(c) => Err(format!("path `{}` holds `{}`", path.escape_default(), c.escape_default())),
        None => Ok(()),
    }
}

fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// Seconds that any freshness may last: ten years.
const TTL_SECONDS_MAX: u64 = 10 * 365 * 86_400;
/// Less than any rendition needs.
const RATE_KBPS_MIN: u64 = 512;
const RATE_KBPS_MAX: u64 = 400_000_000;
const BURST_BYTES_MAX: u64 = 64 << 20;
const BITRATE_FACTORS: std::ops::RangeInclusive<f64> = 1.0..=10.0;
const GLOB_BYTES_MAX: usize = 1024;
/// Each `*` multiplies the work of a match that fails.
const GLOB_STARS_MAX: usize = 8;
const METHODS: [&str; 7] = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"];
const FRAMING_FIELDS: [&str; 8] = [
    "connection",
    "content-length",
    "content-range",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
