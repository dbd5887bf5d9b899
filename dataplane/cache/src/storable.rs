//! May this response be stored, and how long does it live (RFC 9111 §3 and §4.2, RFC 5861, RFC 9213)?
//!
//! Must stay true: `no-store` and `private` always win, also over the behaviour; a response that sets a
//! cookie is never stored with it; lifetimes are explicit, configured, or there is no storing: nothing is
//! guessed from `Last-Modified`.

use crate::alternate::vary_names;
use tidegate_contract::snapshot::Behaviour;
use tidegate_http::{CacheControl, Fields, Method, ResponseHead, date};

/// When a request went out and its answer came, in unix milliseconds (RFC 9111 §4.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    pub request_ms: u64,
    pub response_ms: u64,
}

impl From<u64> for Times {
    /// Both at once: the answer took no time.
    fn from(now_ms: u64) -> Times {
        Times { request_ms: now_ms, response_ms: now_ms }
    }
}

/// The judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storage {
    Store(Lifetime),
    No(NoStore),
}

/// Why a response is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoStore {
    /// The behaviour passes everything.
    Behaviour,
    /// Only answers to GET are stored.
    Method,
    /// A status that is never stored here (all 5xx, 400, 401, ...).
    Status,
    /// `Cache-Control: no-store`
    NoStoreDirective,
    /// `Cache-Control: private`
    Private,
    /// The request was authorized and the response does not say that sharing is fine (RFC 9111 §3.5).
    Authorization,
    SetCookie,
    /// `Vary: *`, or a `Vary` that is no list of names.
    Vary,
    /// So many tags that a purge might not reach it.
    Tags,
    /// Neither the response nor the behaviour gives a lifetime.
    NoLifetime,
    /// It would be stale at once and could not be revalidated.
    NoUse,
}

impl NoStore {
    /// A word for logs and for the `detail` of `Cache-Status`.
    pub fn token(self) -> &'static str {
        match self {
            NoStore::Behaviour => "behaviour",
            NoStore::Method => "method",
            NoStore::Status => "status",
            NoStore::NoStoreDirective => "no-store",
            NoStore::Private => "private",
            NoStore::Authorization => "authorization",
            NoStore::SetCookie => "set-cookie",
            NoStore::Vary => "vary",
            NoStore::Tags => "tags",
            NoStore::NoLifetime => "no-lifetime",
            NoStore::NoUse => "no-use",
        }
    }
}

/// How long a stored response may be used, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// When the response came (or was last confirmed), unix milliseconds.
    pub response_ms: u64,
    /// Age that it had then (RFC 9111 §4.2.3, `corrected_initial_age`).
    pub initial_age_ms: u64,
    /// RFC 9111 §4.2.1.
    pub freshness_ms: u64,
    /// RFC 5861 §3: how long after that it may be sent while it is being revalidated.
    pub stale_while_revalidate_ms: u64,
    /// RFC 5861 §4: how long after that it may be sent when the next hop fails.
    pub stale_if_error_ms: u64,
    /// Never sent stale, whatever the windows say.
    pub must_revalidate: bool,
    /// RFC 8246: a reload by the client does not ask the next hop.
    pub immutable: bool,
}

impl Lifetime {
    /// Age in milliseconds. A clock that was set back makes nothing younger than it came.
    pub fn age_ms(&self, now_ms: u64) -> u64 {
        self.initial_age_ms.saturating_add(now_ms.saturating_sub(self.response_ms))
    }

    /// The value for the `Age` field.
    pub fn age_seconds(&self, now_ms: u64) -> u64 {
        self.age_ms(now_ms) / 1000
    }

    /// RFC 9111 §4.2: fresh while the lifetime exceeds the age.
    pub fn is_fresh(&self, now_ms: u64) -> bool {
        self.freshness_ms > self.age_ms(now_ms)
    }

    /// Milliseconds since it went stale; 0 while it is fresh.
    pub fn staleness_ms(&self, now_ms: u64) -> u64 {
        self.age_ms(now_ms).saturating_sub(self.freshness_ms)
    }

    /// For the `ttl` of `Cache-Status`: seconds left, negative when stale.
    pub fn ttl_seconds(&self, now_ms: u64) -> i64 {
        let (freshness, age) = (self.freshness_ms / 1000, self.age_seconds(now_ms));
        i64::try_from(freshness)
            .unwrap_or(i64::MAX)
            .saturating_sub(i64::try_from(age).unwrap_or(i64::MAX))
    }

    /// Stale, but to be sent at once while someone revalidates.
    pub fn in_revalidate_window(&self, now_ms: u64) -> bool {
        !self.must_revalidate
            && !self.is_fresh(now_ms)
            && self.staleness_ms(now_ms) < self.stale_while_revalidate_ms
    }

