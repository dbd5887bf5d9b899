//! What to do with a request, given what is stored (RFC 9111 §4).
//!
//! Must stay true: a stale response is sent only inside a window that was set when it was stored, and never
//! when it must be revalidated; a 304 confirms only the version that was asked about.

use crate::alternate::vary_names;
use crate::storable::{NoStore, Storage, Times, judge_storage};
use crate::stored::{StoredHead, kept_fields};
use tidegate_contract::snapshot::Behaviour;
use tidegate_http::{
    CacheControl, EntityTag, Fields, Method, RequestHead, ResponseHead, Validators, Version,
    hop_by_hop,
};
use tidegate_types::Forward;

/// The judgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send what is stored, with this `Age`.
    Hit { age_seconds: u64 },
    /// Send what is stored, with this `Age`, and revalidate it meanwhile.
    StaleWhileRevalidate { age_seconds: u64 },
    /// Ask the next hop whether it is still good, then send. The reason is `stale` or `request`.
    Revalidate(Forward),
    /// Get it from the next hop and store it if that is allowed.
    Fill(Forward),
    /// Get it from the next hop, store nothing.
    Pass(Forward),
    /// Answer with this status without asking anybody.
    Synth(u16),
}

/// Whether the wishes of clients about freshness are obeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientDirectives {
    /// The policy of a CDN, and the default: only `only-if-cached` is. Browsers send `max-age=0` or `no-cache` on reload; one
    /// page reloaded by many must not become load on the origin.
    Ignore,
    /// RFC 9111 §5.2.1 to the letter, where a behaviour says so (`obey_clients`).
    Obey,
}

/// Judges a request under the behaviour's policy.
pub fn lookup(
    entry: Option<&StoredHead>,
    request: &RequestHead,
    behaviour: &Behaviour,
    now_ms: u64,
) -> Verdict {
    let policy = match behaviour.obey_clients {
        true => ClientDirectives::Obey,
        false => ClientDirectives::Ignore,
    };
    lookup_with(policy, entry, request, behaviour, now_ms)
}

/// Judges a request under either policy.
pub fn lookup_with(
    policy: ClientDirectives,
    entry: Option<&StoredHead>,
    request: &RequestHead,
    behaviour: &Behaviour,
    now_ms: u64,
) -> Verdict {
    if !behaviour.methods.iter().any(|method| method == request.method.as_str()) {
        return Verdict::Synth(405);
    }
    if !matches!(request.method, Method::Get | Method::Head) {
        return Verdict::Pass(Forward::Method);
    }
    if !behaviour.cache {
        return Verdict::Pass(Forward::Bypass);
    }
    let mut directives = CacheControl::from_fields(&request.fields);
    let verdict = judge(policy, entry, request, &mut directives, now_ms);
    let asks_next_hop =
        matches!(verdict, Verdict::Revalidate(_) | Verdict::Fill(_) | Verdict::Pass(_));
    // RFC 9111 §5.2.1.7.
    if directives.only_if_cached && asks_next_hop { Verdict::Synth(504) } else { verdict }
}

fn judge(
    policy: ClientDirectives,
    entry: Option<&StoredHead>,
    request: &RequestHead,
    directives: &mut CacheControl,
    now_ms: u64,
) -> Verdict {
    let Some(entry) = entry else { return Verdict::Fill(Forward::UriMiss) };
    if !entry.matches_vary(&request.fields) {
        return Verdict::Fill(Forward::VaryMiss);
    }
    let lifetime = &entry.lifetime;
    let age_seconds = lifetime.age_seconds(now_ms);
    let ask_again = |why| {
        if entry.can_revalidate() && entry.status == 200 {
            Verdict::Revalidate(why)
        } else {
            Verdict::Fill(why)
        }
    };
    if policy == ClientDirectives::Obey {
        // RFC 9111 §5.4: Pragma counts only where there is no Cache-Control.
        let pragma = !request.fields.contains("cache-control")
            && request
                .fields
                .get_all("pragma")
                .any(|value| value.eq_ignore_ascii_case(b"no-cache"));
        let too_old = directives.max_age.is_some_and(|seconds| age_seconds > seconds);
        let too_short = directives
            .min_fresh
            .is_some_and(|seconds| lifetime.ttl_seconds(now_ms) < seconds as i64);
        let reload = pragma || directives.no_cache.is_all() || too_old;
        // RFC 8246 §2: a reload does not revalidate what is immutable and fresh.
        if too_short || (reload && !(lifetime.immutable && lifetime.is_fresh(now_ms))) {
            return ask_again(Forward::Request);
        }
    }
    if lifetime.is_fresh(now_ms) {
        return Verdict::Hit { age_seconds };
    }
    if policy == ClientDirectives::Obey
        && let Some(accepted) = directives.max_stale
        && !lifetime.must_revalidate
        && lifetime.staleness_ms(now_ms) <= accepted.saturating_mul(1000)
    {
        return Verdict::Hit { age_seconds };
    }
    if lifetime.in_revalidate_window(now_ms) {
        return Verdict::StaleWhileRevalidate { age_seconds };
    }
    ask_again(Forward::Stale)
}

