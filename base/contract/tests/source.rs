//! Goal: every mistake in a source tree is found, named with its place, and told how to mend.
//! Method: one edit of the example tree per rule, checked against the text and line of the diagnostic.

mod common;

use common::{example, example_files};
use tidegate_contract::{LocationStyle, Role, ServerStatus, compile};

/// Replaces the first `from` in `file` and gives back all diagnostics as text.
fn edited(file: &str, from: &str, to: &str) -> String {
    let mut files = example_files();
    let (_, text) = files.iter_mut().find(|(name, _)| name == file).unwrap();
    assert!(text.contains(from), "{file} does not hold {from}");
    *text = text.replacen(from, to, 1);
    match compile(&files, 7) {
        Ok(_) => String::new(),
        Err(diagnostics) => diagnostics.iter().map(|d| format!("{d}\n")).collect(),
    }
}

#[test]
fn the_example_compiles_to_what_it_says() {
    let snapshot = example();
    assert_eq!((snapshot.generation, snapshot.zone.as_str()), (7, "cdn.example.net"));
    assert_eq!(snapshot.steering.location, LocationStyle::Name);
    assert_eq!(snapshot.servers.len(), 12);
    assert_eq!(snapshot.coverage_zones.len(), 7);
    let edge = &snapshot.servers[0];
    assert_eq!(
        (edge.role, edge.status, edge.machine.ram_bytes),
        (Role::Edge, ServerStatus::Reported, 16 << 30)
    );
    let [playlists, segments, api, subtitles, old, rest] =
        &snapshot.delivery_services[0].behaviours[..]
    else {
        panic!()
    };
    assert_eq!((playlists.default_ttl_seconds, playlists.stale_if_error_seconds), (Some(15), 3600));
    assert_eq!(segments.default_ttl_seconds, Some(3600));
    assert!(!api.cache && api.methods.contains(&"POST".to_owned()));
    let common = tidegate_contract::Pacing {
        rate_max_kbps: Some(100_000),
        congestion: Some(tidegate_contract::Congestion::Bbr),
        ..Default::default()
    };
    assert_eq!((playlists.pacing, rest.pacing), (common, common));
    assert_eq!((api.pacing.rate_max_kbps, api.pacing.cmcd), (Some(20_000), false));
    assert_eq!(api.pacing.congestion, common.congestion, "what it does not say is the service's");
    let own = subtitles.store_admission;
    assert_eq!((own, rest.store_admission), (Some(tidegate_contract::Admission::Always), None));
    assert_eq!(subtitles.vary_ignore, tidegate_contract::vary_ignore_default());
    let redirect = old.redirect.as_ref().unwrap();
    assert_eq!((redirect.status, redirect.only_http), (308, false));
    assert_eq!(
        redirect.location("films.example.net", "/clips/a", Some("b=1")),
        "https://films.example.net/videos?b=1"
    );
    assert_eq!((rest.default_ttl_seconds, rest.negative_ttl_seconds), (Some(60), 5));
}

#[test]
fn explicit_numbers_win_over_the_class() {
    let mut files = example_files();
    let from = "class = \"vod-playlist\"";
    files[3].1 = files[3].1.replacen(
        from,
        &format!("{from}\ndefault_ttl_seconds = 4\nnegative_ttl_seconds = 0"),
        1,
    );
    let behaviour = &compile(&files, 1).unwrap().delivery_services[0].behaviours[0];
    assert_eq!((behaviour.default_ttl_seconds, behaviour.negative_ttl_seconds), (Some(4), 0));
    assert_eq!(behaviour.stale_if_error_seconds, 3600);
}

