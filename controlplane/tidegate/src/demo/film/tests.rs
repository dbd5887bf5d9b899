//! The ladder, the command, the recipe and the playlist are pure: table tests; one run of the real ffmpeg
//! makes a tiny film when ffmpeg is installed.

use super::*;

fn heights(source: u32) -> Vec<u32> {
    ladder(source).iter().map(|r| r.height).collect()
}

#[test]
fn a_ladder_has_four_rungs_and_does_not_grow_the_picture() {
    assert_eq!(heights(720), [240, 360, 480, 720]);
    assert_eq!(heights(2160), [240, 360, 480, 720]);
    assert_eq!(heights(480), [180, 240, 360, 480]);
    assert_eq!(heights(361), [144, 180, 240, 360]);
    assert_eq!(heights(40), [72, 96, 120, 144]);
    for source in 2..3000 {
        let rungs = ladder(source);
        assert_eq!(rungs.len(), RUNGS, "source {source}");
        assert!(rungs.windows(2).all(|w| w[0].height < w[1].height && w[0].kbps <= w[1].kbps));
        assert!(rungs.iter().all(|r| r.height % 2 == 0));
        let top = rungs[RUNGS - 1].height;
        assert!(top <= source || top == 144, "source {source} grew to {top}");
    }
}

fn built_in() -> Source {
    Source::BuiltIn { seconds: 60, height: 720 }
}

fn arguments(source: &Source) -> Vec<String> {
    ffmpeg_arguments(source, &ladder(720), Path::new("/font.ttf"))
}

#[test]
fn sound_is_mapped_only_when_there_is_some() {
    let facts = |sound| Facts { width: 1280, height: 720, seconds: 9.0, sound };
    let file = |sound| Source::File { path: "/a film.mp4".into(), facts: facts(sound) };
    let mute = arguments(&file(false)).join(" ");
    assert!(!mute.contains("agroup") && !mute.contains("a:0"), "{mute}");
    let loud = arguments(&file(true));
    assert!(loud.contains(&"0:a:0".to_string()) && loud.contains(&"/a film.mp4".to_string()));
}

#[test]
fn equal_recipes_have_equal_versions_and_any_change_has_another() {
    let one = recipe(&built_in(), &arguments(&built_in())).unwrap();
    let same = recipe(&built_in(), &arguments(&built_in())).unwrap();
    let longer = Source::BuiltIn { seconds: 61, height: 720 };
    let other = recipe(&longer, &arguments(&longer)).unwrap();
    assert_eq!(version(&one), version(&same));
    assert_ne!(version(&one), version(&other));
    assert_eq!(version(&one).len(), 16);
}

#[test]
fn the_master_playlist_points_into_the_version() {
    let master = "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,URI=\"audio/index.m3u8\"\n\
                  #EXT-X-STREAM-INF:BANDWIDTH=1\n240p/index.m3u8\n\n";
    assert_eq!(
        versioned_master(master, "v1"),
        "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,URI=\"v1/audio/index.m3u8\"\n\
         #EXT-X-STREAM-INF:BANDWIDTH=1\nv1/240p/index.m3u8\n\n"
    );
}

#[test]
fn what_is_no_film_is_refused_with_a_reason() {
    let cases: [(&str, &str); 5] = [
        ("{", "no JSON"),
        ("{}", "no moving picture"),
        (
            r#"{"streams":[{"codec_type":"video","disposition":{"attached_pic":1}}]}"#,
            "no moving picture",
        ),
        (r#"{"streams":[{"codec_type":"video","width":2,"height":2}]}"#, "how long"),
        (
            r#"{"streams":[{"codec_type":"video","width":2,"height":2}],"format":{"duration":"0.5"}}"#,
            "lasts 0.5 s",
        ),
    ];
    for (json, reason) in cases {
        let error = facts(json.as_bytes()).unwrap_err();
        assert!(error.contains(reason), "{json}: {error}");
    }
    let json = r#"{"streams":[{"codec_type":"video","width":640,"height":360},{"codec_type":"audio"}],
                   "format":{"duration":"12.5"}}"#;
    let good = facts(json.as_bytes()).unwrap();
    assert_eq!(good, Facts { width: 640, height: 360, seconds: 12.5, sound: true });
}

#[test]
fn progress_lines_are_read_and_others_passed_over() {
    assert_eq!(progress_seconds("out_time_us=1500000"), Some(1.5));
    assert_eq!(progress_seconds("out_time_us=N/A"), None);
    assert_eq!(progress_seconds("out_time_us=-9"), Some(0.0));
    assert_eq!(progress_seconds("frame=1"), None);
}
