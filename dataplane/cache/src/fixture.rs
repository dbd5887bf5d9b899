//! Values that the tests of this crate share.

use tidegate_contract::snapshot::{Behaviour, CacheKeyRule};
use tidegate_http::{Fields, Method, RequestHead, ResponseHead, Version, date};

/// Fri, 20 Nov 2026, in unix milliseconds.
pub const NOW: u64 = 1_795_132_800_000;

pub fn behaviour() -> Behaviour {
    Behaviour {
        name: "all".into(),
        path: "*".into(),
        cache: true,
        default_ttl_seconds: None,
        override_ttl_seconds: None,
        stale_while_revalidate_seconds: 0,
        stale_if_error_seconds: 0,
        negative_ttl_seconds: 10,
        hedge: false,
        compress: false,
        cache_key: CacheKeyRule { drop: vec![], keep: vec![], sort: false },
        vary_ignore: tidegate_contract::vary_ignore_default(),
        pacing: tidegate_contract::Pacing::default(),
        cors_allow_origin: None,
        redirect: None,
        response_headers: vec![],
        methods: ["GET", "HEAD", "OPTIONS"].map(str::to_owned).to_vec(),
    }
}

/// Fields from `name: value` lines; `{+5}` and `{-5}` stand for the date so many seconds from `NOW`.
pub fn fields(lines: &str) -> Fields {
    let mut fields = Fields::new();
    for line in lines.lines() {
        let (name, value) = line.split_once(':').expect("a field line");
        let value = match (value.find('{'), value.find('}')) {
            (Some(open), Some(close)) => {
                let seconds: i64 = value[open + 1..close].parse().expect("seconds");
                let date = date::format((NOW / 1000).saturating_add_signed(seconds));
                format!("{}{date}{}", &value[..open], &value[close + 1..])
            }
            _ => value.to_owned(),
        };
        fields.append(name.to_owned(), value).expect("a good field");
    }
    fields
}

pub fn response(status: u16, lines: &str) -> ResponseHead {
    ResponseHead { status, version: Version::Http11, fields: fields(lines) }
}

pub fn request(method: Method, lines: &str) -> RequestHead {
    RequestHead {
        method,
        path: "/a".into(),
        query: None,
        authority: None,
        scheme_in_target: None,
        version: Version::Http11,
        fields: fields(lines),
    }
}