#[test]
fn every_mistake_is_found_with_its_place_and_mend() {
    const CDN: &str = "cdn.toml";
    const SERVERS: &str = "servers.toml";
    const FILMS: &str = "delivery-services/films.toml";
    const ZONES: &str = "coverage-zones.json";
    let table: &[(&str, &str, &str, &[&str])] = &[
        (
            CDN,
            "zone = ",
            "zoen = ",
            &["cdn.toml:12:1: unknown key `zoen`", "did you mean `zone`?", "zone is missing"],
        ),
        (CDN, "[steering]", "[stearing]", &["did you mean `steering`?", "steering is missing"]),
        (
            CDN,
            "default_group = \"berlin\"",
            "default_group = \"berlim\"",
            &["cdn.toml:19:17", "did you mean `berlin`?"],
        ),
        (
            CDN,
            "default_group = \"berlin\"",
            "default_group = \"core\"",
            &["holds no server with role edge"],
        ),
        (
            CDN,
            "dns_ttl_seconds = 20",
            "dns_ttl_seconds = 0",
            &["cdn.toml:21:19", "from 1 to 86400"],
        ),
        (
            CDN,
            "dns_ttl_seconds = 20",
            "dns_ttl_seconds = 2\ndns_ttl_seconds = 3",
            &["cdn.toml:22:1", "duplicate key"],
        ),
        (CDN, "location = \"name\"", "location = \"nmae\"", &["did you mean \"name\"?"]),
        (
            CDN,
            "coverage-zones.json\"\n",
            "zones.json\"\n",
            &["there is no coverage zone file", "has no place"],
        ),
        (
            SERVERS,
            "store_admission = \"adaptive\"",
            "store_admission = \"never\"",
            &["servers.toml:99:19", "never written to", "leave out the server's `stores`"],
        ),
        (
            FILMS,
            "store_admission = \"always\"",
            "store_admission = \"often\"",
            &["films.toml:81:19", "store_admission", "second-request"],
        ),
        (CDN, "cdn = \"example\"", "cdn = \"Ex ample\"", &["cdn.toml:9:7", "lower-case"]),
        (CDN, "cdn = \"example\"", "cdn = \"example", &["cdn.toml:9:"]),
        (
            SERVERS,
            "id = \"edge-b2\"",
            "id = \"edge-b1\"",
            &["a second server called `edge-b1`", "servers.toml:58:6"],
        ),
        (SERVERS, "id = \"lisbon\"", "id = \"berlin\"", &["a second cache group called `berlin`"]),
        (
            SERVERS,
            "192.0.2.12",
            "192.0.2.11",
            &["192.0.2.11 port 80 is taken by http_port of server `edge-b1`"],
        ),
        (
            SERVERS,
            "parent_group = \"core\"\n",
            "\n",
            &["group `berlin` holds edges but names no parent_group"],
        ),
        (
            SERVERS,
            "parent_group = \"core\"\n",
            "parent_group = \"cor\"\n",
            &["did you mean `core`?"],
        ),
        (
            SERVERS,
            "parent_group = \"core\"\n",
            "parent_group = \"lisbon\"\n",
            &["holds no server with role parent"],
        ),
        (SERVERS, "fallbacks = [\"lisbon\"]", "fallbacks = [\"berlin\"]", &["own fallback"]),
        (SERVERS, "role = \"edge\"", "role = \"egde\"", &["did you mean \"edge\"?"]),
        (SERVERS, "role = \"edge\"\n", "\n", &["role is missing"]),
        (
            SERVERS,
            "origin_root = \"/srv/films\"",
            "",
            &["server `origin-1` with role origin lacks origin_root"],
        ),
        (
            SERVERS,
            "heartbeat_port = 7946",
            "",
            &["server `router-1` with role router lacks heartbeat_port"],
        ),
        (SERVERS, "dns_port = 53", "dns_port = 7946", &["dns_port", "taken"]),
        (
            SERVERS,
            "cache_group = \"berlin\"",
            "cache_group = \"berli\"",
            &["did you mean `berlin`?"],
        ),
        (
            SERVERS,
            "cache_group = \"berlin\"",
            "",
            &["server `edge-b1` with role edge lacks cache_group"],
        ),
        (
            SERVERS,
            "http_port = 80\n",
            "http_port = 70000\n",
            &["http_port is 70000 here", "0 to 65535"],
        ),
        (SERVERS, "\"192.0.2.11\"", "\"192.0.2\"", &["`192.0.2` is no IP address"]),
        (SERVERS, "\"192.0.2.11\"", "\"0.0.0.0\"", &["no client can reach `0.0.0.0`"]),
        (
            SERVERS,
            "latitude = 52.52",
            "latitude = 152.52",
            &["no place on Earth", "from -90 to 90"],
        ),
        (SERVERS, "weight = 1.0", "weight = -1.0", &["weight -1 is out of range"]),
        (SERVERS, "ram_bytes = \"16 GiB\"", "ram_bytes = \"16 GB\"", &["\"512 MiB\""]),
        (
            SERVERS,
            "memory_bytes = \"24 GiB\"",
            "memory_bytes = \"16 GiB\"",
            &[
                "memory_bytes is 16384 MiB",
                "index of the store 512 MiB",
                "less ram_bytes, or fewer bytes of stores",
            ],
        ),
        (
            SERVERS,
            "certificates = [{ chain = \"/etc/tidegate/tls/edge.pem\", key = \"/etc/tidegate/tls/edge.key\" }]",
            "",
            &["`edge-b1` has https_port but no certificate"],
        ),
        (SERVERS, ", key = \"/etc/tidegate/tls/edge.key\" }]", " }]", &["key is missing"]),
        (
            SERVERS,
            "certificates = [{ chain = \"/etc/tidegate/tls/edge.pem\"",
            "certificates = [{ chain = \"\"",
            &["not a path"],
        ),
        (
            SERVERS,
            "parent_group = \"core\"\n",
            "parent_group = \"core\"\npeering = true\n",
            &["peering, but no fleet_tls: edge-b1"],
        ),
        (
            SERVERS,
            "stores = [{ path = \"/var/lib/tidegate/store\", bytes = \"3 TiB\" }]\n# Folder",
            "store_path = \"/var/lib/tidegate/store\"\n# Folder",
            &["store_path is not read any more", "stores = [{ path ="],
        ),
        (
            SERVERS,
            "stores = [{ path = \"/var/lib/tidegate/store\", bytes = \"3 TiB\" }]\n# Folder",
            "stores = [{ path = \"/a/b\" }, { path = \"/a/c\" }, { path = \"/a//b\" }]\n# Folder",
            &["`/a/b` and `/a//b` of stores are the same", "leave one out"],
        ),
        (
            SERVERS,
            "stores = [{ path = \"/var/lib/tidegate/store\", bytes = \"3 TiB\" }]\n# Folder",
            "stores = [{ bytes = \"3 TiB\" }]\n# Folder",
            &["path is missing"],
        ),
        (SERVERS, "state_dir = \"/var/lib/tidegate\"", "state_dir = \"\"", &["not a path"]),
        (
            SERVERS,
            "state_dir = \"/var/lib/tidegate\"",
            "admin_tls = { chain = \"/a\", key = \"/b\", authorities = \"/c\", revoked = \"\" }",
            &["not a path"],
        ),
        (FILMS, "origins = [\"origin-1\"]", "origins = []", &["no origin"]),
        (
            FILMS,
            "origins = [\"origin-1\"]",
            "origins = [\"edge-b1\"]",
            &["another role than origin"],
        ),
        (FILMS, "path = \"*\"", "path = \"/rest/*\"", &["does not match everything"]),
        (
            FILMS,
            "path = \"*.m3u8\"",
            "path = \"*\"",
            &["no later behaviour", "move this behaviour to the end"],
        ),
        (FILMS, "path = \"*.m4s\"", "path = \"seg/[0-9]\"", &["begins with neither"]),
        (FILMS, "path = \"*.m4s\"", "path = \"/**\"", &["`**` means no more"]),
        (
            FILMS,
            "hosts = [\"films.example.net\"]",
            "hosts = [\"a.b\", \"a.b\"]",
            &["host `a.b` is named twice"],
        ),
        (
            FILMS,
            "hosts = [\"films.example.net\"]",
            "hosts = [\"Films.example\"]",
            &["no host name"],
        ),
        (
            FILMS,
            "hosts = [\"films.example.net\"]",
            "hosts = [\"x.other.cdn.example.net\"]",
            &["lies under"],
        ),
        (
            FILMS,
            "class = \"media-segment\"",
            "class = \"media-segments\"",
            &["did you mean \"media-segment\"?"],
        ),
        (FILMS, "class = \"media-segment\"", "default_ttl_seconds = 4000000000", &["out of range"]),
        (FILMS, "name = \"Pragma\"", "name = \"Pra gma\"", &["no field name"]),
        (FILMS, "value = \"eu\"", "value = \"e\\nu\"", &["control characters"]),
        (
            FILMS,
            "op = \"set\", name = \"X-Region\"",
            "op = \"set\", name = \"Content-Length\"",
            &["frames the message"],
        ),
        (SERVERS, "name = \"films.origin", "name = \"Films.origin", &["is no host name"]),
        (
            SERVERS,
            "https_port = 443\nadmin_port = 9090\norigin_tls",
            "admin_port = 9090\norigin_tls",
            &["lacks https_port"],
        ),
        (
            SERVERS,
            "origin_tls = { name",
            "origin_tls = { nome",
            &["did you mean `name`?", "name is missing"],
        ),
        (SERVERS, "ca_file = \"/etc", "ca_file = \"\", x = \"/etc", &["unknown key `x`"]),
        (
            SERVERS,
            "region = \"eu",
            "regio = \"eu",
            &["did you mean `region`?", "region is missing"],
        ),
        (SERVERS, "bucket = \"films\"", "bucket = \"fil/ms\"", &["region or bucket is no name"]),
        (SERVERS, "prefix = \"vod\"", "prefix = \"\"", &["prefix is no part of a path"]),
        (
            SERVERS,
            "credentials_file = \"/etc/tidegate/s3\"",
            "credentials_file = \"\"",
            &["is no path"],
        ),
        (
            SERVERS,
            "role = \"origin\"\naddresses = [\"203.0.113.33\"]",
            "role = \"router\"\naddresses = [\"203.0.113.33\"]",
            &["origin_s3 says how an origin is asked"],
        ),
        (SERVERS, "requests_max = 64", "requests_max = 0", &["requests_max = 0 is out of range"]),
        (
            SERVERS,
            "requests_max = 64",
            "request_max = 64",
            &["did you mean `requests_max`?", "requests_max is missing"],
        ),
        (SERVERS, "origin_name = \"films", "origin_name = \"-films", &["is no host name"]),
        (
            SERVERS,
            "origin_name = \"films",
            "addresses = [\"203.0.113.34\"]\norigin_name = \"films",
            &["it has a name and addresses"],
        ),
        (
            FILMS,
            "hosts = [\"films.example.net\"]",
            "hosts = [\"parent-1.cdn.example.net\"]",
            &["is the name of server `parent-1` itself"],
        ),
        (SERVERS, "origin_health = \"/", "origin_health = \"", &["`health.txt` is no path"]),
        (FILMS, "\"sec-*\"", "\"Sec-*\"", &["`Sec-*` names no request field"]),
        (FILMS, "https://{host}/videos", "ftp://{host}/videos", &["is no location"]),
        (FILMS, "{host}/videos", "{port}/videos", &["known are {host}, {path} and {query}"]),
        (FILMS, "{host}/videos{query}", "{host}{path}", &["leads back to the request itself"]),
        (FILMS, "status = 308", "status = 304", &["is no redirect"]),
        (FILMS, "methods = [\"GET\"", "methods = [\"GRAB\"", &["method `GRAB` is not known"]),
        (
            FILMS,
            "rate_max_kbps = 100000",
            "rate_max_kbps = 100",
            &["films.toml:28:17: rate_max_kbps = 100 is out", "write a number from 512 to"],
        ),
        (
            FILMS,
            "congestion = \"bbr\"",
            "congestion = \"brr\"",
            &["films.toml:30:14", "did you mean \"bbr\"?"],
        ),
        (
            FILMS,
            "bitrate_factor = 1.5",
            "bitrate_factor = 0.5",
            &["films.toml:34:18: bitrate_factor 0.5 is out", "from 1 (just enough) to 10"],
        ),
        (FILMS, "burst = \"256 KiB\"", "burst = \"1 GiB\"", &["films.toml:35:9: burst = "]),
        (
            FILMS,
            "debug_token_sha256 = \"",
            "debug_token_sha256 = \"x",
            &["films.toml:22:22: the SHA-256 of a token is 64", "sha256sum"],
        ),
        (FILMS, "pass_cmcd", "pass_cmdc", &["did you mean `pass_cmcd`?"]),
        (
            FILMS,
            "rate_max_kbps = 20000, cmcd = false",
            "rate_max_kbps = 1",
            &["films.toml:72:28: rate_max_kbps = 1 is out"],
        ),
        (
            ZONES,
            "192.0.2.0/24",
            "192.0.2.1/24",
            &["coverage-zones.json:4:19", "write 192.0.2.0/24"],
        ),
        (ZONES, "192.0.2.0/24", "198.51.100.0/24", &["is placed twice"]),
        (ZONES, "192.0.2.0/24", "192.0.2/24", &["is no prefix"]),
        (
            ZONES,
            "\"lisbon\"",
            "\"lisboa\"",
            &["there is no cache group called `lisboa`", "coverage-zones.json:7:5"],
        ),
        (ZONES, "\"network\"", "\"networks\"", &["unknown field"]),
        (ZONES, "[\"192", "\"192", &["coverage-zones.json:4:"]),
        ("keys/heartbeat.key", "5a5a", "5a5", &["keys/heartbeat.key:1:1", "64 hexadecimal"]),
    ];
    let mut failures = String::new();
    for (file, from, to, wanted) in table {
        let found = edited(file, from, to);
        for want in wanted.iter().chain(&["mend: "]).filter(|want| !found.contains(**want)) {
            failures += &format!(
                "{file}: {from:?} -> {to:?}
wanted: {want}
found:
{found}
"
            );
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn all_problems_come_at_once_and_two_address_defaults_are_one() {
    let mut files = example_files();
    let second = files[3].1.replace("id = \"films\"", "id = \"other\"");
    files.push(("delivery-services/other.toml".to_owned(), second));
    files[1].1 = files[1].1.replace("latitude = 52.52", "latitude = 99.0");
    let found = compile(&files, 1).unwrap_err();
    let text: String = found.iter().map(|d| format!("{d}\n")).collect();
    for want in
        ["is address_default already", "belongs to delivery service `films`", "no place on Earth"]
    {
        assert!(text.contains(want), "{text}");
    }
}

#[test]
fn what_all_behaviours_inherit_is_told_once() {
    let found = edited("delivery-services/films.toml", "burst = \"256 KiB\"", "burst = \"65 MiB\"");
    assert_eq!(found.matches("burst = ").count(), 1, "{found}");
}

#[test]
fn missing_files_are_named() {
    let mut files = example_files();
    files.retain(|(name, _)| name != "keys/heartbeat.key" && name != "cdn.toml");
    let found: String = compile(&files, 1).unwrap_err().iter().map(|d| format!("{d}\n")).collect();
    assert!(found.contains("keys/heartbeat.key:1:1") && found.contains("cdn.toml:1:1"), "{found}");
}

#[test]
fn cut_files_never_panic_and_never_compile_to_something_unchecked() {
    let files = example_files();
    for index in 0..files.len() {
        for cut in 0..files[index].1.len() {
            let mut cut_files = files.clone();
            if files[index].1.is_char_boundary(cut) && cut % 7 == 0 {
                cut_files[index].1.truncate(cut);
                if let Ok(snapshot) = compile(&cut_files, 1) {
                    assert_eq!(tidegate_contract::check::check(&snapshot), []);
                }
            }
        }
    }
}

#[test]
fn hints_name_what_is_allowed_and_not_meant() {
    let hints = |from: &str, to: &str| {
        let mut files = example_files();
        assert!(files[3].1.contains(from), "{from}");
        files[3].1 = files[3].1.replacen(from, to, 1);
        let (_, hints) = tidegate_contract::compile_with_hints(&files, 1).unwrap();
        hints.iter().map(|hint| format!("{hint}\n")).collect::<String>()
    };
    let films = "delivery-services/films.toml:";
    for (from, to, wanted) in [
        ("path = \"*.m4s\"", "path = \"/x/*.m3u8\"", "is never reached: behaviour `playlists`"),
        ("\"token\", \"CMCD\"", "\"CMCD\"", "token is part of the cache key"),
        ("drop = [\"token\", \"CMCD\", \"utm_*\"]", "keep = [\"token\"]", "`token` is kept"),
        ("\"cookie\", \"origin\"", "\"cookie\"", "`Vary: origin` is stored once for each page"),
        (
            "{ op = \"remove\", name = \"Pragma\" }",
            "{ op = \"remove\", name = \"X-Region\" }",
            "a later rule undoes",
        ),
        ("name = \"X-Region\"", "name = \"Set-Cookie\"", "the same cookie is set for every viewer"),
    ] {
        let found = hints(from, to);
        assert!(
            found.contains(wanted) && found.contains(films) && found.contains("mend: "),
            "{to}: {found}"
        );
    }
    // The example shows how it is done: what it does not say, it does not need.
    let all = hints("a", "a");
    assert!(!all.contains("never reached") && !all.contains("undoes"), "{all}");
}
