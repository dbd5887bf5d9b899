//! The page docs/reference/conformance.md, rendered from the table.

use crate::Case;
use std::fmt::Write as _;
use std::path::Path;

const HEAD: &str = "\
# Conformance

Rendered from the table of `tests/e2e/tests/conformance`; do not edit. Each row is a case that runs through an edge and
a parent in every test run: what the origin answers, what clients ask, what both see. A row holds, or the verdict says
what this cache does instead on purpose: then the case asserts that. All are run over HTTP/1.1, HTTP/2 and HTTP/3 (but those
that speak of what HTTP/1.1 alone has).

To render it again: `TIDEGATE_WRITE=1 cargo test -p tidegate-e2e --test conformance page`.
";

/// What the table's form cannot say.
const TAIL: &str = "
## While a body comes

Proven by `tests/e2e/tests/stale_body.rs`, which holds a body back.

| RFC, section | case | verdict |
|---|---|---|
| [9111, 4](https://www.rfc-editor.org/rfc/rfc9111#section-4) | \
requests that wait for the head share the answer, whatever its lifetime | holds |
| [9111, 4.2.4](https://www.rfc-editor.org/rfc/rfc9111#section-4.2.4) | \
an answer that is stale before its end has come is asked about by who comes later | holds |
| [9111, 4.2.4](https://www.rfc-editor.org/rfc/rfc9111#section-4.2.4) | \
the same, without a validator | on purpose: nobody can be asked whether it is good; who comes \
until its end shares it, rather than have it brought once more beside itself |
";

/// The address of a section, for the documents that have one.
fn link(place: &str) -> String {
    match place.split_once(' ') {
        Some((rfc, section)) if rfc.bytes().all(|b| b.is_ascii_digit()) => {
            format!("[{rfc}, {section}](https://www.rfc-editor.org/rfc/rfc{rfc}#section-{section})")
        }
        _ => place.to_owned(),
    }
}

pub fn render(table: &[(&'static str, Vec<Case>)]) -> String {
    let mut page = HEAD.to_owned();
    let all = || table.iter().flat_map(|(_, cases)| cases);
    let purposely = all().filter(|case| case.on_purpose.is_some()).count();
    // Writing to a String cannot fail.
    let _ = write!(page, "\n{} cases, {purposely} of them otherwise on purpose.\n", all().count());
    for (title, cases) in table {
        let _ = write!(page, "\n## {title}\n\n| RFC, section | case | verdict |\n|---|---|---|\n");
        for case in cases {
            let verdict = match case.on_purpose {
                None => "holds".to_owned(),
                Some(why) => format!("on purpose: {why}"),
            };
            let _ = writeln!(page, "| {} | {} | {verdict} |", link(case.place), case.rule);
        }
    }
    page.push_str(TAIL);
    page
}

#[test]
fn the_page_is_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/conformance.md");
    let page = render(&crate::table());
    if std::env::var_os("TIDEGATE_WRITE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "docs/reference/conformance.md is out of date; its head says the mend"
    );
}