/// The next hop failed (no connection, no answer in time, or a status of [`is_next_hop_error`]): may what is
/// stored be sent instead (RFC 5861 §4)?
pub fn may_serve_stale_on_error(entry: &StoredHead, now_ms: u64) -> bool {
    entry.lifetime.in_error_window(now_ms)
}

/// Statuses that count as an error of the next hop (RFC 5861 §4).
pub fn is_next_hop_error(status: u16) -> bool {
    matches!(status, 500 | 502 | 503 | 504)
}

/// Adds the conditions that ask the next hop about `entry` (RFC 9111 §4.3.1). Conditions of the client are
/// taken out first: they are answered here, from what comes back.
pub fn set_revalidation_fields(entry: &StoredHead, request: &mut Fields) {
    for name in [
        "if-match",
        "if-unmodified-since",
        "if-none-match",
        "if-modified-since",
        "if-range",
        "range",
    ] {
        request.remove(name);
    }
    // The values were fields already, so they pass the check again.
    if let Some(tag) = &entry.validators.etag {
        let _ = request.set("if-none-match", tag.to_bytes());
    }
    if let Some(value) = entry.fields.get_bytes("last-modified")
        && entry.validators.last_modified.is_some()
    {
        let _ = request.set("if-modified-since", value.clone());
    }
}

/// What a 304 makes of the stored head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merged {
    /// Confirmed: keep this head in place of the stored one.
    Updated(StoredHead),
    /// Confirmed, but its new fields forbid keeping it: send it for this request, then drop the entry.
    SendOnce(StoredHead, NoStore),
    /// The 304 speaks of another version: drop the entry and fill without conditions.
    OtherVersion,
}

/// Puts the fields of a 304 over the stored ones (RFC 9111 §3.2, §4.3.4). `request_fields` are those that
/// were sent to the next hop.
pub fn merge_304(
    stored: &StoredHead,
    response: &ResponseHead,
    request_fields: &Fields,
    behaviour: &Behaviour,
    times: impl Into<Times>,
) -> Merged {
    let times = times.into();
    if !confirms(&stored.validators, &response.fields, times.response_ms / 1000) {
        return Merged::OtherVersion;
    }
    let mut own = response.fields.clone();
    hop_by_hop::remove(&mut own);
    let mut fields = stored.fields.clone();
    let updates = |name: &str| !NOT_UPDATED.contains(&name);
    for name in own.iter().map(|(name, _)| name).filter(|name| updates(name)) {
        fields.remove(name);
    }
    // The stored Date belongs to the first answer; without a new one the time of arrival counts (§4.2.3).
    if !own.contains("date") {
        fields.remove("date");
    }
    for (name, value) in own.iter().filter(|(name, _)| updates(name)) {
        // Checked when they were parsed.
        let _ = fields.append(name.to_owned(), bytes::Bytes::copy_from_slice(value));
    }
    // The age is that of the 304, not of what is stored.
    let mut judged = ResponseHead { status: stored.status, version: Version::Http11, fields };
    if let Some(age) = own.get_bytes("age") {
        let _ = judged.fields.set("age", age.clone());
    }
    let storage = judge_storage(&Method::Get, request_fields, &judged, behaviour, times);
    let mut updated = stored.clone();
    updated.fields = kept_fields(&judged.fields, times.response_ms);
    updated.validators = Validators::from_fields(&updated.fields, times.response_ms / 1000);
    // RFC 9111 §4.1 holds for what a 304 says of Vary, too: which requests this may answer is not known until it is asked for
    // by all names.
    let is_chosen = |name: &String| updated.vary.iter().any(|(known, _)| known == name);
    let names = vary_names(&updated.fields, &behaviour.vary_ignore);
    match storage {
        Storage::Store(_) if !names.is_some_and(|names| names.iter().all(is_chosen)) => {
            Merged::OtherVersion
        }
        Storage::Store(lifetime) => {
            updated.lifetime = lifetime;
            Merged::Updated(updated)
        }
        Storage::No(reason) => {
            updated.lifetime.response_ms = times.response_ms;
            updated.lifetime.initial_age_ms = 0;
            updated.lifetime.freshness_ms = 0;
            updated.lifetime.must_revalidate = true;
            Merged::SendOnce(updated, reason)
        }
    }
}

/// RFC 9111 §3.2: they describe the bytes that are stored, or this exchange only.
const NOT_UPDATED: &[&str] =
    &["age", "cache-status", "content-encoding", "content-length", "content-range", "content-type"];

/// RFC 9111 §4.3.4: a 304 with a validator confirms what has the same one; without any it confirms the only
/// version that was asked about.
fn confirms(stored: &Validators, response: &Fields, now: u64) -> bool {
    let new = Validators::from_fields(response, now);
    match (&new.etag, &stored.etag) {
        (Some(new), Some(old)) => same_tag(new, old),
        (Some(_), None) => false,
        (None, _) => match (new.last_modified, stored.last_modified) {
            (Some(new), Some(old)) => new == old,
            (Some(_), None) => stored.etag.is_some(),
            (None, _) => true,
        },
    }
}

/// Strong tags must be equal; if one is weak, weak equality is all there is.
fn same_tag(new: &EntityTag, old: &EntityTag) -> bool {
    new.weak_eq(old)
}

#[cfg(test)]
#[path = "lookup_tests.rs"]
mod tests;