    /// May be sent when the next hop cannot be reached or answers with an error.
    pub fn in_error_window(&self, now_ms: u64) -> bool {
        self.is_fresh(now_ms)
            || (!self.must_revalidate && self.staleness_ms(now_ms) < self.stale_if_error_ms)
    }

    /// The moment from which it is of no use except for revalidation, unix milliseconds.
    pub fn useful_until_ms(&self) -> u64 {
        let window = self.stale_while_revalidate_ms.max(self.stale_if_error_ms);
        let stale = if self.must_revalidate { 0 } else { window };
        self.response_ms.saturating_add(
            self.freshness_ms.saturating_sub(self.initial_age_ms).saturating_add(stale),
        )
    }
}

/// Nothing is sent staler than this, whatever a response asks for: an origin that is dead for days must not
/// mean old content for ever. The value is the `max_stale_age` that operators of ATS know, 7 days.
pub const STALE_SECONDS_MAX: u64 = 7 * 86_400;

/// Statuses that are stored (206 counts as 200: the caller puts parts together).
fn is_stored_status(status: u16) -> bool {
    matches!(status, 200 | 203 | 204 | 206 | 300 | 301 | 308 | 404 | 410)
        || is_explicit_only(status)
}

/// Not cacheable by default (RFC 9110 §15.1): stored only when the response itself gives a lifetime.
fn is_explicit_only(status: u16) -> bool {
    matches!(status, 302 | 303 | 307)
}

/// Negative answers, with their own lifetime.
fn is_negative(status: u16) -> bool {
    matches!(status, 404 | 410)
}

/// Judges the answer to one request.
pub fn judge_storage(
    request_method: &Method,
    request_fields: &Fields,
    response: &ResponseHead,
    behaviour: &Behaviour,
    times: impl Into<Times>,
) -> Storage {
    let times = times.into();
    if !behaviour.cache {
        return Storage::No(NoStore::Behaviour);
    }
    if *request_method != Method::Get {
        return Storage::No(NoStore::Method);
    }
    if !is_stored_status(response.status) {
        return Storage::No(NoStore::Status);
    }
    let (directives, targeted) = CacheControl::of_response(&response.fields);
    // RFC 9111 §5.2.2.3: a cache that understands the status ignores the no-store beside must-understand.
    if directives.no_store && !directives.must_understand {
        return Storage::No(NoStore::NoStoreDirective);
    }
    if directives.private.is_all() {
        return Storage::No(NoStore::Private);
    }
    // RFC 9111 §3.5.
    let shareable =
        directives.public || directives.must_revalidate || directives.s_maxage.is_some();
    if request_fields.contains("authorization") && !shareable {
        return Storage::No(NoStore::Authorization);
    }
    // Named in private or no-cache, the cookie is taken out before storing (see `stored`), and all is well.
    let cookie_is_taken_out = directives
        .private
        .fields()
        .iter()
        .chain(directives.no_cache.fields())
        .any(|name| name == "set-cookie");
    if response.fields.contains("set-cookie") && !cookie_is_taken_out {
        return Storage::No(NoStore::SetCookie);
    }
    if vary_names(&response.fields, &behaviour.vary_ignore)
        .is_none_or(|names| names.len() > VARY_NAMES_MAX)
    {
        return Storage::No(NoStore::Vary);
    }
    if crate::purge::tags_of(&response.fields).is_none() {
        return Storage::No(NoStore::Tags);
    }
    match lifetime(response, &directives, targeted, behaviour, times) {
        None => Storage::No(NoStore::NoLifetime),
        Some(lifetime) => {
            let validator =
                response.fields.contains("etag") || response.fields.contains("last-modified");
            let windows = lifetime.stale_while_revalidate_ms.max(lifetime.stale_if_error_ms);
            let usable = lifetime.is_fresh(times.response_ms)
                || (!lifetime.must_revalidate && windows > 0)
                || (validator && !is_negative(response.status));
            if usable { Storage::Store(lifetime) } else { Storage::No(NoStore::NoUse) }
        }
    }
}

/// Names in `Vary` that are heeded.
pub const VARY_NAMES_MAX: usize = crate::alternate::NAMES_MAX;

fn lifetime(
    response: &ResponseHead,
    directives: &CacheControl,
    targeted: bool,
    behaviour: &Behaviour,
    times: Times,
) -> Option<Lifetime> {
    let response_seconds = times.response_ms / 1000;
    let date = response.fields.get("date").and_then(|value| date::parse(value, response_seconds));
    let explicit = explicit_seconds(
        &response.fields,
        directives,
        targeted,
        date.unwrap_or(response_seconds),
        response_seconds,
    );
    let negative = is_negative(response.status);
    let overridden = behaviour.override_ttl_seconds.filter(|_| !negative).map(u64::from);
    let seconds = if negative {
        // An origin's generous lifetime for its files must not make an error live as long.
        let own = u64::from(behaviour.negative_ttl_seconds);
        Some(explicit.map_or(own, |explicit| explicit.min(own))).filter(|seconds| *seconds > 0)
    } else if is_explicit_only(response.status) {
        // RFC 9111 §3: no-cache alone is no leave to store it.
        let says = directives.s_maxage.or(directives.max_age).is_some()
            || (!targeted && response.fields.contains("expires"));
        explicit.filter(|_| says)
    } else {
        overridden.or(explicit).or(behaviour.default_ttl_seconds.map(u64::from))
    }?;
    // RFC 9111 §5.2.2.4: no-cache means asking before every use, unless the operator overrode it.
    let no_cache = directives.no_cache.is_all() && overridden.is_none();
    let must_revalidate = no_cache || directives.must_revalidate || directives.proxy_revalidate;
    let window = |own: Option<u64>, configured: u32| {
        let seconds = match own {
            _ if negative => 0,
            Some(own) => own,
            // RFC 9111 §5.2.2.10: s-maxage forbids stale use, except where the same response asks for it.
            None if directives.s_maxage.is_some() => 0,
            None => u64::from(configured),
        };
        seconds.min(STALE_SECONDS_MAX) * 1000
    };
    Some(Lifetime {
        response_ms: times.response_ms,
        initial_age_ms: initial_age_ms(&response.fields, date, times, overridden.is_some()),
        freshness_ms: if no_cache { 0 } else { seconds * 1000 },
        stale_while_revalidate_ms: window(
            directives.stale_while_revalidate,
            behaviour.stale_while_revalidate_seconds,
        ),
        stale_if_error_ms: window(directives.stale_if_error, behaviour.stale_if_error_seconds),
        must_revalidate,
        immutable: directives.immutable,
    })
}

/// RFC 9111 §4.2.1, for a shared cache: `s-maxage`, then `max-age`, then `Expires` minus `Date`.
fn explicit_seconds(
    fields: &Fields,
    directives: &CacheControl,
    targeted: bool,
    date: u64,
    now: u64,
) -> Option<u64> {
    if let Some(seconds) = directives.s_maxage.or(directives.max_age) {
        return Some(seconds);
    }
    if directives.no_cache.is_all() {
        return Some(0);
    }
    // RFC 9213 §2.2: a targeted field without a lifetime leaves none.
    if targeted {
        return None;
    }
    // RFC 9111 §5.3: what is no date (above all `0`) lies in the past; of several the earliest counts.
    fields
        .get_all("expires")
        .map(|value| date::parse(value, now).map_or(0, |expires| expires.saturating_sub(date)))
        .min()
        .map(|seconds| seconds.min(tidegate_http::cache_control::DELTA_SECONDS_MAX))
}

/// RFC 9111 §4.2.3. Under an overridden lifetime the origin's clock is left out: what counts is the time that
/// caches have held the response.
fn initial_age_ms(fields: &Fields, date: Option<u64>, times: Times, overridden: bool) -> u64 {
    // RFC 9111 §5.1: the first member of several counts; what is no number is ignored.
    let age_value = fields.get("age").and_then(|value| {
        let first = value.split(|b| *b == b',').next().unwrap_or(value);
        let digits = tidegate_http::trim(first);
        let legal = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        legal.then(|| {
            digits
                .iter()
                .fold(0u64, |n, b| n.saturating_mul(10).saturating_add(u64::from(b - b'0')))
        })
    });
    let age_ms = age_value.unwrap_or(0).min(tidegate_http::cache_control::DELTA_SECONDS_MAX) * 1000;
    let corrected_age_ms = age_ms + times.response_ms.saturating_sub(times.request_ms);
    let apparent_age_ms = match date.filter(|_| !overridden) {
        Some(date) => match (times.response_ms / 1000).saturating_sub(date) {
            // Date names a second, not a moment in it: less than two may be no more than a tick of the clock since the
            // tier before wrote it. Taken for a whole second, what lives for one would be stale on arrival.
            1 => times.response_ms - (date * 1000 + 999),
            seconds => seconds.saturating_mul(1000),
        },
        None => 0,
    };
    corrected_age_ms.max(apparent_age_ms)
}

/// RFC 9111 §4.4: a non-error answer to an unsafe method makes what is stored under that path invalid.
pub fn invalidates(request_method: &Method, status: u16) -> bool {
    !request_method.is_safe() && (200..400).contains(&status)
}

#[cfg(test)]
#[path = "storable_tests.rs"]
mod tests;
